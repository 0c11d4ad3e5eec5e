"""The `dprag` command: main.py declares the commands, one file each runs them."""
