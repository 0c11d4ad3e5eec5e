"""What may leave this machine, decided on the bytes themselves just before they are sent.

words.py       texts -> words, runs of words, rare words
views.py       the texts that bytes may hide: UTF-8, UTF-16, JSON escapes, percent, base64, hexadecimal
protected.py   Protected: what must not leave (of the retrieved passages), less what the user's own words contain
clearance.py   one clearance for each kind of request: checks method, path and body
quotes.py      does the user's own text repeat a document word for word?

The guard does not trust the code that builds requests and shares nothing with it but the tokenizer. It fails closed: without
a clearance, or when a check raises, nothing is sent. It knows nothing of HTTP libraries, adapters' making or the vault.
"""

from distilledprag.gateway.guard.clearance import (
    AdapterClearance,
    BareClearance,
    Clearance,
    PlainTextClearance,
    PromptClearance,
    RemovalClearance,
)
from distilledprag.gateway.guard.protected import Protected
from distilledprag.gateway.guard.quotes import longest_quote

__all__ = [
    "AdapterClearance",
    "BareClearance",
    "Clearance",
    "PlainTextClearance",
    "PromptClearance",
    "Protected",
    "RemovalClearance",
    "longest_quote",
]
