"""What may leave this machine, decided on the bytes themselves just before they are sent.

words.py       texts -> words, runs of words, rare words
views.py       the texts that bytes may hide: UTF-8, UTF-16, UTF-32, JSON escapes, percent, base64, hexadecimal
numbers.py     token ids among raw numbers
sources.py     what the frame of a prompt and the user's own words allow
protected.py   Protected: what must not leave (of the retrieved passages), less what is allowed
clearance.py   one clearance for each kind of request: checks method, path and body
quotes.py      does the user's own text repeat a document word for word?

The guard does not trust the code that builds requests: it shares nothing with it but the tokenizer, and what it compares with
is made from the user's messages and from prompts that were built before any document was read (`gateway/expected.py`). It fails
closed: without a clearance, or when a check raises, nothing is sent. It is there for faults of the program. A generator that was
made to hide text in its numbers can, in ways that no look at the numbers finds.

Knows nothing of HTTP libraries, adapters' making or the store.
"""

from distilledprag.gateway.guard.clearance import (
    AdapterClearance,
    AnswerSettings,
    BareClearance,
    Clearance,
    Masks,
    PlainTextClearance,
    PromptClearance,
    RemovalClearance,
)
from distilledprag.gateway.guard.protected import Protected
from distilledprag.gateway.guard.quotes import longest_quote
from distilledprag.gateway.guard.sources import Sources

__all__ = [
    "AdapterClearance",
    "AnswerSettings",
    "BareClearance",
    "Clearance",
    "Masks",
    "PlainTextClearance",
    "PromptClearance",
    "Protected",
    "RemovalClearance",
    "Sources",
    "longest_quote",
]
