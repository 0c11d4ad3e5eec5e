"""The trusted side as a server: keeps the documents, sends the untrusted engine masks and adapters, answers clients.

    client --HTTP--> application --> chat --> answering --+--> documents.store   passages for the question
                                                          +--> adapter_cache     passages -> state adapter, once
                                                          +--> engine_client     the only door to the engine, behind the guard

application.py      one ASGI application; the page and /health
chat.py             /v1/models, /v1/chat/completions: a chat request -> what is asked -> an answer in OpenAI's form
document_routes.py  /v1/documents, /v1/collections, /v1/search; where uploads wait to be read
answering.py        one question, from passages to answer
quotes.py           may the user's own words be sent?
adapter_cache.py    adapters by content hash: made once, uploaded once, refreshed
guard/              what may leave, decided on the bytes themselves
engine_client.py    requests to the engine, each through the guard

HTTP is all that is between gateway and engine: nothing of the engine's code is imported here.
"""
