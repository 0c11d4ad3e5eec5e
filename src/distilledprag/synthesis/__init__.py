"""Training data: question-answer pairs from an LLM, or from the offline record world."""
