"""Errors a user can cause. Each message says what was wrong and what to do; the command line prints it and exits 1."""


class DistilledPRAGError(ValueError):
    """Base of every error that is the user's to mend (bad input, bad configuration, bad checkpoint)."""


class InputError(DistilledPRAGError):
    """A document, question or data file cannot be used."""


class ConfigError(DistilledPRAGError):
    """A recipe or an option is wrong."""


class CheckpointError(DistilledPRAGError):
    """A base model, generator or adapter on disk cannot be used."""


class IncompatibleBaseError(CheckpointError):
    """An adapter or a generator belongs to another base model than the one loaded."""


class EndpointError(DistilledPRAGError):
    """An LLM behind an endpoint, or a local one, cannot answer: wrong key, address or model, empty account, too many failures."""
