"""The trusted side as a server: keeps the documents, sends the untrusted engine masks and adapters, answers clients.

    client --HTTP--> application --> answering --+--> store       passages for the question (SQLite, on this machine)
                                                 +--> adapters    passages -> state adapter, once
                                                 +--> guard       looks at every byte before it leaves
                                                 +--> outbound    the only door to the engine

failures.py      what can go wrong, with its HTTP status
store/           documents and their search, in one SQLite file
guard/           what may leave, decided on the bytes themselves
outbound/        requests to the engine, each through the guard
adapters.py      adapters by content hash: made once, uploaded once, refreshed
conversation.py  a chat request -> question, history, mode
answering.py     one question from passages to answer
web/             the HTTP interface and the page

Knows nothing of how the engine works: HTTP is all that is between them.
"""
