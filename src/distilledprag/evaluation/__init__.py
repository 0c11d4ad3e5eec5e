"""Measuring answers: methods, metrics, benchmarks, runs and reports."""
