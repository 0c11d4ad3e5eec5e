"""Question and passages -> open prompt (teacher, RAG) and masked prompt (student), token for token aligned.

plain_text.py   text -> token ids; text from outside can never become a control token
chat.py         what the tokenizer's chat template writes around the messages
builder.py      PromptBuilder: the prompts of the method
"""

from distilledprag.prompts.builder import Prompt, PromptBuilder

__all__ = ["Prompt", "PromptBuilder"]
