"""The `dprag` command: main.py declares the commands, the other files run them."""
