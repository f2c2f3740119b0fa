"""Losses of reward models against closed forms, torch's own losses and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from tastemaker.training.reward_loss import IGNORED, bradley_terry, rationale_loss, soft_label_loss, squared_error


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_squared_error_is_in_squared_points():
    score = torch.tensor([4.5, 1.0], dtype=torch.float64, requires_grad=True)
    loss = squared_error(score, torch.tensor([3.0, 1.0], dtype=torch.float64))
    assert loss.tolist() == [2.25, 0.0]
    loss.sum().backward()
    assert score.grad is not None and score.grad.tolist() == [3.0, 0.0]  # 2 (R - y)


def test_soft_labels_equal_the_divergence_plus_the_raters_entropy():
    shares = torch.tensor([[0.0, 0.0, 0.25, 0.5, 0.25], [0.2] * 5], dtype=torch.float64)
    log_p = draw(2, 5).log_softmax(1)
    divergence = F.kl_div(log_p, shares, reduction="none").sum(1)
    entropy = torch.distributions.Categorical(probs=shares).entropy()
    torch.testing.assert_close(soft_label_loss(log_p, shares), divergence + entropy, rtol=1e-6, atol=1e-6)


def test_soft_labels_pull_each_logit_to_its_share():
    shares, logits = torch.tensor([[0.1, 0.0, 0.2, 0.3, 0.4]], dtype=torch.float64), draw(1, 5).requires_grad_()
    soft_label_loss(logits.log_softmax(1), shares).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(1) - shares)


def test_bradley_terry_equals_minus_log_sigmoid():
    first, second = draw(6), draw(6, seed=1)
    torch.testing.assert_close(bradley_terry(first, second, torch.ones(6)), -F.logsigmoid(first - second))
    torch.testing.assert_close(bradley_terry(first, second, torch.zeros(6)), -F.logsigmoid(second - first))
    half = bradley_terry(first, second, torch.full((6,), 0.5))
    torch.testing.assert_close(half, -(F.logsigmoid(first - second) + F.logsigmoid(second - first)) / 2)


def test_a_tie_pulls_both_scores_together():
    first = torch.tensor([3.0, 2.0, 2.5], dtype=torch.float64, requires_grad=True)
    bradley_terry(first, torch.full_like(first, 2.5), torch.full_like(first, 0.5)).sum().backward()
    assert first.grad is not None
    assert first.grad[0] > 0 > first.grad[1] and first.grad[2] == 0
    assert float(bradley_terry(torch.tensor(2.5), torch.tensor(2.5), torch.tensor(0.5))) == pytest.approx(math.log(2))


@pytest.mark.parametrize("choice", [0.0, 0.5, 1.0])
def test_gradients_equal_finite_differences(choice):
    first, second = draw(3).requires_grad_(), draw(3, seed=1).requires_grad_()
    assert gradcheck(lambda a, b: bradley_terry(a, b, torch.full((3,), choice, dtype=torch.float64)), (first, second))
    assert gradcheck(lambda a: squared_error(a, torch.ones(3, dtype=torch.float64)), first)


def test_bradley_terry_of_distant_scores_neither_overflows_nor_loses_its_gradient():
    first = torch.tensor([-1000.0], requires_grad=True)
    loss = bradley_terry(first, torch.tensor([0.0]), torch.tensor([1.0]))
    loss.sum().backward()
    assert loss.item() == 1000.0 and first.grad is not None and first.grad.item() == -1.0


def test_a_rationale_counts_alike_however_long_and_only_where_it_is_labelled():
    logits = draw(3, 4, 7).float()
    labels = torch.tensor([[IGNORED, 2, 3, IGNORED], [IGNORED, IGNORED, 6, IGNORED], [IGNORED] * 4])
    log_p = logits.log_softmax(-1)
    expected = [-(log_p[0, 1, 2] + log_p[0, 2, 3]) / 2, -log_p[1, 2, 6], torch.tensor(0.0)]
    torch.testing.assert_close(rationale_loss(logits, labels), torch.stack(expected))
