"""Minibatch samplers on conjugate linear regression, with mutants; schedules, loaders, interrupts, refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

import hnbayes
from hnbayes.likelihoods import Categorical, Gaussian
from hnbayes.minibatch import PSGLD, SGHMC, SGLD, Constant, Custom, Cyclical, Stage
from hnbayes.minibatch import run as run_module
from hnbayes.sampling.callbacks import StopSampling

N, D, BATCH, CHAINS = 100, 3, 20, 256
_generator = torch.Generator().manual_seed(0)
X = torch.randn(N, D, dtype=torch.float64, generator=_generator)
Y = (X @ torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))[:, None] + torch.randn(
    N, 1, dtype=torch.float64, generator=_generator
)
PRECISION = X.T @ X + torch.eye(D)
COVARIANCE = torch.linalg.inv(PRECISION)
MEAN = COVARIANCE @ X.T @ Y[:, 0]
NET = torch.nn.Linear(D, 1, bias=False).double()
MODEL = {"likelihood": Gaussian(1.0), "prior": 1.0, "seed": 1, "progress": False}


def exact_draws():
    z = torch.randn(CHAINS, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return MEAN + z @ torch.linalg.cholesky(COVARIANCE).T


def sampled(kernel, step_size, batch_size=BATCH, draws=600, **options):
    """From exact draws; as (C S, D)."""
    found = hnbayes.sample_minibatch(
        NET,
        X,
        Y,
        kernel=kernel,
        step_size=step_size,
        batch_size=batch_size,
        chains=CHAINS,
        init=exact_draws(),
        warmup=200,
        draws=draws,
        thin=5,
        **MODEL,
        **options,
    )
    return found.draws.positions.reshape(-1, D)


def variance_ratio(positions):
    """The mean over coordinates of variance beside the posterior's."""
    return float((positions.var(0) / COVARIANCE.diagonal()).mean())


CASES = {"sgld": 4e-4, "psgld": 3e-4, "sghmc": 1e-5}


@pytest.mark.parametrize("kernel", CASES)
def test_moments_of_conjugate_linear_regression(kernel):
    found = sampled(kernel, CASES[kernel])
    assert abs(variance_ratio(found) - 1) < 0.1
    assert ((found.mean(0) - MEAN).abs() / COVARIANCE.diagonal().sqrt()).max() < 0.15


class HalfTheNoise(SGLD):
    """Mutant: noise of half the variance."""

    def step(self, q, memory, terms):
        return super().step(q, memory, replace(terms, noise=terms.noise * math.sqrt(0.5)))


class NoiseWithoutTwo(SGHMC):
    """Mutant: the 2 of the noise's variance is left out."""

    def step(self, q, memory, terms):
        return super().step(q, memory, replace(terms, noise=terms.noise * math.sqrt(0.5)))


@pytest.mark.parametrize(("mutant", "kernel"), [(HalfTheNoise(), "sgld"), (NoiseWithoutTwo(), "sghmc")])
def test_noise_of_half_the_variance_is_seen(mutant, kernel):
    assert variance_ratio(sampled(mutant, CASES[kernel])) < 0.8


def test_a_gradient_that_stands_for_the_batch_alone_is_seen(monkeypatch):
    class Unscaled(run_module.Gradients):
        def __init__(self, model, data):
            super().__init__(model, BATCH)

    monkeypatch.setattr(run_module, "Gradients", Unscaled)
    assert variance_ratio(sampled("sgld", CASES["sgld"])) > 1.5


def stationary_covariance(kernel, step):
    """Of the linear recursion that a sampler is on a Gaussian, with all data: S = A S A^T + Q."""
    A = PRECISION.numpy()
    one = np.eye(D)
    if kernel == "sgld":
        return solve_discrete_lyapunov(one - step / 2 * A, step * one)
    friction = 0.1  # (q, v)' = (q + v', v'), v' = (1 - a) v - step A q + noise
    back = np.block([[one - step * A, (1 - friction) * one], [-step * A, (1 - friction) * one]])
    noise = 2 * friction * step * np.block([[one, one], [one, one]])
    return solve_discrete_lyapunov(back, noise)[:D, :D]


@pytest.mark.parametrize(("kernel", "step"), [("sgld", 8e-3), ("sghmc", 4e-3)])
def test_bias_of_large_steps_is_that_of_theory(kernel, step):
    """At steps where the variance is off by a tenth or more, with all data in a batch."""
    truth = torch.tensor(stationary_covariance(kernel, step))
    found = sampled(kernel, step, batch_size=N)
    off = float((truth.diagonal() / COVARIANCE.diagonal()).mean())
    assert abs(off - 1) > 0.1
    assert abs(variance_ratio(found) / off - 1) < 0.04
    assert ((found.T.cov() - truth).abs() / truth.diagonal().mean()).max() < 0.06


def test_sgld_in_one_dimension_as_its_docstring_says():
    values = np.linalg.eigvalsh(PRECISION.numpy())
    found = np.linalg.eigvalsh(stationary_covariance("sgld", 8e-3))
    np.testing.assert_allclose(np.sort(found), np.sort(1 / (values * (1 - 8e-3 * values / 4))), rtol=1e-10)


def test_temperature():
    cold = sampled("sgld", 1e-3, batch_size=N, temperature=0.25)
    assert abs(variance_ratio(cold) / 0.25 - 1) < 0.1


class Alternating(torch.utils.data.Dataset):
    """The same data, one by one."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return X[i], Y[i]


def test_a_loader_gives_what_arrays_give():
    loader = DataLoader(
        Alternating(), batch_size=30, shuffle=True, generator=torch.Generator().manual_seed(0)
    )  # batches of 30, 30, 30, 10
    options = {"kernel": "sghmc", "step_size": 1e-5, "chains": CHAINS, "init": exact_draws(), "warmup": 100}
    post = hnbayes.sample_minibatch(NET, loader, draws=600, thin=5, **options, **MODEL)
    assert post.X.shape == (N, D)
    torch.testing.assert_close(post.X, X)
    assert abs(variance_ratio(post.draws.positions.reshape(-1, D)) - 1) < 0.15  # chains share their batches
    assert post.draws.metadata["batch_size"] == 30


def test_a_loader_of_a_subset_counts_its_own_data():
    loader = DataLoader(TensorDataset(X, Y), batch_size=10, sampler=SubsetRandomSampler(range(40)), drop_last=True)
    post = hnbayes.sample_minibatch(NET, loader, step_size=1e-5, init="prior", warmup=1, draws=2, **MODEL)
    assert post.X.shape == (40, D)
    assert set(map(tuple, post.X.tolist())) == set(map(tuple, X[:40].tolist()))


def test_cyclical_steps_and_what_is_kept():
    """Zhang et al. (2020), eq. 1, with k from 1."""
    steps, cycles, first = 20, 4, 0.3
    schedule = Cyclical(cycles=cycles, exploration=0.4)
    length = math.ceil(steps / cycles)
    for k in range(1, steps + 1):
        expected = first / 2 * (math.cos(math.pi * ((k - 1) % length) / length) + 1)
        stage = schedule.at(k - 1 + 7, 7, steps)
        assert first * stage.scale == pytest.approx(expected)
        assert stage.explores == (((k - 1) % length) / length < 0.4)
    assert schedule.at(3, 7, steps) == Stage(1.0, False)
    plan = run_module.Plan.of(schedule, first, 0.5, 7, steps, 1)
    assert sum(plan.kept) == cycles * 3
    assert plan.temperatures[7:12] == [0.0, 0.0, 0.5, 0.5, 0.5]


def test_cycles_visit_more_modes_than_a_constant_small_step():
    """The sign of a product of two weights is known, that of each isn't: two modes."""

    class Product(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))

        def forward(self, x):
            return x * self.w[0] * self.w[1]

    x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    net, data = Product(), 2 * x
    options = {**MODEL, "likelihood": Gaussian(3.0)}
    start = torch.full((8, 2), 1.2, dtype=torch.float64)

    def switches(schedule, step_size):
        post = hnbayes.sample_minibatch(
            net,
            x,
            data,
            kernel="sgld",
            step_size=step_size,
            schedule=schedule,
            init=start,
            chains=8,
            draws=4000,
            warmup=0,
            **options,
        )
        sign = post.draws.positions[..., 0].sign()
        return int((sign[:, 1:] != sign[:, :-1]).sum())

    assert switches("constant", 2e-4) < 8
    assert switches(Cyclical(cycles=8, exploration=0.0), 0.2) > 80


def test_a_schedule_may_be_a_function():
    post = hnbayes.sample_minibatch(
        NET, X, Y, step_size=1e-4, schedule=lambda k: 1 / (1 + k), init="prior", warmup=2, draws=4, thin=2, **MODEL
    )
    np.testing.assert_allclose(post.draws.stats["step_size"][0], [1e-4 / 4, 1e-4 / 6])
    assert isinstance(Custom(lambda k: 1.0), hnbayes.minibatch.Schedule)
    assert Constant().at(5, 1, 9) == Stage(1.0, False)


def test_a_network_end_to_end():
    """Classification by a small network, through the whole of `Posterior`."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 2, generator=generator)
    labels = (inputs.prod(1) > 0).long()
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    training = hnbayes.EnsembleTraining(epochs=60, learning_rate=0.03)
    post = hnbayes.sample_minibatch(
        net,
        inputs,
        labels,
        likelihood=Categorical(),
        kernel="sghmc",
        step_size=1e-4,
        init=training,
        chains=3,
        warmup=100,
        draws=200,
        thin=10,
        seed=0,
        progress=False,
    )
    assert post.draws.positions.shape == (3, 20, 82)
    assert post.score(inputs, labels)["accuracy"] > 0.9
    data = post.to_inference_data(prior_draws=0)
    assert data["log_likelihood"]["y"].shape == (3, 20, 200)
    assert post.draws.metadata["kernel"] == "SGHMC"


def test_chains_are_functions_of_seed_and_number():
    options = {"step_size": 1e-4, "warmup": 5, "draws": 5, "batch_size": 10, **MODEL}
    start = exact_draws()
    three = hnbayes.sample_minibatch(NET, X, Y, chains=3, init=start[:3], **options).draws.positions
    two = hnbayes.sample_minibatch(NET, X, Y, chains=2, init=start[:2], **options).draws.positions
    torch.testing.assert_close(three[:2], two, rtol=1e-12, atol=1e-12)
    assert (three[0] != three[1]).all()


def test_stopped_runs_keep_their_draws():
    class Stop:
        def __init__(self, error):
            self.error, self.events = error, 0

        def __call__(self, event):
            self.events += 1
            if self.events == 30:
                raise self.error

    options = {"step_size": 1e-4, "warmup": 10, "draws": 100, "init": "prior", **MODEL}
    for error in (KeyboardInterrupt(), StopSampling()):
        post = hnbayes.sample_minibatch(NET, X, Y, callbacks=[Stop(error)], **options)
        assert post.num_draws == 20
        assert post.draws.metadata["interrupted"] == 1
    with pytest.raises(RuntimeError) as caught:
        hnbayes.sample_minibatch(NET, X, Y, callbacks=[Stop(RuntimeError("no"))], **options)
    assert caught.value.posterior.num_draws == 20


def test_steps_that_are_too_large_are_refused_with_the_draws_so_far():
    with pytest.raises(ValueError, match="Lower it") as caught:
        hnbayes.sample_minibatch(NET, X, Y, kernel="sgld", step_size=10.0, init="prior", warmup=0, draws=2000, **MODEL)
    assert caught.value.posterior.num_draws > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kernel": "nuts"}, ValueError, "kernel"),
        ({"kernel": SGLD}, TypeError, "kernel"),
        ({"step_size": 0.0}, ValueError, "step_size"),
        ({"temperature": 0.0}, ValueError, "temperature"),
        ({"schedule": "linear"}, ValueError, "schedule"),
        ({"schedule": 3}, TypeError, "schedule"),
        ({"schedule": lambda k: -1.0}, ValueError, "schedule"),
        ({"schedule": Cyclical(cycles=1, exploration=0.9), "thin": 4}, ValueError, "one to be kept"),
        ({"kernel": "psgld", "warmup": 0}, ValueError, "warm-up"),
        ({"thin": 9}, ValueError, "thin"),
        ({"callbacks": 3}, TypeError, "callbacks"),
    ],
)
def test_refusals(options, error, message):
    given = {"step_size": 1e-4, "draws": 5, "warmup": 2, "init": "prior", **MODEL} | options
    with pytest.raises(error, match=message):
        hnbayes.sample_minibatch(NET, X, Y, **given)


def test_refusals_of_data_and_options():
    options = {"step_size": 1e-4, "draws": 5, "warmup": 2, "init": "prior", **MODEL}
    with pytest.raises(ValueError, match="y is needed"):
        hnbayes.sample_minibatch(NET, X, **options)
    loader = DataLoader(TensorDataset(X, Y, Y), batch_size=10)
    with pytest.raises(TypeError, match="pairs of tensors"):
        hnbayes.sample_minibatch(NET, loader, **options)
    with pytest.raises(ValueError, match="left out with a loader"):
        hnbayes.sample_minibatch(NET, loader, Y, **options)

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield X[0], Y[0]

    with pytest.raises(TypeError, match="IterableDataset"):
        hnbayes.sample_minibatch(NET, DataLoader(Endless()), **options)
    for wrong in (
        lambda: PSGLD(decay=1.5),
        lambda: SGHMC(friction=0.1, noise_estimate=0.2),
        lambda: Cyclical(cycles=0),
    ):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(TypeError):
        PSGLD(frozen=1)
