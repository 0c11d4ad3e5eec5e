"""Optimizers: matrices are orthogonalised, the rest is AdamW; schedules have the shapes they are named for."""

import pytest
import torch
from torch import nn

from distilledprag.distillation.optimizers import MuonWithAdamW, build_optimizer, build_schedule, orthogonalise


@pytest.mark.parametrize("shape", [(8, 8), (16, 4), (4, 16), (3, 8, 4)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.5 and values.max() < 1.3


def test_muon_takes_matrices_and_leaves_embeddings_and_vectors_to_adamw():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = build_optimizer(model, "muon", lr=0.001, matrix_lr=0.02)
    assert isinstance(optimizer, MuonWithAdamW)
    matrices, others = optimizer.param_groups
    assert [tuple(p.shape) for p in matrices["params"]] == [(4, 4)] and matrices["lr"] == 0.02
    assert len(others["params"]) == 4 and others["lr"] == 0.001
    assert type(build_optimizer(model, "adamw", lr=0.001)) is torch.optim.AdamW


def steps(model, optimizer, schedule, gradients):
    for seed in gradients:
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(10 * seed + number))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def made():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = build_optimizer(model, "muon", lr=0.001, matrix_lr=0.02, weight_decay=0.1)
    return model, optimizer, build_schedule(optimizer, "polynomial", steps=8)


def test_the_adamw_part_follows_the_schedule_as_torch_adamw_does():
    model, optimizer, schedule = made()
    reference = nn.LayerNorm(4)
    adamw = torch.optim.AdamW(reference.parameters(), lr=0.001, betas=(0.9, 0.98), weight_decay=0.1)
    reference_schedule = build_schedule(adamw, "polynomial", steps=8)
    steps(model, optimizer, schedule, range(5))
    for seed in range(5):
        for number, parameter in enumerate(reference.parameters(), start=2):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(10 * seed + number))
        adamw.step()
        reference_schedule.step()
    assert torch.equal(model[1].weight, reference.weight) and torch.equal(model[1].bias, reference.bias)


def test_a_saved_and_loaded_optimizer_goes_on_as_if_it_had_not_stopped():
    whole, broken = made(), made()
    steps(*whole, range(6))
    steps(*broken, range(3))
    again = made()
    again[0].load_state_dict(broken[0].state_dict())
    again[1].load_state_dict(broken[1].state_dict())
    again[2].load_state_dict(broken[2].state_dict())
    steps(*again, range(3, 6))
    for ours, theirs in zip(again[0].parameters(), whole[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


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
    values = _curve("polynomial", warmup_ratio=0.1)
    assert values[0] == pytest.approx(0.1) and values[9] == pytest.approx(1.0)
    assert values[55] == pytest.approx(1 - 0.99 * 45 / 90) and values[99] == pytest.approx(0.021, abs=0.002)


def test_trapezoid_schedule_stays_up_until_the_decay():
    values = _curve("trapezoid", warmup_ratio=0.1, decay_ratio=0.3)
    assert values[20] == values[69] == 1.0 and values[85] == pytest.approx(1 - 0.99 * 15 / 30)
