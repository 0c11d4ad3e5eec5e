"""`python -m distilledprag` is `dprag`."""

from distilledprag.cli.main import main

main()
