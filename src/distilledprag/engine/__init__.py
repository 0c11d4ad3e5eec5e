"""The untrusted side as a server: the base LLM, adapters that strangers send, and masked prompts. OpenAI-compatible.

failures.py   what a request can be refused for
job.py        one answer to be written: its whole state
queue.py      waiting jobs, bounded, fair between keys
backend.py    what serves jobs: the protocol (the seam for other servers than ours)
batch.py      the rows that decode together: caches of different lengths, an adapter per row
sampling.py   logits -> tokens
embedded.py   the backend in this process: transformers, rows join and leave at every step
text.py       requests -> token ids; token ids -> text, piece by piece
adapters.py   accepted adapters: in memory, bound to their owner, with an end
service.py    all of these together
web/          HTTP

Knows nothing of documents, passages or generators; a test holds that.
"""
