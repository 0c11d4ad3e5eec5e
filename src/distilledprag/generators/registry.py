"""Architectures by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from distilledprag.base.llm import BaseLLM
from distilledprag.errors import ConfigError
from distilledprag.generators.dyprag import DypragSettings, DypragTranslator
from distilledprag.generators.interface import GeneratorSettings, ParameterGenerator
from distilledprag.generators.mask_kind import add_mask_row
from distilledprag.generators.paper import PaperGenerator, PaperSettings

ARCHITECTURES: dict[str, tuple[type[GeneratorSettings], type[ParameterGenerator]]] = {
    "dyprag": (DypragSettings, DypragTranslator),
    "paper": (PaperSettings, PaperGenerator),
}


def checked_settings(values: Any) -> GeneratorSettings:
    """Settings of the architecture that `values` names.

    Raises ConfigError for an unknown architecture or an unknown or wrong setting, naming it.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"generator settings must be keys and values, such as `architecture: paper`; got {values!r}")
    name = values.get("architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ConfigError(f"unknown generator architecture {name!r}; choose one of {', '.join(ARCHITECTURES)}")
    try:
        return ARCHITECTURES[name][0].model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"generator settings ({name}): {problems}") from error


def build_generator(settings: dict[str, Any] | GeneratorSettings, base: BaseLLM) -> ParameterGenerator:
    """A new generator for `base`. Weights are drawn from torch's global random state. Errors as in `checked_settings`."""
    checked = checked_settings(settings.model_dump() if isinstance(settings, GeneratorSettings) else settings)
    generator = ARCHITECTURES[checked.architecture][1](checked, base)  # type: ignore[call-arg]
    add_mask_row(generator, base, checked.mask)
    return generator
