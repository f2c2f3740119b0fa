"""The expected score and its gradient against closed forms and finite differences."""

import pytest
import torch
from torch.autograd import gradcheck

from tastemaker.rewards.readout import expected_score, score_log_probabilities

SCORES = torch.arange(1.0, 6.0, dtype=torch.float64)
IDS = [3, 0, 7, 5, 2]


def draw(rows: int = 4, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_probabilities_and_mass_equal_a_softmax_over_everything():
    logits = draw()
    log_p, log_mass = score_log_probabilities(logits, IDS)
    everything = torch.distributions.Categorical(logits=logits).probs[:, IDS]
    torch.testing.assert_close(log_mass.exp(), everything.sum(1))
    torch.testing.assert_close(log_p.exp(), everything / everything.sum(1, keepdim=True))


def test_the_score_equals_a_categorical_mean():
    logits = draw()
    score = expected_score(score_log_probabilities(logits, IDS)[0])
    torch.testing.assert_close(score, torch.distributions.Categorical(logits=logits[:, IDS]).probs @ SCORES)


def test_the_gradient_is_the_covariance_with_the_score():
    """d R / d logit_s = p(s) (s - R), and nothing for any other token."""
    logits = draw().requires_grad_()
    score = expected_score(score_log_probabilities(logits, IDS)[0])
    score.sum().backward()
    p = logits.detach()[:, IDS].softmax(1)
    expected = torch.zeros_like(logits)
    expected[:, IDS] = p * (SCORES - (p @ SCORES)[:, None])
    torch.testing.assert_close(logits.grad, expected)


def test_gradients_of_score_and_mass_equal_finite_differences():
    logits = draw(2).requires_grad_()
    assert gradcheck(lambda x: expected_score(score_log_probabilities(x, IDS)[0]), logits)
    assert gradcheck(lambda x: score_log_probabilities(x, IDS)[1], logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_widened_first(dtype):
    logits = draw().to(dtype)
    narrow = expected_score(score_log_probabilities(logits, IDS)[0])
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, expected_score(score_log_probabilities(logits.float(), IDS)[0]))
