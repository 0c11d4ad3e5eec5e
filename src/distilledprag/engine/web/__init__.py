"""The engine over HTTP.

schemas.py       OpenAI's requests, as far as they are served
bodies.py        reading a body that a stranger sends: bounded in bytes and time
turns.py         long work in other threads, one piece of each key at a time
observing.py     one JSON log line a request, metrics
shell.py         around every request: id, key, pages of other origins, errors, observation
answering.py     a job's events within the event loop; a client that leaves
completions.py   /v1/completions, /v1/chat/completions
adapters.py      /v1/adapters
application.py   all of it as one ASGI application; /v1/models, /health, /metrics
"""
