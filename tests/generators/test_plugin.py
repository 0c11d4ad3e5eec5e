"""A generator is one file: its settings, its module and its registration."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from pairs import write_pairs

from distilledprag.distillation.generator_training import train_generator
from distilledprag.distillation.recipes import DistillRecipe
from distilledprag.errors import ConfigError
from distilledprag.evaluation.methods import METHODS, Question, Setting
from distilledprag.generators import build_generator, load_generator
from distilledprag.prompts import PromptBuilder

PLUGIN = '''
from typing import Literal

import torch
from torch import nn

from distilledprag.generators.document_states import DocumentStates, base_document_states
from distilledprag.generators.interface import GeneratorSettings, ParameterGenerator, adapter_modules, adapter_sizes, register
from distilledprag.lora.weights import LoraBatch


class MeanSettings(GeneratorSettings):
    architecture: Literal["plugin_mean"] = "plugin_mean"
    gain: float = 1.0


@register(MeanSettings)
class MeanGenerator(ParameterGenerator):
    """The mean of the document's states, one linear map a module."""

    reads_base = True

    def __init__(self, settings, base):
        super().__init__(settings, base)
        self.modules_of_base, self.sizes = adapter_modules(base, settings), adapter_sizes(base, settings)
        width = base.model.config.hidden_size
        self.center = nn.Parameter(torch.zeros(width))
        self.maps = nn.ModuleDict({
            name: nn.Linear(width, settings.rank * sum(size)) for name, size in self.sizes.items()
        })

    def initialise(self, documents):
        self.center.data = documents.states[-1][documents.mask].mean(dim=0)

    def encode(self, base, passages):
        return base_document_states(base, self.prompts, passages)

    def forward(self, documents: DocumentStates) -> LoraBatch:
        weights = documents.mask.float() / documents.mask.sum(dim=1, keepdim=True)
        mean = (documents.states[-1] * weights[..., None]).sum(dim=1) - self.center
        modules, rank = {}, self.settings.rank
        for key, _, name in self.modules_of_base:
            d_in, d_out = self.sizes[name]
            flat = self.maps[name](mean) * self.settings.gain
            modules[key] = (flat[:, : rank * d_in].unflatten(-1, (rank, d_in)),
                            flat[:, rank * d_in :].unflatten(-1, (d_out, rank)))
        return LoraBatch(modules, self.settings.alpha / rank)
'''
SETTINGS = {"architecture": "plugin_mean", "gain": 0.5}


def imported(file):
    spec = importlib.util.spec_from_file_location("plugin_mean", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    file = tmp_path_factory.mktemp("plugin") / "plugin_mean.py"
    file.write_text(PLUGIN)
    return imported(file)


def test_a_generator_of_one_file_is_built_saved_and_loaded_by_its_name(plugin, tiny_base, tmp_path):
    generator = build_generator(SETTINGS, tiny_base)
    assert type(generator) is plugin.MeanGenerator and generator.settings.gain == 0.5
    documents = generator.encode(tiny_base, [["Anna lives in Oakport."], ["Bram lives in Dunburg.", "He is a baker."]])
    adapters = generator(documents)
    generator.save_pretrained(tmp_path / "g")
    loaded = load_generator(tmp_path / "g", tiny_base)(documents)
    for key, (a, b) in adapters.modules.items():
        assert torch.equal(loaded.modules[key][0], a) and torch.equal(loaded.modules[key][1], b)
    with pytest.raises(ConfigError, match="gains"):
        build_generator({**SETTINGS, "gains": 1}, tiny_base)


def test_the_trainer_takes_it_as_any_other_and_lets_it_initialise_itself(plugin, tiny_base_folder, tiny_base, tmp_path):
    data = {"files": [write_pairs(tmp_path)], "batch_size": 2, "validation_share": 0.2}
    training = {"steps": 1, "learning_rate": 1e-9, "weight_decay": 0, "tensorboard": False}
    recipe = DistillRecipe(output=tmp_path / "run", base=str(tiny_base_folder), generator=SETTINGS, data=data, training=training)
    train_generator(recipe, quiet=True)
    assert load_generator(tmp_path / "run" / "model", tiny_base).center.abs().max() > 0.01  # zero without `initialise`


def test_it_is_an_evaluation_method_by_its_name(plugin, tiny_base):
    setting = Setting(tiny_base, PromptBuilder(tiny_base.tokenizer, tiny_base.mask_token_id))
    assert {"plugin_mean", "rag_plugin_mean", "shuffled_plugin_mean"} <= METHODS.keys()
    with pytest.raises(ConfigError, match="plugin_mean needs a checkpoint"):
        METHODS["plugin_mean"](setting, [Question("Where?", passages=("Here.",))])


def test_two_generators_cannot_have_one_name(plugin, tmp_path):
    (tmp_path / "other.py").write_text(PLUGIN.replace("MeanGenerator", "OtherGenerator"))
    with pytest.raises(ConfigError, match="two generators are called 'plugin_mean'"):
        imported(tmp_path / "other.py")
