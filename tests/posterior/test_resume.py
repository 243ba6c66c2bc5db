"""hnbayes.resume: from a run's folder and the network to the posterior of the run that wasn't stopped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import hnbayes
from hnbayes import likelihoods, priors
from hnbayes.posterior.record import decode
from hnbayes.sampling.callbacks import StopSampling

pytestmark = pytest.mark.filterwarnings("ignore::hnbayes.SamplingWarning")
X = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
Y = X[:, :1].sin()


def network(hidden=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 1))


def sample(X=X, y=Y, **options):
    options = {"chains": 2, "warmup": 30, "draws": 20, "max_tree_depth": 4, "map_steps": 30, "seed": 3} | options
    return hnbayes.sample(network(), X, y, progress=False, **options)


def stop(event):
    if event.done.max() > 40:
        raise StopSampling


def stopped(folder, **options):
    post = sample(checkpoint=folder, callbacks=[stop], **options)
    assert 0 < post.num_draws < 20
    return post


def resume(folder, net=None, *data, **options):
    return hnbayes.resume(folder, network() if net is None else net, *data, progress=False, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prior": priors.HierarchicalNormal(), "likelihood": likelihoods.StudentT(df="learned")},
        pytest.param({"y": (Y[:, 0] > 0).float()[:, None], "likelihood": "bernoulli"}, marks=pytest.mark.slow),
        pytest.param({"X": X.numpy(), "kernel": "hmc", "num_steps": 8}, marks=pytest.mark.slow),
    ],
    ids=["default", "others", "labels", "hmc"],
)
def test_resumed_from_the_network_alone(options, tmp_path):
    whole = sample(**options)
    stopped(tmp_path, **options)
    resumed = resume(tmp_path)
    assert torch.equal(resumed.draws.positions, whole.draws.positions)
    assert torch.equal(resumed.X, whole.X)
    assert torch.equal(resumed.y, whole.y)
    ours, theirs = resumed.predict(X), whole.predict(X)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])
    longer = resume(tmp_path, draws=35)
    assert torch.equal(longer.draws.positions[:, :20], whole.draws.positions)
    assert longer.num_draws == 35


@pytest.mark.parametrize("cores", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_a_whitened_output_layer(cores, tmp_path):
    """Draws of the weights, though the files hold those of other axes, and say so."""
    options = {"output_layer": "whitened", "likelihood": likelihoods.Gaussian(scale=0.2), "cores": cores}
    whole = sample(**options)
    part = stopped(tmp_path, **options)
    # Moving to the weights is done for another number of draws at once, which rounds otherwise.
    torch.testing.assert_close(part.draws.positions, whole.draws.positions[:, : part.num_draws], rtol=1e-4, atol=1e-4)
    resumed = resume(tmp_path)
    assert torch.equal(resumed.draws.positions, whole.draws.positions)
    assert resumed.draws.spec == whole.draws.spec
    assert resumed.draws.metadata["output_layer"] == "whitened"
    stored = hnbayes.read_draws(tmp_path)
    assert "whitened.2.weight" in stored.params()
    assert "2.weight" not in stored.params()
    assert not torch.allclose(stored.params()["whitened.2.weight"], whole.draws.params()["2.weight"])
    assert torch.equal(stored.params()["0.weight"], whole.draws.params()["0.weight"])


def test_functions_are_given_again(tmp_path):
    def prior(w):
        return -0.5 * w.square().sum()

    whole = sample(prior=prior, init="module")
    stopped(tmp_path, prior=prior, init="module")
    with pytest.raises(ValueError, match="prior that files can't hold"):
        resume(tmp_path)
    assert torch.equal(resume(tmp_path, prior=prior).draws.positions, whole.draws.positions)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((network(5),), {}, "another network"),
        ((network(), X + 1), {}, "X must be that of the run"),
        ((network(), X, Y[:20]), {}, "y"),
        ((network(), X, Y * 2), {}, "y must be that of the run"),
        ((network(),), {"prior": 3.0}, "same model and data"),
        ((network(),), {"likelihood": likelihoods.Gaussian(scale=0.3)}, "another likelihood or prior"),
    ],
)
def test_other_models_and_data_are_refused(arguments, options, message, tmp_path):
    stopped(tmp_path)
    with pytest.raises(ValueError, match=message):
        resume(tmp_path, *arguments, **options)
    assert resume(tmp_path, network(), X, Y).num_draws == 20


def test_frozen_parameters_are_part_of_the_model(tmp_path):
    def half(value):
        net = network()
        nn.init.constant_(net[0].weight.requires_grad_(False), value)
        return net

    options = {"warmup": 10, "draws": 10, "seed": 0, "map_steps": 5, "progress": False, "chains": 1}
    post = hnbayes.sample(half(0.1), X, Y, **options, checkpoint=tmp_path)
    assert torch.equal(resume(tmp_path, half(0.1)).draws.positions, post.draws.positions)
    with pytest.raises(ValueError, match="same model and data"):
        resume(tmp_path, half(0.2))


def test_potentials_and_networks_are_told_apart(tmp_path):
    hnbayes.sample_potential(
        lambda q: 0.5 * q.square().sum(),
        torch.ones(1, 2),
        warmup=5,
        draws=5,
        seed=0,
        checkpoint=tmp_path,
        progress=False,
    )
    with pytest.raises(ValueError, match="none of a network"):
        resume(tmp_path)
    with pytest.raises(TypeError, match="X belongs to a network"):
        hnbayes.resume(tmp_path, lambda q: 0.5 * q.square().sum(), X)
    assert hnbayes.resume(tmp_path, lambda q: 0.5 * q.square().sum(), progress=False).num_draws == 5
    assert hnbayes.read_draws(tmp_path).num_draws == 5


def test_a_folder_with_a_run_is_refused_before_anything_is_written(tmp_path):
    stopped(tmp_path)
    model = (tmp_path / "run.model").read_bytes()
    with pytest.raises(ValueError, match="holds one"):
        sample(X=X + 1, checkpoint=tmp_path)
    assert (tmp_path / "run.model").read_bytes() == model


@pytest.mark.parametrize(
    "record",
    [
        {"room": "distributions", "class": "biject_to", "arguments": {}},
        {"room": "distributions", "class": "__builtins__", "arguments": {}},
        {"room": "priors", "class": "as_prior", "arguments": {"prior": 1.0}},
        {"room": "os", "class": "system", "arguments": {"command": "true"}},
        {"tensor": [1.0], "dtype": "load"},
    ],
)
def test_files_can_name_nothing_but_models(record):
    with pytest.raises(ValueError, match=r"a file may hold|must have a dtype"):
        decode(record)
