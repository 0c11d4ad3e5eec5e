"""The three losses of the paper: L = L_gen + 0.5 L_cos + 0.1 L_KL.

D = model dimension, M = layers, P = compared positions, N = supervised positions, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def generation_loss(student_logits: Tensor, targets: Tensor) -> Tensor:
    """L_gen: mean cross-entropy of the answer tokens. student_logits (N, V), targets (N,)."""
    return functional.cross_entropy(student_logits.float(), targets)


def cosine_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """L_cos = sum_i i (1 - cos(h_t_i, h_s_i)) / sum_i i over the layers i = 1..M; deeper layers weigh more.

    student, teacher: M tensors (P, D), the outputs of layers 1..M (no embeddings) at the P compared positions; the
    cosine is averaged over them.
    """
    total = torch.zeros((), device=student[0].device)
    for layer, (ours, theirs) in enumerate(zip(student, teacher, strict=True), start=1):
        total = total + layer * (1 - functional.cosine_similarity(ours.float(), theirs.float(), dim=-1).mean())
    return total / sum(range(1, len(student) + 1))


def kl_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """L_KL: KL(teacher || student) at the answer positions, at `temperature`, times temperature squared.

    student_logits, teacher_logits: (N, V); averaged over N.
    """
    ours = functional.log_softmax(student_logits.float() / temperature, dim=-1)
    theirs = functional.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return functional.kl_div(ours, theirs, log_target=True, reduction="batchmean") * temperature**2


def top_k_kl_loss(student_logits: Tensor, ids: Tensor, log_probabilities: Tensor, temperature: float = 2.0) -> Tensor:
    """L_KL from a cache: the teacher's k most probable tokens `ids` (N, k) with their log-probabilities (N, k) at `temperature`.

    Both distributions are renormalised over the k tokens plus one bucket for all others.
    """
    ours = functional.log_softmax(student_logits.float() / temperature, dim=-1).gather(-1, ids)

    def with_rest(kept: Tensor) -> Tensor:
        rest = torch.log1p(-kept.exp().sum(-1, keepdim=True).clamp(max=1 - 1e-6))
        return torch.cat([kept, rest], dim=-1)

    theirs = with_rest(log_probabilities.float())
    return functional.kl_div(with_rest(ours), theirs, log_target=True, reduction="batchmean") * temperature**2
