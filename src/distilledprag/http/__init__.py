"""What both servers share over HTTP, and nothing of either.

errors.py      what a request can be refused for; errors in OpenAI's shape
middleware.py  around every request: id, host names and origins, API keys, security headers, errors
bodies.py      request bodies with limits in bytes and time; CPU work off the event loop, one piece of a key at a time
openai.py      OpenAI's completions as requests: their schema, and what is refused
answers.py     an answer while it is written, in the shapes of chat and text completions
responses.py   the same for /v1/responses, over the path of chat
listening.py   sockets, uvicorn, connections that bring no request
"""
