"""The documented chains: what a state costs, that the draws are right, and what they become."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from documented_chains import (
    CLASSES,
    KINDS,
    TUNED,
    import_arviz,
    make,
    make_all,
    path,
    paths,
    standard,
    starts_for,
)

import hnbayes.kernels.hmc
import hnbayes.kernels.metrics
import hnbayes.kernels.metropolis
from hnbayes import MultiChainHMC, ParamSpec, nn_pot_energy, to_inference_data

torch.set_num_threads(1)


# --- what it costs ----------------------------------------------------------------------------------------------------


class Counter:
    """U that counts its calls and can't be captured."""

    def __init__(self):
        self.calls = 0

    def __call__(self, q):
        self.calls += 1
        return standard(q) * (1.0 if q[0].item() < 1e9 else 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_one_evaluation_a_step(kind):
    U = Counter()
    chain = make(kind, U=U)
    chain.simulate_chain(1)
    # To find the way of evaluating takes two, or three for values alone; the start takes one.
    first = int(chain.to_draws().stats["n_steps"].sum())
    assert U.calls <= first + 4
    before = U.calls
    for n in (7, 13):
        chain.simulate_chain(n)
    steps = int(chain.to_draws().stats["n_steps"].sum())
    assert U.calls - before == steps - first
    if kind == "hmc":
        assert steps == 21 * 3
    chain.to_draws()
    _ = chain.acceptance_probability
    assert U.calls - before == steps - first


# --- constants in U: faults of earlier implementations ----------------------------------------------------------------


def z_scores(draws, mean, covariance):
    """How many Monte Carlo standard errors means and second central moments are off; draws (C, S, D)."""
    arviz = import_arviz()
    z = []
    for i, j in itertools.combinations_with_replacement(range(len(mean)), 2):
        product = ((draws[:, :, i] - mean[i]) * (draws[:, :, j] - mean[j])).double().numpy()
        z.append((product.mean() - float(covariance[i, j])) / float(arviz.mcse(product, method="mean")))
    for i in range(len(mean)):
        x = draws[:, :, i].double().numpy()
        z.append((x.mean() - float(mean[i])) / float(arviz.mcse(x, method="mean")))
    return np.abs(np.array(z))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [1e4, -300.0])
def test_a_constant_in_u_changes_nothing_in_float32(constant, kind):
    """exp(-U - K) under- or overflows in float32 from about 88 on."""
    starts = starts_for(4, dtype=torch.float32)
    options = {"proposal_std": 2.0} if kind == "mcmc" else {}
    chains = make_all(kind, starts, lambda q: standard(q) + constant, **options)
    chains.simulate_chains(300)
    z = z_scores(chains.to_draws().positions, torch.zeros(2), torch.eye(2))
    assert z.max() < 4
    if kind != "mcmc":
        assert chains.avg_acceptance_probability > 0.8
        assert not chains.to_draws().stats["diverging"].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [2.0**14, 200.0, -300.0])
def test_a_constant_in_u_changes_no_draw_in_float64(constant, kind):
    plain, shifted_up = make(kind), make(kind, U=lambda q: standard(q) + constant)
    for chain in (plain, shifted_up):
        chain.simulate_chain(100)
    torch.testing.assert_close(path(plain), path(shifted_up), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        plain.to_draws().stats["lp"] - constant, shifted_up.to_draws().stats["lp"], rtol=1e-12, atol=1e-9
    )


# --- moments ----------------------------------------------------------------------------------------------------------

MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.5, 0.3, 1.5]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.mT
PRECISION = torch.linalg.inv(COVARIANCE)

SAMPLERS = {
    "HMC": ("hmc", {"stepsize": 0.55, "num_steps": 4}),
    "HMC, one step": ("hmc", {"stepsize": 0.9, "num_steps": 1}),
    "HMC, dense mass": ("hmc", {"stepsize": 1.0, "num_steps": 2, "inv_mass": COVARIANCE}),
    "HMC, diagonal mass": ("hmc", {"stepsize": 0.5, "num_steps": 4, "inv_mass": COVARIANCE.diagonal()}),
    "NUTS": ("nuts", {"stepsize": 0.7}),
    "NUTS, dense mass": ("nuts", {"stepsize": 1.0, "inv_mass": COVARIANCE}),
    "NUTS, depth 1": ("nuts", {"stepsize": 0.7, "max_tree_depth": 1}),
    "MCMC": ("mcmc", {"proposal_std": 1.2}),
}


def gaussian(q):
    return 0.5 * (q - MEAN) @ PRECISION @ (q - MEAN)


def sample_gaussian(name, states=500):
    """Four chains, started in the target itself."""
    kind, options = SAMPLERS[name]
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    chains = MultiChainHMC(list(MEAN + z @ ROOT.mT), gaussian, kind, seed=0, **options)
    chains.simulate_chains(states)
    return chains.to_draws().positions


@pytest.mark.parametrize("name", SAMPLERS)
def test_moments(name):
    assert z_scores(sample_gaussian(name), MEAN, COVARIANCE).max() < 4


def tempered(energy, proposed, *rest):
    return np.minimum(0.4 * (energy - proposed), 0.0)


def always(energy, proposed, *rest):
    return np.zeros_like(energy)


def fast(self, z, ix=None):
    return 1.5 * z


@pytest.mark.parametrize(
    ("name", "where", "attribute", "mutant"),
    [
        ("HMC, one step", hnbayes.kernels.hmc, "log_acceptance", always),
        ("HMC, dense mass", hnbayes.kernels.hmc, "log_acceptance", always),
        ("MCMC", hnbayes.kernels.metropolis, "log_acceptance", tempered),
        ("HMC", hnbayes.kernels.metrics.DiagonalMetric, "momentum", fast),
        ("NUTS", hnbayes.kernels.metrics.DiagonalMetric, "momentum", fast),
        ("NUTS, dense mass", hnbayes.kernels.metrics.DenseMetric, "momentum", fast),
    ],
)
def test_moments_reject_mutants(name, where, attribute, mutant, monkeypatch):
    monkeypatch.setattr(where, attribute, mutant)
    states = 300 if name.startswith("NUTS") else 500
    assert z_scores(sample_gaussian(name, states), MEAN, COVARIANCE).max() > 5


# --- draws and InferenceData ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_to_draws(kind):
    chains = make_all(kind)
    with pytest.raises(ValueError, match=r"must hold states.*simulate_chain\(n\) first"):
        chains.to_draws()
    chains.simulate_chains(5)
    chains.simulate_chains(3, num_chains=[1])
    draws = chains.to_draws()
    # Of each chain the last as many as all have; the initial positions are no draws.
    assert draws.positions.shape == (3, 5, 2)
    for c, chain in enumerate(chains.chains):
        assert torch.equal(draws.positions[c], path(chain)[-5:])
    assert all(values.shape == (3, 5) for values in draws.stats.values())
    torch.testing.assert_close(-draws.stats["lp"], 0.5 * draws.positions.square().sum(-1))
    scale = TUNED[kind].get("stepsize", 1.0)
    assert draws.step_size.tolist() == [scale] * 3
    torch.testing.assert_close(draws.inverse_metric, torch.ones(3, 2, dtype=torch.float64))
    assert draws.metadata["kernel"] == CLASSES[kind].__name__
    assert draws.metadata["seed"] == 0
    alone = chains.chains[1].to_draws()
    assert torch.equal(alone.positions[0], path(chains.chains[1])[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_say_what_happened(kind):
    chain = make(kind, **({"stepsize": 1.7} if kind != "mcmc" else {"proposal_std": 3.0}))
    chain.simulate_chain(60)
    stats = {name: values[0] for name, values in chain.to_draws().stats.items()}
    assert ((stats["acceptance_rate"] >= 0) & (stats["acceptance_rate"] <= 1)).all()
    assert stats["diverging"].dtype == torch.bool
    if kind == "nuts":
        assert (stats["n_steps"] <= 2 ** stats["tree_depth"] - 1).all()
        assert stats["reached_max_treedepth"].dtype == torch.bool
    else:
        moved = (path(chain)[1:] != path(chain)[:-1]).any(1)
        assert torch.equal(stats["accepted"], moved)
        assert moved.any()
        assert not moved.all()
        rejected = ~moved
        # A rejected step repeats the state and its energy.
        lp = torch.cat([torch.tensor([0.0], dtype=torch.float64), stats["lp"]])
        assert torch.equal(lp[1:][rejected], lp[:-1][rejected])
    if kind != "mcmc":
        assert (stats["energy"] + stats["lp"] >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_to_inference_data(kind):
    import_arviz()
    chains = make_all(kind)
    chains.simulate_chains(6)
    for source, expected in [(chains, paths(chains)[:, 1:]), (chains.chains[2], path(chains.chains[2])[None, 1:])]:
        for data in (to_inference_data(source), source.to_draws().to_inference_data()):
            posterior = data["posterior"]["position"]
            assert posterior.dims == ("chain", "draw", "position_dim_0")
            np.testing.assert_array_equal(posterior.values, expected.numpy())
            lp = data["sample_stats"]["lp"].values
            np.testing.assert_allclose(lp, -0.5 * expected.square().sum(-1).numpy())
            assert data["sample_stats"]["diverging"].dtype == bool


def test_to_inference_data_of_a_network_has_its_parameters():
    import_arviz()
    net = torch.nn.Linear(2, 1).double()
    X, y = torch.ones(4, 2, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    U = nn_pot_energy(net, X, y, lambda q: -standard(q))
    chains = make_all("nuts", starts_for(2, 3), U)
    chains.simulate_chains(4)
    assert chains.to_draws().spec == ParamSpec(("weight", "bias"), ((1, 2), (1,)))
    posterior = to_inference_data(chains)["posterior"]
    assert set(posterior.data_vars) == {"weight", "bias"}
    np.testing.assert_array_equal(posterior["weight"].values, paths(chains)[:, 1:, :2].reshape(2, 4, 1, 2).numpy())
    np.testing.assert_array_equal(posterior["bias"].values, paths(chains)[:, 1:, 2:].numpy())
