"""Optimizers and learning-rate schedules by name.

`muon` orthogonalises the momentum of every weight matrix (Jordan et al. 2024) and leaves the other parameters to torch's AdamW.
Muon is our own because PyTorch's takes no stacks of matrices and computes in bfloat16, which is forty times slower on CPUs
without bfloat16 units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

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
    x: Tensor = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result


class Muon(Optimizer):
    """Momentum, orthogonalised, for weight matrices (or stacks of them). Learning rates are per group."""

    def __init__(self, parameters: Iterable[Any], *, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                direction = orthogonalise(parameter.grad.lerp(momentum, group["momentum"]))
                scale = max(1.0, parameter.size(-2) / parameter.size(-1)) ** 0.5
                parameter.add_(direction, alpha=-group["lr"] * scale)


class MuonWithAdamW(Optimizer):
    """One optimizer to the training loop: Muon for matrices and torch's AdamW for all other parameters.

    The two share their groups with this one, so a schedule that sets the groups' learning rates sets theirs.
    """

    def __init__(self, muon: Muon, adamw: AdamW) -> None:
        self.parts = {"muon": muon, "adamw": adamw}
        super().__init__(self._groups(), {})

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts.values() for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of both."""
        assert closure is None
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both, under `muon` and `adamw`."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups = self._groups()


def build_optimizer(
    module: nn.Module,
    name: OptimizerName,
    *,
    lr: float,
    matrix_lr: float = 0.02,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.98),
) -> Optimizer:
    """AdamW over all trainable parameters, or Muon over matrices (`matrix_lr`) and AdamW over the rest (`lr`).

    Matrices are the weights of linear layers and what a module names in `matrix_parameters` (stacked matrices too);
    embeddings, biases and norms always belong to the AdamW part.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    matrix_ids = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear)}
    for part in module.modules():
        matrix_ids |= {id(parameter) for parameter in getattr(part, "matrix_parameters", list)()}
    matrix_ids -= {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    matrices = [p for p in trainable if id(p) in matrix_ids] if name == "muon" else []
    others = [p for p in trainable if all(p is not matrix for matrix in matrices)]
    if not matrices:
        return AdamW(others, lr=lr, weight_decay=weight_decay, betas=betas)
    muon = Muon(matrices, lr=matrix_lr, weight_decay=weight_decay)
    return MuonWithAdamW(muon, AdamW(others, lr=lr, weight_decay=weight_decay, betas=betas)) if others else muon


def build_schedule(
    optimizer: Optimizer,
    name: ScheduleName,
    *,
    steps: int,
    warmup_ratio: float = 0.1,
    decay_ratio: float = 0.3,
    floor: float = 0.01,
) -> LambdaLR:
    """`polynomial`: warm-up over `warmup_ratio` of the steps, then linear down to `floor` (the paper: 1e-4 -> 1e-6).
    `trapezoid`: warm-up, constant, linear down over the last `decay_ratio`."""
    rise = max(1, round(warmup_ratio * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        start = rise if name == "polynomial" else round((1 - decay_ratio) * steps)
        progress = min(1.0, max(0.0, (step - start) / max(1, steps - start)))
        return 1 - (1 - floor) * progress

    return LambdaLR(optimizer, factor)
