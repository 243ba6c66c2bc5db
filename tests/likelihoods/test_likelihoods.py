"""Likelihoods: normalised densities against SciPy, shapes with leading dimensions, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats as st
import torch
from torch.distributions import Exponential, Gamma, LogNormal, Normal, Uniform

from hnbayes import ParamSpec, Potential
from hnbayes.likelihoods import (
    Bernoulli,
    Categorical,
    FromDistribution,
    Gaussian,
    HeteroscedasticGaussian,
    NegativeBinomial,
    Poisson,
    StudentT,
    as_likelihood,
)

N, K = 7, 3


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def counts(*shape):
    return torch.arange(math.prod(shape)).reshape(shape) % 5


def own(output):
    return Normal(output[..., 0], output[..., 1].exp())


# (likelihood, outputs (N, ...), data, learned parameters, the log density of each datum by SciPy)
CASES = {
    "gaussian fixed": (
        Gaussian(0.3),
        normal(N, 2),
        normal(N, 2, seed=1),
        {},
        lambda f, y: st.norm.logpdf(y, f, 0.3).sum(1),
    ),
    "gaussian fixed for each output": (
        Gaussian(torch.tensor([0.3, 2.0], dtype=torch.float64)),
        normal(N, 2),
        normal(N, 2, seed=1),
        {},
        lambda f, y: st.norm.logpdf(y, f, np.array([0.3, 2.0])).sum(1),
    ),
    "gaussian learned": (
        Gaussian("learned"),
        normal(N),
        normal(N, seed=1),
        {"sigma": torch.tensor(0.7, dtype=torch.float64)},
        lambda f, y, sigma: st.norm.logpdf(y, f, sigma),
    ),
    "gaussian learned for each output": (
        Gaussian(LogNormal(torch.zeros(2), torch.ones(2))),
        normal(N, 2),
        normal(N, 2, seed=1),
        {"sigma": torch.tensor([0.7, 1.9], dtype=torch.float64)},
        lambda f, y, sigma: st.norm.logpdf(y, f, sigma).sum(1),
    ),
    "heteroscedastic exp": (
        HeteroscedasticGaussian("exp", minimum=0),
        normal(N, 4),
        normal(N, 2, seed=1),
        {},
        lambda f, y: st.norm.logpdf(y, f[:, :2], np.exp(f[:, 2:])).sum(1),
    ),
    "heteroscedastic softplus": (
        HeteroscedasticGaussian(minimum=0.01),
        normal(N, 2),
        normal(N, 1, seed=1),
        {},
        lambda f, y: st.norm.logpdf(y, f[:, :1], 0.01 + np.log1p(np.exp(f[:, 1:]))).sum(1),
    ),
    "student fixed": (
        StudentT(3.0, 0.5),
        normal(N, 1),
        normal(N, 1, seed=1),
        {},
        lambda f, y: st.t.logpdf(y, 3.0, f, 0.5).sum(1),
    ),
    "student learned": (
        StudentT("learned", "learned"),
        normal(N, 1),
        normal(N, 1, seed=1),
        {"df": torch.tensor(5.5, dtype=torch.float64), "sigma": torch.tensor(0.7, dtype=torch.float64)},
        lambda f, y, df, sigma: st.t.logpdf(y, df, f, sigma).sum(1),
    ),
    "categorical": (
        Categorical(),
        normal(N, K),
        torch.arange(N) % K,
        {},
        lambda f, y: np.log(np.exp(f) / np.exp(f).sum(1, keepdims=True))[np.arange(N), y],
    ),
    "bernoulli": (
        Bernoulli(),
        normal(N),
        torch.arange(N) % 2,
        {},
        lambda f, y: st.bernoulli.logpmf(y, 1 / (1 + np.exp(-f))),
    ),
    "poisson": (Poisson(), normal(N, 2), counts(N, 2), {}, lambda f, y: st.poisson.logpmf(y, np.exp(f)).sum(1)),
    "negative binomial fixed": (
        NegativeBinomial(2.5),
        normal(N),
        counts(N),
        {},
        lambda f, y: st.nbinom.logpmf(y, 2.5, 2.5 / (2.5 + np.exp(f))),
    ),
    "negative binomial learned": (
        NegativeBinomial(),
        normal(N),
        counts(N),
        {"concentration": torch.tensor(0.8, dtype=torch.float64)},
        lambda f, y, concentration: st.nbinom.logpmf(y, concentration, concentration / (concentration + np.exp(f))),
    ),
    "own": (
        FromDistribution(own),
        normal(N, 2),
        normal(N, seed=1),
        {},
        lambda f, y: st.norm.logpdf(y, f[:, 0], np.exp(f[:, 1])),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_log_density_is_the_normalised_one(case):
    likelihood, output, y, parameters, expected = CASES[case]
    likelihood.check(output, y)
    reference = expected(output.numpy(), y.numpy(), **{name: p.numpy() for name, p in parameters.items()})
    data = likelihood.cast(y, output)
    np.testing.assert_allclose(likelihood.log_prob(output, data, **parameters), reference, rtol=1e-9)
    total = likelihood.total_log_prob(output, data, **parameters)
    assert total.ndim == 0
    np.testing.assert_allclose(total, reference.sum(), rtol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_leading_dimensions_are_those_of_draws(case):
    likelihood, output, y, parameters, _ = CASES[case]
    shift = torch.tensor([0.0, 0.3, -0.2, 0.1], dtype=torch.float64).reshape(2, 2)
    outputs = output + shift.reshape(2, 2, *([1] * output.ndim))
    several = {name: p * (1 + shift.abs().reshape(2, 2, *([1] * p.ndim))) for name, p in parameters.items()}
    data = likelihood.cast(y, output)
    distribution = likelihood.distribution(outputs, 2, **several)
    assert tuple(distribution.batch_shape) == (2, 2, N)
    assert tuple(distribution.batch_shape + distribution.event_shape) == (2, 2, *y.shape)
    received = likelihood.log_prob(outputs, data, 2, **several)
    for i in range(2):
        for j in range(2):
            alone = likelihood.log_prob(outputs[i, j], data, **{name: p[i, j] for name, p in several.items()})
            torch.testing.assert_close(received[i, j], alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(distribution.log_prob(data), received)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_the_density_is_captured_as_a_graph(case, dtype):
    likelihood, output, y, parameters, _ = CASES[case]
    output = output.to(dtype)
    data = likelihood.cast(y, output)
    names, shapes = tuple(parameters), tuple(tuple(p.shape) for p in parameters.values())
    spec = ParamSpec(("output", *names), (tuple(output.shape), *shapes))

    def U(q):
        values = spec.unflatten(q)
        return -likelihood.total_log_prob(
            output * values.pop("output"), data, **{name: v.exp() for name, v in values.items()}
        )

    potential = Potential(U, spec=spec)
    positions = 0.1 * normal(3, spec.size).to(dtype)
    assert potential.prepare(positions) in ("captured", "native")
    values, gradients = potential.value_and_grad(positions)
    assert values.dtype == gradients.dtype == dtype


def test_parameters_are_in_the_outputs_dtype():
    for dtype in (torch.float32, torch.float64):
        priors = StudentT("learned", Uniform(0.1, 2.0)).parameters(torch.zeros(3, 1, dtype=dtype))
        assert list(priors) == ["df", "sigma"]
        for prior in priors.values():
            draw = prior.sample()
            assert draw.dtype == dtype
            assert draw.shape == ()
            assert prior.log_prob(draw).dtype == dtype
    assert Gaussian(0.5).parameters(torch.zeros(3, 1)) == {}


def test_a_learned_scale_has_the_prior_it_was_given():
    prior = Gaussian("learned").parameters(torch.zeros(3, 1, dtype=torch.float64))["sigma"]
    x = torch.tensor([0.1, 1.0, 2.5], dtype=torch.float64)
    np.testing.assert_allclose(prior.log_prob(x), st.halfnorm.logpdf(x.numpy(), scale=1.0), rtol=1e-12)
    own_prior = Gaussian(Gamma(3.0, 2.0)).parameters(torch.zeros(3, 1, dtype=torch.float64))["sigma"]
    np.testing.assert_allclose(own_prior.log_prob(x), st.gamma.logpdf(x.numpy(), 3.0, scale=0.5), rtol=1e-6)


@pytest.mark.parametrize(
    ("likelihood", "output", "y", "error", "message"),
    [
        (Gaussian(1.0), torch.zeros(4, 1), torch.zeros(4), ValueError, r"y.unsqueeze\(-1\)"),
        (Gaussian(1.0), torch.zeros(4), torch.zeros(4, 1), ValueError, r"y.squeeze\(-1\)"),
        (Gaussian(1.0), torch.zeros(4, 2), torch.zeros(4, 3), ValueError, r"shape \(4, 2\)"),
        (Gaussian(1.0), torch.zeros(4, 1), torch.zeros(4, 1).long(), TypeError, "floating-point"),
        (Gaussian(1.0), torch.zeros(4, 1), torch.full((4, 1), math.nan), ValueError, "NaN"),
        (Gaussian(1.0), torch.zeros(4, 1), torch.full((4, 1), math.inf), ValueError, "infinite"),
        (Gaussian(1.0), torch.zeros(4, 1), np.zeros((4, 1)), TypeError, "tensor"),
        (Gaussian(1.0), torch.zeros(0, 1), torch.zeros(0, 1), ValueError, "at least one"),
        (Gaussian(1.0), torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.complex64), TypeError, "real"),
        (Gaussian(1.0), torch.tensor(0.0), torch.tensor(0.0), ValueError, "one output for each"),
        (Gaussian(torch.ones(3)), torch.zeros(4, 2), torch.zeros(4, 2), ValueError, "that of one datum"),
        (HeteroscedasticGaussian(), torch.zeros(4, 3), torch.zeros(4, 1), ValueError, "two outputs"),
        (HeteroscedasticGaussian(), torch.zeros(4), torch.zeros(4), ValueError, "two outputs"),
        (HeteroscedasticGaussian(), torch.zeros(4, 2), torch.zeros(4, 2), ValueError, r"shape \(4, 1\)"),
        (StudentT(4.0, torch.ones(3)), torch.zeros(4, 2), torch.zeros(4, 2), ValueError, "sigma must have shape"),
        (Categorical(), torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), ValueError, r"0\.\.2"),
        (Categorical(), torch.zeros(4, 3), torch.tensor([0, 1, 2, -1]), ValueError, "from -1"),
        (Categorical(), torch.zeros(4, 3), torch.zeros(4), TypeError, "integer labels"),
        (Categorical(), torch.zeros(4, 3), torch.zeros(4).bool(), TypeError, "integer labels"),
        (Categorical(), torch.zeros(4), torch.zeros(4).long(), ValueError, "logits"),
        (Categorical(), torch.zeros(4, 1), torch.zeros(4).long(), ValueError, "two classes"),
        (Bernoulli(), torch.zeros(4), torch.tensor([0.0, 1.0, 0.5, 0.0]), ValueError, "0 or 1; received 0.5 at index"),
        (Poisson(), torch.zeros(4), torch.tensor([0, 1, -2, 0]), ValueError, "whole numbers; received -2"),
        (Poisson(), torch.zeros(4), torch.tensor([0.5, 1, 2, 0]), ValueError, "whole numbers"),
        (Poisson(), torch.zeros(4), torch.ones(4).bool(), TypeError, "counts"),
        (NegativeBinomial(), torch.zeros(4), torch.tensor([0.5, 1, 2, 0]), ValueError, "whole numbers"),
        (FromDistribution(lambda f: Exponential(f.exp())), torch.zeros(4), -torch.ones(4), ValueError, "support"),
        (FromDistribution(lambda f: Normal(f.sum(), 1.0)), torch.zeros(4), torch.ones(4), ValueError, "batch shape"),
        (FromDistribution(lambda f: f), torch.zeros(4), torch.ones(4), TypeError, "must return a distribution"),
    ],
)
def test_bad_data_are_refused(likelihood, output, y, error, message):
    with pytest.raises(error, match=message):
        likelihood.check(output, y)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Gaussian(0.0), ValueError, "greater than 0"),
        (lambda: Gaussian(-1), ValueError, "greater than 0"),
        (lambda: Gaussian(math.nan), ValueError, "finite"),
        (lambda: Gaussian("unknown"), ValueError, "'learned'"),
        (lambda: Gaussian(None), TypeError, "'learned' or a distribution"),
        (lambda: Gaussian(torch.tensor([1.0, -1.0])), ValueError, "greater than 0"),
        (lambda: Gaussian(torch.tensor([1.0, math.inf])), ValueError, "finite"),
        (lambda: Gaussian(Normal(0.0, 1.0)), ValueError, "positive numbers"),
        (lambda: StudentT(df=-1.0), ValueError, "df"),
        (lambda: NegativeBinomial(0), ValueError, "concentration"),
        (lambda: HeteroscedasticGaussian("log"), ValueError, "'softplus'"),
        (lambda: HeteroscedasticGaussian(minimum=-1), ValueError, "minimum"),
        (lambda: as_likelihood("normal"), ValueError, "'gaussian'"),
        (lambda: as_likelihood(3), TypeError, "a function from the outputs"),
        (lambda: as_likelihood(Gaussian), TypeError, r"Use Gaussian\(\)"),
        (lambda: as_likelihood(Normal(0.0, 1.0)), TypeError, "function from the outputs"),
        (lambda: FromDistribution(3), TypeError, "function from outputs"),
    ],
)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_learned_parameter_is_needed():
    with pytest.raises(ValueError, match="sigma is learned"):
        Gaussian("learned").distribution(torch.zeros(3, 1))


def test_names_and_functions_are_likelihoods():
    assert isinstance(as_likelihood("gaussian"), Gaussian)
    assert as_likelihood("gaussian").scale.learned
    assert isinstance(as_likelihood("negative_binomial"), NegativeBinomial)
    likelihood = as_likelihood(own)
    assert isinstance(likelihood, FromDistribution)
    assert as_likelihood(likelihood) is likelihood


def test_tasks():
    f = torch.zeros(4, 2)
    assert Gaussian().task(f) == "regression"
    assert Categorical().task(f) == "classification"
    assert Poisson().task(f) == "counts"
    assert as_likelihood(own).task(f) == "regression"
    assert as_likelihood(lambda f: torch.distributions.Poisson(f.exp())).task(f) == "counts"
    assert as_likelihood(lambda f: torch.distributions.Categorical(logits=f)).task(f) == "classification"


def test_arguments_and_global_settings_are_left_alone():
    before = torch.distributions.Distribution._validate_args
    prior = LogNormal(0.0, 1.0)
    Gaussian(prior).parameters(torch.zeros(3, 1, dtype=torch.float64))
    FromDistribution(own).check(torch.zeros(4, 2), torch.zeros(4))
    assert torch.distributions.Distribution._validate_args is before
    assert prior._validate_args
    assert prior.base_dist.loc.dtype == torch.float32
    with pytest.raises(ValueError, match=r"support|constraint"):
        prior.log_prob(torch.tensor(-1.0))
