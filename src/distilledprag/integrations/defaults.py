"""Where `dprag serve` and `dprag gateway` listen, and the model's name there."""

BASE_URL = "http://127.0.0.1:8080/v1"
MODEL = "distilledprag"
