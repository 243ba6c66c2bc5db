"""DiagGaussian: density, draws, products, tempering, other specs, files."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import scipy.stats
import torch
from laplace_fakes import seeded

import hnbayes
from hnbayes.laplace import DiagGaussian
from hnbayes.params import ParamSpec

SPEC = ParamSpec(("w", "b"), ((2, 2), (1,)))
MEAN = seeded(5)
PRECISION = seeded(5, seed=1).square() + 0.1
Q = seeded(5, seed=2)


@pytest.fixture
def gaussian():
    return DiagGaussian(MEAN, PRECISION, SPEC)


def logpdf(q, mean=MEAN, precision=PRECISION):
    return scipy.stats.multivariate_normal.logpdf(q.numpy(), mean.numpy(), np.diag(1 / precision.numpy()))


def test_log_prob_of_every_form(gaussian):
    expected = pytest.approx(logpdf(Q))
    parts = SPEC.unflatten(Q)
    assert gaussian.log_prob(Q).item() == expected
    assert gaussian(Q).item() == expected
    assert gaussian.log_prob(parts).item() == expected
    assert gaussian.log_prob([parts["w"], parts["b"]]).item() == expected
    assert gaussian.distribution().log_prob(Q).item() == expected
    several = torch.stack([Q, MEAN])
    np.testing.assert_allclose(gaussian.log_prob(several).numpy(), logpdf(several))
    assert gaussian.log_prob(SPEC.unflatten(several)).shape == (2,)
    assert gaussian.log_prob(Q.float()).dtype == torch.float32


def test_it_is_a_prior_of_nn_pot_energy():
    """Natively, in one batch and captured: U is the network's loss minus the log density."""
    net = torch.nn.Linear(2, 1).double()
    spec = ParamSpec.from_module(net)
    prior = DiagGaussian(seeded(3), seeded(3, seed=1).square(), spec)
    X, y = seeded(6, 2), seeded(6, 1)
    U = hnbayes.nn_pot_energy(net, X, y, prior, tau_pred=2.0)
    q = seeded(4, 3, seed=5)
    values, gradients = U.value_and_grad(q)
    for row, value, gradient in zip(q, values, gradients, strict=True):
        nll = (X @ row[:2] + row[2] - y[:, 0]).square().sum()
        assert value.item() == pytest.approx((nll - logpdf(row, prior.mean, prior.precision)).item())
        slope = 2 * torch.cat([X, torch.ones(6, 1).double()], 1).T @ (X @ row[:2] + row[2] - y[:, 0])
        assert torch.allclose(gradient, slope + prior.precision * (row - prior.mean))


def test_draws(gaussian):
    draws = gaussian.sample((5000,), seed=0)
    z = (draws - MEAN) * PRECISION.sqrt()
    assert scipy.stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    assert torch.equal(draws, gaussian.sample((5000,), seed=0))
    assert torch.equal(draws, gaussian.sample((5000,), generator=torch.Generator().manual_seed(0)))
    state = torch.get_rng_state()
    gaussian.sample(seed=1)
    assert torch.equal(state, torch.get_rng_state())


def test_draws_of_an_improper_one():
    improper = DiagGaussian(MEAN, PRECISION * torch.tensor([1.0, 0, 1, 1, 0]), SPEC)
    with pytest.raises(ValueError, match="received 2 zeros among 5"):
        improper.sample(seed=0)
    draws = improper.sample((4000,), seed=0, base_precision=4.0)
    sd = draws.std(0)
    assert torch.allclose(sd[[1, 4]], torch.full((2,), 0.5, dtype=torch.float64), rtol=0.06)
    assert torch.allclose(sd[[0, 2, 3]], PRECISION[[0, 2, 3]].rsqrt(), rtol=0.06)
    assert "2 of them improper" in repr(improper)
    with pytest.raises(ValueError, match="base_precision"):
        improper.sample(base_precision=0.0)


def test_product(gaussian):
    other = DiagGaussian(seeded(5, seed=8), seeded(5, seed=9).square())
    product = gaussian * other
    assert product.spec == SPEC
    # Up to a constant the log densities add up.
    gaps = [product.log_prob(q) - gaussian.log_prob(q) - other.log_prob(q) for q in seeded(3, 5, seed=3)]
    assert gaps[0].item() == pytest.approx(gaps[1].item()) == pytest.approx(gaps[2].item())
    flat = DiagGaussian(torch.full_like(MEAN, 7.0), torch.zeros(5, dtype=torch.float64))
    assert torch.equal((gaussian * flat).mean, MEAN)
    assert torch.allclose((flat * gaussian).mean, MEAN)
    assert torch.equal((flat * flat).mean, flat.mean)


def test_tempered(gaussian):
    tempered = gaussian.tempered(0.25)
    gaps = [tempered.log_prob(q) - 0.25 * gaussian.log_prob(q) for q in seeded(2, 5, seed=3)]
    assert gaps[0].item() == pytest.approx(gaps[1].item())
    assert tempered.log_prob(Q).item() == pytest.approx(logpdf(Q, MEAN, 0.25 * PRECISION))
    assert gaussian.tempered(0).log_prob(Q) == 0


def test_over_another_spec(gaussian):
    wider = ParamSpec(("b", "head", "w"), ((1,), (3,), (2, 2)))
    found = gaussian.over(wider, mean=1.0, precision=2.0)
    assert torch.equal(found.mean, torch.cat([MEAN[4:], torch.ones(3).double(), MEAN[:4]]))
    assert torch.equal(found.precision, torch.cat([PRECISION[4:], torch.full((3,), 2.0).double(), PRECISION[:4]]))
    with pytest.raises(ValueError, match="'w' must have shape"):
        gaussian.over(ParamSpec(("w",), ((4,),)))
    with pytest.raises(ValueError, match="Give a spec"):
        DiagGaussian(MEAN, PRECISION).over(wider)


@pytest.mark.parametrize("spec", [SPEC, None])
def test_files(tmp_path, spec):
    path = tmp_path / "a prior.pt"
    DiagGaussian(MEAN, PRECISION, spec).save(path)
    found = DiagGaussian.load(path)
    assert torch.equal(found.mean, MEAN)
    assert torch.equal(found.precision, PRECISION)
    assert found.spec == spec
    assert [p.name for p in tmp_path.iterdir()] == ["a prior.pt"]
    with pytest.raises(FileNotFoundError):
        DiagGaussian.load(tmp_path / "none")


def test_other_files(tmp_path):
    path = tmp_path / "x"
    torch.save({"mean": MEAN}, path)
    with pytest.raises(ValueError, match=r"must be a file that DiagGaussian\.save wrote; it holds"):
        DiagGaussian.load(path)
    path.write_bytes(pickle.dumps({"a": object()}, protocol=2))
    with pytest.raises(ValueError, match=r"must be a file that DiagGaussian\.save wrote"):
        DiagGaussian.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"must be a file that DiagGaussian\.save wrote"):
        DiagGaussian.load(path)


def test_what_it_is_given_is_copied():
    mean, precision = MEAN.clone().requires_grad_(), PRECISION.clone()
    gaussian = DiagGaussian(mean, precision)
    precision.zero_()
    assert not gaussian.mean.requires_grad
    assert torch.equal(gaussian.precision, PRECISION)
    assert gaussian.to(torch.float32).mean.dtype == torch.float32


@pytest.mark.parametrize(
    ("mean", "precision", "spec", "error", "message"),
    [
        (MEAN.tolist(), PRECISION, None, TypeError, "mean must be a floating-point tensor"),
        (MEAN, PRECISION.long(), None, TypeError, "precision must be a floating-point tensor"),
        (MEAN[None], PRECISION, None, ValueError, r"mean must have shape \(D,\)"),
        (MEAN[:0], PRECISION[:0], None, ValueError, r"mean must have shape \(D,\)"),
        (MEAN, PRECISION[:4], None, ValueError, "one shape, dtype and device"),
        (MEAN, PRECISION.float(), None, ValueError, "one shape, dtype and device"),
        (MEAN, -PRECISION, None, ValueError, "precision must be at least 0"),
        (MEAN * math.nan, PRECISION, None, ValueError, "mean must be finite"),
        (MEAN, PRECISION * math.inf, None, ValueError, "precision must be finite"),
        (MEAN, PRECISION, ("a",), TypeError, "spec must be a ParamSpec"),
        (MEAN, PRECISION, ParamSpec(("a",), ((4,),)), ValueError, "as many numbers as mean has"),
    ],
)
def test_bad_input(mean, precision, spec, error, message):
    with pytest.raises(error, match=message):
        DiagGaussian(mean, precision, spec)


def test_bad_arguments(gaussian):
    with pytest.raises(TypeError, match="params must be floating-point"):
        gaussian.log_prob(torch.ones(5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"params must have shape \(5,\)"):
        gaussian.log_prob(Q[:4])
    with pytest.raises(ValueError, match="missing"):
        gaussian.log_prob({"w": torch.ones(2, 2)})
    with pytest.raises(ValueError, match="without a spec"):
        DiagGaussian(MEAN, PRECISION).log_prob([Q])
    with pytest.raises(ValueError, match="either a seed or a generator"):
        gaussian.sample(seed=0, generator=torch.Generator())
    with pytest.raises(ValueError, match="over the same weights"):
        gaussian * DiagGaussian(MEAN[:2], PRECISION[:2])
    with pytest.raises(ValueError, match="must have one spec"):
        gaussian * DiagGaussian(MEAN, PRECISION, ParamSpec(("v",), ((5,),)))
    with pytest.raises(TypeError):
        gaussian * 2
    for power in (-1.0, math.nan):
        with pytest.raises(ValueError, match="power"):
            gaussian.tempered(power)
