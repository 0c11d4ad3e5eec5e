"""The gateway towards its clients: HTTP and the page.

access.py       who may ask: keys, Host and Origin
shell.py        the outermost layer: access, security headers, errors without content
chat.py         /v1/models, /v1/chat/completions        documents.py   /v1/documents, /v1/collections
body.py         bodies with a limit                     pages.py       the page and /health
application.py  all of it as one ASGI application       server.py      listening

Knows nothing of how answers are made.
"""
