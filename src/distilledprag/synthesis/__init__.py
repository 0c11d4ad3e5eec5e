"""Training data: question-answer pairs from an LLM."""
