"""Training: the base LM that ships with the package, and the distillation of parameter generators."""
