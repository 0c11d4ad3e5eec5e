"""What both servers share over HTTP, and nothing of either.

errors.py      what a request can be refused for; errors in OpenAI's shape
middleware.py  around every request: id, host names and origins, API keys, security headers, errors
bodies.py      request bodies with limits in bytes and time; CPU work off the event loop, one piece of a key at a time
openai.py      OpenAI's chat schema and the shapes of its answers
listening.py   sockets, uvicorn, connections that bring no request
"""
