"""PrecisionNormal against SciPy and torch's Normal; the improper limit."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from torch.distributions import Independent, Normal, kl_divergence

from hnbayes.laplace import PrecisionNormal

LOC = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
TAU = torch.tensor([4.0, 0.0, 0.25], dtype=torch.float64)
X = torch.tensor([0.5, 7.0, -3.0], dtype=torch.float64)


def test_density():
    log_p = PrecisionNormal(LOC, TAU).log_prob(X)
    assert log_p[0].item() == pytest.approx(scipy.stats.norm.logpdf(0.5, 0.3, 0.5))
    assert log_p[1] == 0
    assert log_p[2].item() == pytest.approx(scipy.stats.norm.logpdf(-3.0, 2.0, 2.0))


def test_moments_and_entropy():
    d, proper = PrecisionNormal(LOC, TAU), Normal(LOC[::2], TAU[::2].rsqrt())
    assert torch.equal(d.mean, LOC)
    assert torch.equal(d.mode, LOC)
    assert torch.allclose(d.variance[::2], proper.variance)
    assert torch.allclose(d.entropy()[::2], proper.entropy())
    assert d.variance[1] == d.entropy()[1] == math.inf
    assert d.is_improper.tolist() == [False, True, False]


def test_draws():
    d = PrecisionNormal(LOC[::2], TAU[::2])
    torch.manual_seed(0)
    draws = d.sample((4000,))
    assert scipy.stats.kstest(draws[:, 0].numpy(), scipy.stats.norm(0.3, 0.5).cdf).pvalue > 1e-3
    assert scipy.stats.kstest(draws[:, 1].numpy(), scipy.stats.norm(2.0, 2.0).cdf).pvalue > 1e-3
    # Mutant: precision taken for the standard deviation.
    assert scipy.stats.kstest(draws[:, 1].numpy(), scipy.stats.norm(2.0, 0.25).cdf).pvalue < 1e-6
    with pytest.raises(ValueError, match=r"received 1 zeros among 3 precisions, the first at index \(1,\)"):
        PrecisionNormal(LOC, TAU).sample()


def test_gradients_are_finite_where_the_precision_is_zero():
    tau = TAU.clone().requires_grad_()
    loc = LOC.clone().requires_grad_()
    PrecisionNormal(loc, tau).log_prob(X).sum().backward()
    assert tau.grad.isfinite().all()
    assert loc.grad.isfinite().all()
    assert loc.grad[1] == 0


def test_expand_and_independent():
    d = PrecisionNormal(LOC, TAU).expand((2, 3))
    assert d.batch_shape == (2, 3)
    assert torch.allclose(Independent(d, 1).log_prob(X), PrecisionNormal(LOC, TAU).log_prob(X).sum().expand(2))
    assert d.expand((5, 2, 3)).log_prob(X).shape == (5, 2, 3)


def test_divergences():
    one, other = PrecisionNormal(LOC[::2], TAU[::2]), PrecisionNormal(LOC[::2] + 1, TAU[::2] * 3)
    expected = kl_divergence(Normal(one.loc, one.precision.rsqrt()), Normal(other.loc, other.precision.rsqrt()))
    normal = Normal(one.loc, one.precision.rsqrt())
    assert torch.allclose(kl_divergence(one, other), expected)
    assert torch.allclose(kl_divergence(normal, other), expected)
    assert torch.allclose(kl_divergence(one, Normal(other.loc, other.precision.rsqrt())), expected)
    improper = PrecisionNormal(LOC[:1], torch.zeros(1, dtype=torch.float64))
    entropy = Normal(0.0, 0.5).entropy().double()
    assert torch.allclose(kl_divergence(PrecisionNormal(LOC[:1], TAU[:1]), improper), -entropy)
    assert kl_divergence(improper, PrecisionNormal(LOC[:1], TAU[:1])) == math.inf


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_bad_precision(bad):
    with pytest.raises(ValueError, match="precision"):
        PrecisionNormal(0.0, bad, validate_args=True)
    with pytest.raises(ValueError, match="loc"):
        PrecisionNormal(math.nan, 1.0, validate_args=True)
    with pytest.raises(ValueError, match=r"value|support"):
        PrecisionNormal(0.0, 1.0, validate_args=True).log_prob(torch.tensor(math.nan))
