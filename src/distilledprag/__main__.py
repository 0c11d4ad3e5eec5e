"""`python -m distilledprag` is `dprag`."""

from distilledprag.cli import main

main()
