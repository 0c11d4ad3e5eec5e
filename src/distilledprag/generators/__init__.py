"""Parameter generators: documents in, what the LLM needs to answer about them out."""
