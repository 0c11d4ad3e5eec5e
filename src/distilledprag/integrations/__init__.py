"""Chat models of other frameworks that ask a gateway over HTTP. Each needs its extra and loads nothing else of this package."""

BASE_URL = "http://127.0.0.1:8080/v1"  # where `dprag serve` and `dprag gateway` listen
MODEL = "distilledprag"  # the model's name there
DETAILS = "distilledprag"  # the field with what the gateway adds to an answer
