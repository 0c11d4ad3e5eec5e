"""Measuring answers: metrics, the record world's table, and how it is printed."""
