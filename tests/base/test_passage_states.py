"""A passage's states are those of a run over its whole prompt, whoever else is in the batch and however long it is."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, family_model
from tiny import tiny_tokenizer

from distilledprag.base.architecture import decoder_layers, hidden_after
from distilledprag.base.llm import LONG, BaseLLM, PassageEncoder
from distilledprag.base.masks import install_mask
from distilledprag.errors import InputError
from distilledprag.lora.identity import BaseIdentity
from distilledprag.prompts import PromptBuilder

ANNA = "Anna Tovberg lives in Oakport and works for Velkor Foods as a baker; she earns $46,000 a year."
TEXTS = [ANNA, "Bram.", "", f"{ANNA} The rent is $1,249.50 a month. He lives in Dunburg with his wife."]
WINDOW = {"sliding_window": 12}
SETTINGS = {
    **{name: (name, {}) for name in FAMILIES},
    "mistral, a window": ("mistral", WINDOW),
    "gemma2, windows": ("gemma2", WINDOW),
    "gemma3, windows": ("gemma3", {**WINDOW, "sliding_window_pattern": 2}),
    "qwen2, windows": ("qwen2", {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "phi3, a window": ("phi3", WINDOW),
    "phi3, other angles for long texts": (
        "phi3",
        {
            "original_max_position_embeddings": 90,
            "rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4},
        },
    ),
    "llama, angles that follow the length": ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}),
    "llama 3's angles": (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128,
            }
        },
    ),
}  # fmt: skip


def base_of(family: str, settings: dict, seed: int = 0) -> BaseLLM:
    tokenizer = tiny_tokenizer()
    model = family_model(family, tokenizer, seed, **settings)
    index = install_mask(model, tokenizer, seed=0)
    return BaseLLM(model.requires_grad_(False).eval(), tokenizer, index, BaseIdentity.of(model, index, family), family)


def encoder_of(base: BaseLLM) -> PassageEncoder:
    return PassageEncoder(base, PromptBuilder(base.tokenizer, base.mask_token_id))


@pytest.fixture(scope="module", params=SETTINGS)
def base(request) -> BaseLLM:
    return base_of(*SETTINGS[request.param])


@pytest.fixture(scope="module")
def llama() -> BaseLLM:
    return base_of("llama", {})


def of_whole_prompts(base: BaseLLM, texts: list[str], layers: list[int]) -> dict[int, dict[str, torch.Tensor]]:
    """Each passage by itself, opening and passage in one run."""
    prompts, found = PromptBuilder(base.tokenizer, base.mask_token_id), {layer: {} for layer in layers}
    for text in texts:
        built = prompts.context([text])
        with torch.inference_mode():
            hidden = hidden_after(base.model, layers, input_ids=torch.tensor([built.open_ids]))
        for layer in layers:
            found[layer][text] = hidden[layer][0][torch.tensor(built.is_document)]
    return found


def furthest(one: dict[int, dict[str, torch.Tensor]], other: dict[int, dict[str, torch.Tensor]]) -> float:
    """The largest difference of two values."""
    assert {layer: {text: rows.shape for text, rows in found.items()} for layer, found in one.items()} == {
        layer: {text: rows.shape for text, rows in found.items()} for layer, found in other.items()
    }
    return max(
        float((rows - other[layer][text]).abs().max())
        for layer, found in one.items()
        for text, rows in found.items()
        if len(rows)
    )


def tokens_run(base: BaseLLM) -> list[tuple[int, ...]]:
    """Filled with the shape of each batch of tokens that the first layer is given."""
    shapes: list[tuple[int, ...]] = []
    decoder_layers(base.model)[0].register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape[:2])))
    return shapes


def test_states_are_those_of_a_run_over_the_whole_prompt_in_every_family_and_batch(base):
    encoder = encoder_of(base)
    wanted = of_whole_prompts(base, TEXTS, [0, 2])
    assert furthest(encoder.states(encoder.tokenized(TEXTS), [0, 2]), wanted) < 1e-5
    alone = {layer: {} for layer in (0, 2)}
    for text in reversed(TEXTS):
        for layer, found in encoder.states(encoder.tokenized([text]), [0, 2]).items():
            alone[layer] |= found
    assert furthest(alone, wanted) < 1e-5


def test_states_of_long_passages_are_those_of_a_run_over_the_whole_prompt(base):
    texts = [" ".join([ANNA] * 11), ANNA]
    encoder = encoder_of(base)
    assert len(encoder.tokenized(texts)[texts[0]]) > LONG
    assert furthest(encoder.states(encoder.tokenized(texts), [2]), of_whole_prompts(base, texts, [2])) < 1e-5


def test_the_opening_is_run_once_and_again_only_for_higher_layers(llama):
    base = base_of("llama", {})
    encoder, shapes = encoder_of(base), tokens_run(base)
    opening = len(PromptBuilder(base.tokenizer, base.mask_token_id).context([""]))
    tokens = encoder.tokenized([ANNA, "Bram."])
    own = (2, len(tokens[ANNA]))
    encoder.states(tokens, [1])
    encoder.states(tokens, [1])
    encoder.states(tokens, [0])
    assert shapes == [(1, opening), own, own, own]
    higher = encoder.states(tokens, [0, 2])
    encoder.states(tokens, [1])
    assert shapes[4:] == [(1, opening), own, own]
    assert furthest(higher, of_whole_prompts(llama, [ANNA, "Bram."], [0, 2])) < 1e-5


def test_the_opening_of_another_base_or_precision_is_not_read(llama):
    other, wide = base_of("llama", {}, seed=1), base_of("llama", {})
    for base in (llama, other):
        encoder = encoder_of(base)
        assert furthest(encoder.states(encoder.tokenized([ANNA]), [2]), of_whole_prompts(base, [ANNA], [2])) < 1e-5
    encoder = encoder_of(wide)
    tokens = encoder.tokenized([ANNA])
    encoder.states(tokens, [2])
    wide.model.double()
    assert furthest(encoder.states(tokens, [2]), of_whole_prompts(wide, [ANNA], [2])) < 1e-12


def test_states_hold_no_more_memory_than_they_have_values(llama):
    encoder = encoder_of(llama)
    for text, rows in encoder.states(encoder.tokenized(TEXTS), [2])[2].items():
        assert rows.untyped_storage().nbytes() == rows.nbytes, text


def test_passages_without_a_token_have_no_states(llama):
    encoder = encoder_of(llama)
    found = encoder.states(encoder.tokenized(["", " \n"]), [1])[1]
    assert {text: tuple(rows.shape) for text, rows in found.items()} == {"": (0, 32), " \n": (0, 32)}


def test_a_passage_that_is_longer_with_its_prompt_than_the_base_reads_is_refused(llama):
    encoder = encoder_of(llama)
    tokens = encoder.tokenized([" ".join([ANNA] * 90)])
    with pytest.raises(InputError, match=r"a passage with its prompt has \d+ tokens; the base reads 2048: split it"):
        encoder.states(tokens, [1])
