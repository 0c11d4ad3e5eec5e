"""The frozen base LLM: where its parts are, its mask tokens, the default one, and `prepare-base`."""
