"""Models as users write them, whose posteriors are reached through the package's own pieces; and what is known of them.

For each, parameters are drawn from the prior, and data given these, in plain torch or NumPy. Both chains of a data set
start at the parameters that made it, one for each direction of time (see `exact.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from exact import PLACES, Ranks, ranks_of
from numpy.typing import NDArray
from targets import standard_normal
from torch import Tensor, nn

import hnbayes
import hnbayes.pyro
from hnbayes.laplace import DiagGaussian, from_fisher
from hnbayes.likelihoods import Gaussian
from hnbayes.posterior.model import Model
from hnbayes.priors import HierarchicalNormal

HIDDEN = 3
INPUTS = torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)[:, None]
NEW = torch.tensor([[-2.0], [0.4]], dtype=torch.float64)
FIXED = {"warmup": 0, "adapt_step_size": False, "metric": "unit", "max_tree_depth": 6, "progress": False}
WEIGHTS = {"0.weight": (HIDDEN, 1), "0.bias": (HIDDEN,), "2.weight": (1, HIDDEN), "2.bias": (1,)}


def join(start: Tensor, back: Tensor, forth: Tensor, place: int) -> Tensor:
    """The states (L + 1, ...) of a chain in which `start` stands at `place`."""
    return torch.cat((back[:place].flip(0), start[None], forth[: PLACES - 1 - place]))


def ranks_of_states(names: tuple[str, ...], states: list[Tensor], places: NDArray[np.int64], seed: int) -> Ranks:
    """Ranks of every quantity, from the states (L + 1, Q) of each data set."""
    stacked = torch.stack(states)
    values = [ranks_of(stacked[..., i], places, seed + i) for i in range(stacked.shape[-1])]
    return Ranks(names, np.stack(values, 1), PLACES)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(1, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1)).double()


def outputs_by_hand(weights: dict[str, Tensor], X: Tensor) -> Tensor:
    """The network's outputs (..., N) for weights (..., *shape)."""
    hidden = torch.tanh(X @ weights["0.weight"].mT + weights["0.bias"][..., None, :])
    return (hidden @ weights["2.weight"].mT + weights["2.bias"][..., None, :])[..., 0]


def network_ranks(count: int, seed: int, centred: bool = False, noise: float = 1.0) -> Ranks:
    """Ranks of weights, their learned scale, the learned noise, predictions and errors, through `hnbayes.sample`.

    Args:
        count: data sets.
        seed: of everything.
        centred: how the model is parametrised.
        noise: a factor by which the model's prior of the noise is wrong.
    """
    rng = np.random.default_rng((seed, 31))
    generator = torch.Generator().manual_seed(1000 + seed)
    places = rng.integers(0, PLACES, count)
    states, names = [], ()
    likelihood = Gaussian(torch.distributions.Gamma(4.0, 8.0 / noise))
    prior = HierarchicalNormal(torch.distributions.Gamma(4.0, 5.0), per="all", centred=centred)
    for number in range(count):
        # Away from 0, where a fixed step size would be too long.
        tau, sigma = rng.gamma(4.0, 0.2), rng.gamma(4.0, 0.125)
        weights = {
            name: tau * torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in WEIGHTS.items()
        }
        y = outputs_by_hand(weights, INPUTS)
        y = y + sigma * torch.randn(y.shape, generator=generator, dtype=torch.float64)
        model = Model(network(), likelihood, prior, INPUTS)
        values = {
            "sigma": torch.tensor(sigma, dtype=torch.float64),
            "prior_scale": torch.tensor(tau, dtype=torch.float64),
        }
        values |= weights if centred else {f"{name}_z": w / tau for name, w in weights.items()}
        start = model.coordinates.unconstrain(values)
        post = hnbayes.sample(
            network(),
            INPUTS,
            y[:, None],
            likelihood=likelihood,
            prior=prior,
            chains=2,
            init=start.repeat(2, 1),
            draws=PLACES - 1,
            step_size=0.12 if not centred else 0.06,
            seed=1000 * seed + number,
            **FIXED,
        )
        found = post.params()
        columns = {"sigma": found["sigma"], "prior scale": found["prior_scale"]}
        columns |= {f"{name}[0]": found[name].flatten(2)[..., 0] for name in WEIGHTS}
        new = post.outputs(NEW)
        columns |= {f"f({float(x):.1f})": new[..., i, 0] for i, x in enumerate(NEW)}
        columns["squared error"] = (post.outputs(INPUTS)[..., 0] - y).square().sum(-1) / found["sigma"].square()
        own = {"sigma": sigma, "prior scale": tau} | {f"{n}[0]": float(w.flatten()[0]) for n, w in weights.items()}
        predicted = outputs_by_hand(weights, NEW)
        own |= {f"f({float(x):.1f})": float(predicted[i]) for i, x in enumerate(NEW)}
        own["squared error"] = float((outputs_by_hand(weights, INPUTS) - y).square().sum() / sigma**2)
        names = tuple(columns)
        both = torch.stack([columns[name] for name in names], -1)
        first = torch.tensor([own[name] for name in names], dtype=torch.float64)
        states.append(join(first, both[0], both[1], int(places[number])))
    return ranks_of_states(names, states, places, seed)


@dataclass(frozen=True)
class PyroCase:
    """A Pyro model, the prior's draws in NumPy, and what its data are given these.

    Attributes:
        model: of the data.
        draw: rng -> site -> value.
        data: values, rng -> data.
        free: values -> site -> unconstrained value.
        step_size: of NUTS.
    """

    model: Callable[[Tensor], None]
    draw: Callable[[np.random.Generator], dict[str, NDArray[np.float64]]]
    data: Callable[[dict[str, NDArray[np.float64]], np.random.Generator], NDArray[np.float64]]
    free: Callable[[dict[str, NDArray[np.float64]]], dict[str, NDArray[np.float64]]]
    step_size: float


def _groups(y: Tensor, location: float = 0.0) -> None:
    one = y.new_ones(())
    mu = pyro.sample("mu", dist.Normal(location * one, 2 * one))
    tau = pyro.sample("tau", dist.HalfNormal(one))
    with pyro.plate("group", len(y)):
        eta = pyro.sample("eta", dist.Normal(0 * one, one))
        pyro.sample("obs", dist.Normal(mu + tau * eta, 0.8 * one), obs=y)


def _rates(y: Tensor, shape: float = 2.0) -> None:
    one = y.new_ones(())
    p = pyro.sample("p", dist.Beta(2 * one, 3 * one))
    rate = pyro.sample("rate", dist.Gamma(shape * one, 0.5 * one))
    with pyro.plate("count", 4):
        pyro.sample("flips", dist.Binomial(10 * one, p), obs=y[:4])
        pyro.sample("counts", dist.Poisson(rate), obs=y[4:])


GROUPS = PyroCase(
    _groups,
    lambda rng: {"mu": 2 * rng.normal(size=()), "tau": np.abs(rng.normal(size=())), "eta": rng.normal(size=6)},
    lambda v, rng: v["mu"] + v["tau"] * v["eta"] + 0.8 * rng.normal(size=6),
    lambda v: v | {"tau": np.log(v["tau"])},
    0.35,
)
RATES = PyroCase(
    _rates,
    lambda rng: {"p": rng.beta(2, 3, size=()), "rate": rng.gamma(2, 2, size=())},
    lambda v, rng: np.concatenate((rng.binomial(10, v["p"], 4), rng.poisson(v["rate"], 4))).astype(float),
    lambda v: {"p": np.log(v["p"] / (1 - v["p"])), "rate": np.log(v["rate"])},
    0.4,
)
PYRO_CASES = {"groups": GROUPS, "rates": RATES}


def pyro_ranks(case: PyroCase, count: int, seed: int, model: Callable[[Tensor], None] | None = None) -> Ranks:
    """Ranks of every site through `VectorizedMCMC`; `model` is another than the one that made the data."""
    rng = np.random.default_rng((seed, 32))
    places = rng.integers(0, PLACES, count)
    states, names = [], ()
    for number in range(count):
        values = case.draw(rng)
        data = torch.from_numpy(case.data(values, rng))
        start = {k: torch.as_tensor(np.array([v, v]), dtype=torch.float64) for k, v in case.free(values).items()}
        kernel = hnbayes.pyro.NUTS(
            model or case.model,
            step_size=case.step_size,
            adapt_step_size=False,
            adapt_mass_matrix=False,
            max_tree_depth=6,
        )
        mcmc = hnbayes.pyro.VectorizedMCMC(
            kernel, PLACES - 1, 0, num_chains=2, initial_params=start, seed=1000 * seed + number, disable_progbar=True
        )
        mcmc.run(data)
        found = mcmc.get_samples(group_by_chain=True)
        flat = {k: found[k].double().flatten(2) if found[k].ndim > 2 else found[k][..., None] for k in sorted(found)}
        names = tuple(f"{k}{i}" for k, v in flat.items() for i in range(v.shape[-1]))
        both = torch.cat(list(flat.values()), -1)
        own = torch.cat([torch.as_tensor(values[k], dtype=torch.float64).reshape(-1) for k in flat])
        states.append(join(own, both[0], both[1], int(places[number])))
    return ranks_of_states(names, states, places, seed)


SIZE, TASKS, VARIANCE = 3, 3, 0.5


def _task_design(task: int) -> Tensor:
    """Orthogonal columns, so that the precision matrix is diagonal and EWC's Gaussian is the posterior."""
    q, _ = torch.linalg.qr(standard_normal(6, SIZE, 200 + task))
    return q * (0.5 + standard_normal(1, SIZE, 300 + task).abs())


def sequential_ranks(count: int, seed: int, again: int = 0) -> Ranks:
    """Ranks of the weights of a linear model whose tasks come one after another, by an EWC prior and NUTS for the last.

    Args:
        count: sequences of data sets.
        seed: of everything.
        again: how often the first prior is counted again with the last task.
    """
    places = np.random.default_rng((seed, 33)).integers(0, PLACES, count)
    first = DiagGaussian(torch.tensor([0.5, 0.0, -1.0], dtype=torch.float64), torch.tensor([1.0, 2.0, 0.5]).double())
    states = []
    for number in range(count):
        theta = first.mean + standard_normal(1, SIZE, 7000 * seed + number)[0] / first.precision.sqrt()
        belief, net = first, nn.Linear(SIZE, 1, bias=False).double()
        for task in range(TASKS):
            X = _task_design(task)
            y = X @ theta + VARIANCE**0.5 * standard_normal(1, 6, 7000 * seed + 1000 * (task + 1) + number)[0]
            if task == TASKS - 1:
                break
            mode = belief.mean + torch.linalg.solve(
                X.mT @ X / VARIANCE + torch.diag(belief.precision), X.mT @ (y - X @ belief.mean) / VARIANCE
            )
            with torch.no_grad():
                net.weight.copy_(mode[None])
            belief = from_fisher(net, (X, y[:, None]), prior=belief, likelihood="gaussian", noise_variance=VARIANCE)
        for _ in range(again):
            belief = belief * first
        U = hnbayes.nn_pot_energy(net, X, y[:, None], belief, tau_pred=1 / VARIANCE)
        both = hnbayes.sample_potential(
            U, theta.repeat(2, 1), draws=PLACES - 1, step_size=0.5, seed=1000 * seed + number, **FIXED
        ).positions
        columns = torch.cat((both, (both.square()).sum(-1, keepdim=True)), -1)
        own = torch.cat((theta, theta.square().sum()[None]))
        states.append(join(own, columns[0], columns[1], int(places[number])))
    return ranks_of_states((*(f"w{i}" for i in range(SIZE)), "length"), states, places, seed)
