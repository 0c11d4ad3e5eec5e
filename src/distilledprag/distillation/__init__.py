"""Training: the reader and the joint stage, on real questions over real passages."""
