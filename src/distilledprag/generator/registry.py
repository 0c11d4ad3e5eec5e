"""Architectures by name."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from distilledprag.base_model import BaseModel
from distilledprag.errors import ConfigError
from distilledprag.generator.dyprag import DypragSettings, DypragTranslator
from distilledprag.generator.interface import GeneratorSettings, ParameterGenerator
from distilledprag.generator.mask_kind import add_mask_row
from distilledprag.generator.paper import PaperGenerator, PaperSettings
from distilledprag.generator.per_rank import PerRankGenerator, PerRankSettings

ARCHITECTURES: dict[str, tuple[type[GeneratorSettings], type[ParameterGenerator]]] = {
    "dyprag": (DypragSettings, DypragTranslator),
    "paper": (PaperSettings, PaperGenerator),
    "per_rank": (PerRankSettings, PerRankGenerator),
}


def build_generator(settings: dict[str, Any] | GeneratorSettings, base: BaseModel) -> ParameterGenerator:
    """A new generator for `base`. Weights are drawn from torch's global random state.

    Raises ConfigError for an unknown architecture or an unknown or wrong setting, naming it.
    """
    values = settings.model_dump() if isinstance(settings, GeneratorSettings) else dict(settings)
    name = values.get("architecture")
    if name not in ARCHITECTURES:
        raise ConfigError(f"unknown generator architecture {name!r}; choose one of {', '.join(ARCHITECTURES)}")
    settings_type, generator_type = ARCHITECTURES[name]
    try:
        checked = settings_type(**values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"generator settings ({name}): {problems}") from error
    generator = generator_type(checked, base)  # type: ignore[call-arg]
    add_mask_row(generator, base, checked.mask)
    return generator
