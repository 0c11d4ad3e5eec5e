"""What each `dprag` command does; cli.py declares them."""
