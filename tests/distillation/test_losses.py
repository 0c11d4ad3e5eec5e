"""The losses equal the paper's formulas worked by hand."""

import math

import pytest
import torch

from distilledprag.distillation.losses import cosine_loss, generation_loss, kl_loss, top_k_kl_loss


def test_generation_loss_is_the_mean_negative_log_probability_of_the_answer():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    expected = -(math.log(0.25) + math.log(0.8)) / 2
    assert generation_loss(logits, torch.tensor([1, 2])).item() == pytest.approx(expected, abs=1e-6)


def test_cosine_loss_weighs_layer_i_with_i():
    teacher = [torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])]
    student = [torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, 3.0]])]  # cosines 0 and 1/sqrt(2)
    expected = (1 * (1 - 0) + 2 * (1 - 1 / math.sqrt(2))) / (1 + 2)
    assert cosine_loss(student, teacher).item() == pytest.approx(expected, abs=1e-6)


def test_cosine_loss_is_zero_for_equal_states_of_any_length():
    states = [torch.randn(5, 8) for _ in range(3)]
    assert cosine_loss([3 * s for s in states], states).item() == pytest.approx(0.0, abs=1e-6)


def test_kl_loss_is_teacher_against_student_at_the_temperature_times_its_square():
    teacher, student, temperature = [2.0, 0.0], [0.0, 0.0], 2.0
    p = math.exp(1.0) / (math.exp(1.0) + 1)  # softmax of (2, 0) / 2
    expected = (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)) * 4
    value = kl_loss(torch.tensor([student]), torch.tensor([teacher]), temperature).item()
    assert value == pytest.approx(expected, abs=1e-6)


def test_kl_loss_averages_over_positions():
    teacher, student = torch.randn(4, 7), torch.randn(4, 7)
    single = [kl_loss(student[i : i + 1], teacher[i : i + 1]).item() for i in range(4)]
    assert kl_loss(student, teacher).item() == pytest.approx(sum(single) / 4, abs=1e-5)


def test_top_k_loss_with_all_tokens_but_one_kept_equals_the_full_loss():
    teacher, student = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    kept, ids = torch.log_softmax(teacher / 2.0, dim=-1).topk(5)
    assert top_k_kl_loss(student, ids, kept).item() == pytest.approx(kl_loss(student, teacher).item(), abs=1e-4)


def test_top_k_loss_is_zero_when_student_equals_teacher():
    teacher = torch.randn(3, 50)
    kept, ids = torch.log_softmax(teacher / 2.0, dim=-1).topk(5)
    assert top_k_kl_loss(teacher, ids, kept).item() == pytest.approx(0.0, abs=1e-5)
