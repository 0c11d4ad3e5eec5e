"""The only door to the engine. Nothing else in the gateway opens a connection.

transport.py   sends a request when its clearance agrees, and counts the bytes
engine.py      the engine's interface: models, adapters, completions
"""

from distilledprag.gateway.outbound.engine import Completion, EngineClient, UploadedAdapter
from distilledprag.gateway.outbound.transport import SentRequest

__all__ = ["Completion", "EngineClient", "SentRequest", "UploadedAdapter"]
