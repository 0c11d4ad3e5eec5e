"""The untrusted side as a server: the base LLM, adapters that strangers send, and masked prompts. OpenAI-compatible.

application.py    HTTP: /v1/adapters, /v1/models, /health, /metrics and one log line a request, put together with the routes of
completions.py    /v1/completions, /v1/chat/completions and /v1/responses, whole and streamed
service.py        the engine without HTTP: checks adapters, queues jobs
tokenization.py   requests -> token ids; token ids -> text, piece by piece; answers that must be JSON of a schema
adapter_store.py  accepted adapters: in memory, bound to their key, with a lifetime
jobs.py           one answer to be written, and the queue, fair between keys
backend.py        what serves jobs: the protocol, and transformers in this process
batch.py          the rows that decode together: caches, an adapter per row, sampling
vllm_backend.py   the other backend: jobs for a vLLM that only this engine can reach
vllm_server.py    vLLM's process, and its routes as the engine uses them
vllm_adapters.py  adapters as files in memory, and which of them vLLM holds

It imports nothing of documents, passages, generators or the gateway; a test holds that.
"""
