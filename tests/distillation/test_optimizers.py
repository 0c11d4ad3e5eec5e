"""Optimizers: matrices are orthogonalised, the rest is AdamW; schedules have the shapes they are named for."""

import pytest
import torch
from torch import nn

from distilledprag.distillation.optimizers import Muon, build_optimizer, build_schedule, orthogonalise


@pytest.mark.parametrize("shape", [(8, 8), (16, 4), (4, 16), (3, 8, 4)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.5 and values.max() < 1.3


def test_muon_takes_matrices_and_leaves_embeddings_and_vectors_to_adamw():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = build_optimizer(model, "muon", lr=0.001, matrix_lr=0.02)
    assert isinstance(optimizer, Muon)
    matrices, others = optimizer.param_groups
    assert [tuple(p.shape) for p in matrices["params"]] == [(4, 4)]
    assert len(others["params"]) == 4 and others["adamw"]


def test_the_adamw_part_of_muon_equals_torch_adamw():
    torch.manual_seed(0)
    start, gradients = torch.randn(5), [torch.randn(5) for _ in range(4)]
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    a = Muon([{"params": [ours], "lr": 0.01, "adamw": True}], weight_decay=0.1)
    b = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        a.step()
        b.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def _curve(name, **options):
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    schedule = build_schedule(optimizer, name, steps=100, **options)
    values = []
    for _ in range(100):
        values.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return values


def test_polynomial_schedule_warms_up_and_falls_linearly_to_a_hundredth():
    values = _curve("polynomial", warmup=0.1)
    assert values[0] == pytest.approx(0.1) and values[9] == pytest.approx(1.0)
    assert values[55] == pytest.approx(1 - 0.99 * 45 / 90) and values[99] == pytest.approx(0.021, abs=0.002)


def test_trapezoid_schedule_stays_up_until_the_decay():
    values = _curve("trapezoid", warmup=0.1, decay=0.3)
    assert values[20] == values[69] == 1.0 and values[85] == pytest.approx(1 - 0.99 * 15 / 30)
