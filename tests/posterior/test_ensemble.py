"""Deep ensembles trained in one batch: against members trained alone by hand, early stopping, starts of chains."""

from __future__ import annotations

import copy
import math
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import hnbayes
from hnbayes import EnsembleTraining
from hnbayes.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Poisson
from hnbayes.posterior import Model, ensemble
from hnbayes.posterior.starts import at_weights
from hnbayes.priors import FanInNormal, HierarchicalNormal, Horseshoe, Normal

QUICK = EnsembleTraining(epochs=30, batch_size=16, learning_rate=0.02, patience=10)


def network(outputs=1, hidden=8):
    return nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def data(count=80, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(count, 2, generator=generator)
    return X, torch.sin(2 * X[:, :1]) + 0.1 * torch.randn(count, 1, generator=generator)


def test_one_member_is_trained_as_by_hand():
    """Adam of plain torch on the same batches, from the same weights."""
    X, y = data()
    net = network().double()
    X, y = X.double(), y.double()
    how = EnsembleTraining(epochs=3, batch_size=10, learning_rate=0.01, validation=0)
    found = hnbayes.deep_ensemble(net, X, y, likelihood=Gaussian(0.5), prior=Normal(0, 2.0), training=how, seed=3)
    assert found.draws.positions.shape == (10, 1, 33)

    stream = np.random.default_rng(np.random.SeedSequence(3, spawn_key=(4, ensemble.MEMBER_KEY)))
    rows = torch.as_tensor(stream.permutation(80))
    with torch.random.fork_rng():
        torch.manual_seed(int(stream.integers(2**31)))
        own = _drawn_anew(net)
    optimizer = torch.optim.Adam(own.parameters(), lr=0.01)
    for _ in range(3):
        order = rows[torch.as_tensor(stream.permutation(80))]
        for batch in order.split(10):
            residual = (own(X[batch]) - y[batch]) / 0.5
            prior = sum((w / 2.0).square().sum() for w in own.parameters()) / 2 / 80
            optimizer.zero_grad()
            (residual.square().mean() / 2 + prior).backward()
            optimizer.step()
    weights = torch.cat([w.detach().reshape(-1) for w in own.parameters()])
    torch.testing.assert_close(found.draws.positions[4, 0], weights, rtol=1e-7, atol=1e-9)


def _drawn_anew(net):
    own = copy.deepcopy(net)
    for module in own:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return own


def test_members_differ_and_fit_and_the_caller_s_network_stays():
    X, y = data()
    net = network()
    before = {name: w.clone() for name, w in net.state_dict().items()}
    how = EnsembleTraining(epochs=200, batch_size=16, learning_rate=0.02)
    found = hnbayes.deep_ensemble(net, X, y, members=4, training=how, seed=1)
    assert all(torch.equal(w, before[name]) for name, w in net.state_dict().items())
    outputs = found.outputs(X)[:, 0]
    assert (outputs - y).square().mean().sqrt() < 0.3
    assert (outputs[0] - outputs[1]).abs().max() > 0.01
    assert found.score(X, y)["rmse"] < 0.25
    log_joint = -found.model.potential(found.X, found.y).value(found.draws.positions[:, 0])
    torch.testing.assert_close(found.draws.stats["lp"][:, 0].float(), log_joint, rtol=1e-4, atol=1e-3)


def test_a_member_is_the_same_alone_and_among_others():
    X, y = (values.double() for values in data())
    how = EnsembleTraining(epochs=5, batch_size=16)
    options = {"likelihood": "gaussian", "training": how, "seed": 2}
    many = hnbayes.deep_ensemble(network().double(), X, y, members=3, **options)
    one = hnbayes.deep_ensemble(network().double(), X, y, members=1, **options)
    torch.testing.assert_close(many.draws.positions[0], one.draws.positions[0], rtol=1e-7, atol=1e-9)


def test_early_stopping_takes_the_best_epoch_of_each_member():
    """With few noisy data a large network overfits: the best epoch is long before the last."""
    generator = torch.Generator().manual_seed(0)
    X, y = torch.randn(40, 2, generator=generator), torch.randn(40, 1, generator=generator)
    model = Model(network(hidden=50), Gaussian(0.5), Normal(0, 10.0), X)
    inputs, targets = model.data(X, y)
    how = EnsembleTraining(epochs=150, batch_size=8, learning_rate=0.02, validation=0.25, patience=30)
    found = ensemble.train(model, inputs, targets, range(3), 5, how)
    assert (found.epochs < 120).all()
    for k in range(3):
        stream = np.random.default_rng(np.random.SeedSequence(5, spawn_key=(k, ensemble.MEMBER_KEY)))
        held_out = stream.permutation(40)[:10]
        mean = functional_call(model.function.net, _weights(model, found, k), X)
        density = torch.distributions.Normal(mean[held_out], 0.5).log_prob(y[held_out]).mean()
        assert math.isclose(float(found.validation[k]), float(density), rel_tol=1e-4)
        # Training that ends at that epoch leaves the same weights, so they are neither the last nor later ones.
        ended = EnsembleTraining(int(found.epochs[k]), 8, 0.02, 0.25, 30)
        torch.testing.assert_close(
            ensemble.train(model, inputs, targets, range(3), 5, ended).positions[k], found.positions[k]
        )


def _weights(model, found, k):
    return model.bound.weights(model.values(found.positions[k]))


LABELS = (data()[0][:, 0] > 0).long()


@pytest.mark.parametrize(
    ("likelihood", "outputs", "y"),
    [
        ("gaussian", 1, data()[1]),
        (HeteroscedasticGaussian(), 2, data()[1]),
        (Categorical(), 2, LABELS),
        (Poisson(), 1, LABELS[:, None].float()),
        ("student_t", 1, data()[1]),
    ],
    ids=["gaussian", "heteroscedastic", "categorical", "poisson", "student"],
)
def test_every_likelihood(likelihood, outputs, y):
    found = hnbayes.deep_ensemble(
        network(outputs), data()[0], y, likelihood=likelihood, members=2, training=QUICK, seed=0
    )
    assert torch.isfinite(found.draws.stats["lp"]).all()
    start = at_weights(found.model, found.model.function.like())
    assert (found.draws.stats["lp"] > -found.model.potential(found.X, found.y)(start)).all()


@pytest.mark.parametrize("prior", [0.5, FanInNormal(), HierarchicalNormal(), Horseshoe(), lambda w: -w.abs().sum()])
def test_every_prior(prior):
    X, y = data()
    found = hnbayes.deep_ensemble(network(), X, y, prior=prior, members=2, training=QUICK, seed=0)
    assert torch.isfinite(found.draws.positions).all()
    assert found.score(X, y)["rmse"] < 0.7


@pytest.mark.filterwarnings("ignore::hnbayes.SamplingWarning")
@pytest.mark.parametrize("kernel", ["nuts", "mclmc", "mamclmc"])
def test_chains_start_at_the_members(kernel, tmp_path):
    X, y = data()
    options = {"kernel": kernel, "chains": 3, "warmup": 1, "draws": 2, "seed": 7, "progress": False}
    found = hnbayes.sample(network(), X, y, init=QUICK, checkpoint=tmp_path / "run", max_tree_depth=2, **options)
    members = hnbayes.deep_ensemble(network(), X, y, members=3, training=QUICK, seed=7)
    at_start = hnbayes.sample(network(), X, y, init=members.draws.positions[:, 0], max_tree_depth=2, **options)
    torch.testing.assert_close(found.draws.positions, at_start.draws.positions)
    assert found.draws.num_draws == hnbayes.resume(tmp_path / "run", network(), progress=False).draws.num_draws


@pytest.mark.filterwarnings("ignore::hnbayes.SamplingWarning")
def test_the_name_alone_and_axes_of_the_output_layer():
    X, y = data(30)
    options = {"chains": 2, "warmup": 2, "draws": 2, "seed": 0, "progress": False, "max_tree_depth": 2}
    found = hnbayes.sample(network(), X, y, init="ensemble", output_layer="whitened", **options)
    assert torch.isfinite(found.draws.positions).all()


def test_refusals():
    for bad in ({"epochs": 0}, {"validation": 1.0}, {"learning_rate": -1.0}, {"prior_weight": -1.0}, {"patience": 0}):
        with pytest.raises(ValueError):
            EnsembleTraining(**bad)
    with pytest.raises(ValueError, match="beside those for validation"):
        hnbayes.deep_ensemble(network(), *data(1), training=QUICK)
    with pytest.raises(ValueError, match="init must be one of"):
        hnbayes.sample(network(), *data(), init="committee")


@pytest.mark.slow
def test_ten_members_at_once_are_quicker_than_one_after_another():
    X, y = data(1000)
    how = EnsembleTraining(epochs=10, batch_size=32, validation=0)
    seconds = {}
    for members in (10, 1):
        began = time.perf_counter()
        hnbayes.deep_ensemble(network(hidden=16), X, y, members=members, training=how, seed=0)
        seconds[members] = time.perf_counter() - began
    assert 10 * seconds[1] > 3 * seconds[10]
