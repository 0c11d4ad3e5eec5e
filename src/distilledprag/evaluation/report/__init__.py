"""Runs of `dprag evaluate RECIPE` -> one report, markdown and HTML."""

from distilledprag.evaluation.report.write import write_report

__all__ = ["write_report"]
