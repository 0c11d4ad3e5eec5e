"""What both servers need: keys, and listening. Knows neither of them."""
