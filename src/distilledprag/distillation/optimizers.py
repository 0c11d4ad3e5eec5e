"""Optimizers and learning-rate schedules by name.

`muon` orthogonalises the momentum of every weight matrix (Jordan et al. 2024) and leaves the other parameters to AdamW.
It is our own because PyTorch's computes in bfloat16, which is forty times slower on CPUs without bfloat16 units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

ScheduleName = Literal["polynomial", "trapezoid"]
OptimizerName = Literal["adamw", "muon"]


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Replace the singular values of a (..., rows, columns) matrix by about one (quintic Newton-Schulz iteration)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.size(-2) > matrix.size(-1)
    x = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(Optimizer):
    """Muon for matrices, AdamW for groups marked `adamw` (vectors, embeddings). Learning rates are per group."""

    def __init__(self, groups: Iterable[dict], *, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"lr": 0.02, "momentum": momentum, "weight_decay": weight_decay, "adamw": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = self._adam if group["adamw"] else self._muon
                update(parameter, parameter.grad, self.state[parameter], group)

    @staticmethod
    def _muon(parameter: Tensor, gradient: Tensor, state: dict, group: dict) -> None:
        momentum = state.setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(gradient, 1 - group["momentum"])
        direction = orthogonalise(gradient.lerp(momentum, group["momentum"]))
        scale = max(1.0, parameter.size(-2) / parameter.size(-1)) ** 0.5
        parameter.add_(direction, alpha=-group["lr"] * scale)

    @staticmethod
    def _adam(parameter: Tensor, gradient: Tensor, state: dict, group: dict) -> None:
        if not state:
            state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - 0.9)
        state["square"].lerp_(gradient.square(), 1 - 0.98)
        mean = state["mean"] / (1 - 0.9 ** state["step"])
        square = state["square"] / (1 - 0.98 ** state["step"])
        parameter.add_(mean / (square.sqrt() + 1e-8), alpha=-group["lr"])


def build_optimizer(
    module: nn.Module, name: OptimizerName, *, lr: float, matrix_lr: float = 0.02, weight_decay: float = 0.01
) -> Optimizer:
    """AdamW over all trainable parameters, or Muon over matrices (`matrix_lr`) and AdamW over the rest (`lr`).

    Matrices are the weights of linear layers and what a module names in `matrix_parameters` (stacked matrices too);
    embeddings, biases and norms always belong to the AdamW part.
    """
    matrix_ids = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear)}
    for part in module.modules():
        matrix_ids |= {id(parameter) for parameter in getattr(part, "matrix_parameters", list)()}
    matrix_ids -= {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    trainable = [p for p in module.parameters() if p.requires_grad]
    if name == "adamw":
        return AdamW(trainable, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.98))
    matrices = [p for p in trainable if id(p) in matrix_ids]
    others = [p for p in trainable if id(p) not in matrix_ids]
    groups = [{"params": matrices, "lr": matrix_lr}, {"params": others, "lr": lr, "adamw": True}]
    return Muon([group for group in groups if group["params"]], weight_decay=weight_decay)


def build_schedule(
    optimizer: Optimizer,
    name: ScheduleName,
    *,
    steps: int,
    warmup: float = 0.1,
    decay: float = 0.3,
    floor: float = 0.01,
) -> LambdaLR:
    """`polynomial`: warm-up over a share of the steps, then linear down to `floor` (the paper: 1e-4 -> 1e-6).
    `trapezoid`: warm-up, constant, linear down over the last `decay` share."""
    rise = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        start = rise if name == "polynomial" else round((1 - decay) * steps)
        progress = min(1.0, max(0.0, (step - start) / max(1, steps - start)))
        return 1 - (1 - floor) * progress

    return LambdaLR(optimizer, factor)
