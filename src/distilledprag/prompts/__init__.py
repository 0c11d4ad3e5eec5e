"""Question and passages -> open prompt (teacher, RAG) and masked prompt (student), token for token aligned.

token_ids.py   text -> token ids; text from outside can never become a control token, what the chat template writes can
builder.py     PromptBuilder: the prompts of the method
"""

from distilledprag.prompts.builder import Prompt, PromptBuilder

__all__ = ["Prompt", "PromptBuilder"]
