"""GAN losses against the papers' formulas written out with NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit

from hnbayes.utils.gan_helpers import accuracy, concat_mean_stats, dis_loss, gen_loss

REAL, FAKE = (torch.randn(7, 1, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (1, 2))


def by_hand(real, fake):
    """(discriminator's loss, generator's loss) of each choice."""
    real, fake = real.numpy(), fake.numpy()
    p, f = expit(real), expit(fake)
    smoothed = -(0.9 * np.log(p) + 0.1 * np.log(1 - p)).mean()
    return [
        (smoothed - np.log(1 - f).mean(), -np.log(f).mean()),
        (((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2, ((fake - 1) ** 2).mean() / 2),
        (((real - 1) ** 2).mean() / 2 + ((fake + 1) ** 2).mean() / 2, (fake**2).mean() / 2),
        (fake.mean() - real.mean(), -fake.mean()),
    ]


@pytest.mark.parametrize("choice", range(4))
def test_losses(choice):
    dis, gen = by_hand(REAL, FAKE)[choice]
    assert np.isclose(float(dis_loss(REAL, FAKE, choice)), dis, rtol=1e-12)
    assert np.isclose(float(gen_loss(FAKE, choice)), gen, rtol=1e-12)


def test_the_vanilla_losses_stand_large_logits():
    large = torch.tensor([[500.0], [-500.0]], requires_grad=True)
    loss = dis_loss(large, large, 0) + gen_loss(large, 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(large.grad).all()


@pytest.mark.parametrize(("choice", "threshold"), [(0, 0.0), (1, 0.5), (2, 0.0), (3, 0.0)])
def test_accuracy(choice, threshold):
    right = (threshold < REAL).sum() + (threshold >= FAKE).sum()
    assert np.isclose(float(accuracy(REAL, FAKE, choice)), int(right) / 14)
    assert float(accuracy(torch.ones(3, 1) * 9, -torch.ones(5, 1) * 9, choice)) == 1.0


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 2, 2)])
def test_concat_mean_stats(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    out = concat_mean_stats(x)
    expected = np.stack([np.concatenate([x.numpy().mean(0), row], 0) for row in x.numpy()])
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dis_loss(REAL, FAKE, 4), ValueError, "loss_choice must be one of"),
        (lambda: gen_loss([1.0], 0), TypeError, "logit_fake must be a floating-point tensor"),
        (lambda: dis_loss(REAL.long(), FAKE, 0), TypeError, "logit_real must be a floating-point tensor"),
        (lambda: accuracy(torch.empty(0, 1), FAKE, 0), ValueError, "logit_real must not be empty"),
        (lambda: concat_mean_stats(torch.ones(3)), ValueError, r"inputs must have shape \(N, C\)"),
        (lambda: concat_mean_stats(torch.ones(3, 2).long()), TypeError, "floating-point"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
