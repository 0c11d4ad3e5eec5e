"""What an adapter gives away to the base model's embeddings, and that it does not give away the order."""

from __future__ import annotations

import pytest
import torch

from distilledprag.lora.batch import LoraBatch
from distilledprag.lora.injection import inject
from distilledprag.lora.weights import LoraPair, LoraWeights
from distilledprag.pipeline import DistilledPRAG
from distilledprag.privacy.nearest_embedding import most_recovered, nearest_tokens, recovered

PASSAGES = [
    "Ingrid Lindovic works for Velkor Freight. Ingrid Lindovic lives in Dunmouth and her salary is $48,200 a year.",
    "Velkor Freight has its head office in Oakport. The chief executive of Velkor Freight is Hugo Tovberg.",
]


@pytest.fixture(scope="module")
def prag():
    return DistilledPRAG.from_pretrained()


def test_shares_count_tokens_once_each_and_runs_of_three():
    assert recovered([1, 2, 3, 9], [[1, 2, 3, 4, 1]]) == (3 / 5, 1 / 3)
    assert recovered([3, 2, 1], [[1, 2, 3]]) == (1.0, 0.0)
    with pytest.raises(ValueError, match="tokens"):
        recovered([1], [[]])


def test_an_adapter_that_writes_embeddings_is_read_whole(tiny_base):
    document = [300, 17, 954, 2001]
    rows = tiny_base.model.get_input_embeddings().weight[document].detach()
    width, units = tiny_base.model.config.hidden_size, tiny_base.model.config.intermediate_size
    pair = LoraPair(torch.zeros(4, units), -2 * rows.mT.contiguous())
    weights = LoraWeights({"layers.1.mlp.down_proj": pair}, 4.0, tiny_base.identity, "")
    assert rows.shape == (4, width)
    assert nearest_tokens(weights, tiny_base.model) == {"layers.1.mlp.down_proj": document}
    assert most_recovered(weights, tiny_base.model, [document]) == (1.0, 1.0)


def test_an_exported_adapter_does_what_it_did_and_has_lost_the_order(prag):
    (in_order,) = prag._generate(PASSAGES).unstack(prag.base.identity, "")
    in_order, exported = in_order.without_idle_ranks(), prag.encode(PASSAGES)
    prompt = torch.tensor([prag.prompts.build("Who leads Velkor Freight?", PASSAGES).masked_ids])
    logits = []
    for weights in (in_order, exported):
        with torch.no_grad(), inject(prag.base.model, LoraBatch.stack([weights])):
            logits.append(prag.base.model(input_ids=prompt).logits)
    assert torch.allclose(*logits, atol=1e-3)
    context = prag.prompts.context(PASSAGES)
    document = [token for token, inside in zip(context.open_ids, context.is_document, strict=True) if inside]
    before, after = (most_recovered(weights, prag.base.model, [document]) for weights in (in_order, exported))
    assert before.runs > 0.3  # the attack works where the order is left
    assert after.runs < 0.05
    assert after.tokens == before.tokens > 0.5  # the words themselves can still be read: the documentation says so


def test_equal_passages_give_equal_adapters_and_others_another_order(prag):
    assert prag.encode(PASSAGES).to_bytes() == prag.encode(PASSAGES).to_bytes()
    one, two = (prag.encode(passages) for passages in (PASSAGES, PASSAGES[::-1]))
    assert one.to_bytes() != two.to_bytes()
