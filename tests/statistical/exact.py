"""Three tests that are exact whatever a chain's autocorrelation: nothing in them needs a chain to have converged.

Invariance: independent exact draws of a density, moved by some transitions, are independent exact draws still.

Ranks (simulation-based calibration: Talts et al. 2018, in the exact form of Gandy and Scott 2020): theta is drawn from
the prior, y given theta, so theta is an exact draw of the posterior given y. A reversible chain that runs from it m
steps one way and L - m the other is a stationary chain in which theta stands at place m; with m uniform, so is the
rank of any function of theta among the L + 1 states.

Geweke (2004): (theta, y) drawn exactly, moved in turn by a transition of theta given y and a draw of y given theta, is
an exact draw of the joint distribution still; chains are independent, so that no error has to be estimated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from checks import normal_checks, uniform_ranks
from numpy.typing import NDArray
from problems import Joint, in_wells, which
from samplers import Sampler, Task
from targets import Target, banana, gaussian, standard_normal
from torch import Tensor

from hnbayes.potentials import Potential

PLACES = 40  # states of a rank test: L + 1


@dataclass(frozen=True)
class Density:
    """A target and the map from its draws (N, D) to standard normal numbers (N, D)."""

    target: Target
    whiten: Callable[[Tensor], Tensor]
    step_size: float


def _bent() -> Density:
    scales, bend = [1.0, 1.4, 0.8], [0.4, -0.3]
    s, b = torch.tensor(scales, dtype=torch.float64), torch.tensor([0.0, *bend], dtype=torch.float64)

    def whiten(q: Tensor) -> Tensor:
        z0 = q[:, :1] / s[0]
        return (q - b * (z0.square() - 1)) / s

    return Density(banana(scales, bend), whiten, 0.5)


def _normal() -> Density:
    covariance = torch.tensor([[1.0, 0.5, 0.1], [0.5, 1.5, -0.2], [0.1, -0.2, 0.6]], dtype=torch.float64)
    root = torch.linalg.cholesky(covariance)
    return Density(gaussian(covariance), lambda q: torch.linalg.solve_triangular(root, q.mT, upper=False).mT, 0.5)


DENSITIES = {"normal": _normal(), "banana": _bent()}


def invariance(sampler: Sampler, density: Density, chains: int, seed: int, transitions: int = 4) -> dict[str, float]:
    """p-values of exact draws after some transitions."""
    target = density.target
    start = target.draw(chains, 10 * seed + 1)
    task = Task(
        target.potential,
        start,
        transitions,
        seed,
        step_size=density.step_size * sampler.step_share,
        inverse_mass=target.covariance,
    )
    moved = sampler.run(task).positions[:, -1]
    assert not torch.equal(moved, start)
    names = tuple(f"q{i}" for i in range(target.dimension))
    return normal_checks(density.whiten(moved).numpy(), names)


@dataclass(frozen=True)
class Ranks:
    """Ranks (N, Q) out of `possible` places, one column for each name."""

    names: tuple[str, ...]
    values: NDArray[np.int64]
    possible: int

    def p_values(self) -> dict[str, float]:
        return {name: uniform_ranks(self.values[:, i], self.possible) for i, name in enumerate(self.names)}


def joint_task(joint: Joint, count: int, seed: int) -> tuple[Task, Tensor]:
    """A data set a row, each with the parameters that made it as its start; and the data."""
    theta = joint.draw(count, 10 * seed + 2)
    data = joint.data(theta, 10 * seed + 3)
    task = Task(
        Potential(joint.potential(data)),
        in_wells(theta, 10 * seed + 4),
        PLACES - 1,
        seed,
        step_size=joint.step_size,
        inverse_mass=joint.inverse_mass,
    )
    return task, data


def both_ways(sampler: Sampler, task: Task, chains: int) -> tuple[Tensor, NDArray[np.int64]]:
    """States (N, L + 1, D) of chains through the starts, and the places (N,) where these stand."""
    length = task.draws
    step = task.step_size * sampler.step_share
    ways = [sampler.run(replace(task, step_size=step, seed=2 * task.seed + way)).positions for way in (0, 1)]
    places = np.random.default_rng(task.seed).integers(0, length + 1, chains)
    states = torch.stack(
        [
            torch.cat((back[:m].flip(0), start[None], forth[: length - m]))
            for start, back, forth, m in zip(task.start, *ways, places.tolist(), strict=True)
        ]
    )
    return states, places


def ranks_of(values: Tensor, places: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The rank of each row's value at its place among all values of the row, (N,); ties are broken at random.

    A state that a rejection repeats is as good as any of its copies, which may come back rounded.
    """
    host = values.numpy()
    own = host[np.arange(len(host)), places][:, None]
    equal = np.isclose(host, own, rtol=1e-9, atol=1e-12)
    below, same = ((host < own) & ~equal).sum(1), equal.sum(1)
    return below + np.random.default_rng(seed).integers(0, same)


def rank_test(sampler: Sampler, joint: Joint, count: int, seed: int) -> Ranks:
    """Ranks of every parameter and of U, which depends on the data and so sees more (Modrak et al. 2023)."""
    task, data = joint_task(joint, count, seed)
    states, places = both_ways(sampler, task, count)
    assert torch.equal(which(states), torch.arange(count)[:, None].expand(states.shape[:2])), "a chain left its data"
    energies = torch.func.vmap(torch.func.vmap(joint.energy, in_dims=(0, None)))(states[..., :-1], data)
    columns = [*states[..., :-1].unbind(-1), energies]
    names = (*joint.names, "U")
    values = [ranks_of(column, places, seed + i) for i, column in enumerate(columns)]
    return Ranks(names, np.stack(values, 1), PLACES)


def moved_jointly(sampler: Sampler, joint: Joint, count: int, seed: int, rounds: int) -> NDArray[np.float64]:
    """Standard normal numbers (N, D): theta after some rounds of both kinds of moves."""
    task, data = joint_task(joint, count, seed)
    task = replace(task, draws=1, step_size=task.step_size * sampler.step_share)
    for number in range(rounds):
        moved = sampler.run(replace(task, seed=seed * 1000 + number)).positions[:, -1]
        task = replace(task, start=moved)
        # In place: the graph of the potential reads this memory.
        data.copy_(joint.data(moved[:, :-1], (10 * seed + 5) * 1000 + number))
    scores: NDArray[np.float64] = joint.scores(task.start[:, :-1]).numpy()
    return scores


def geweke(sampler: Sampler, joint: Joint, count: int, seed: int, rounds: int = 12) -> dict[str, float]:
    """p-values of theta and, through it, of the data after some rounds of both kinds of moves."""
    return normal_checks(moved_jointly(sampler, joint, count, seed, rounds), joint.names)


def exact_pair_check(sampler: Sampler) -> bool:
    """Whether two runs of one seed are the same, bit for bit."""
    density = DENSITIES["banana"]
    task = Task(density.target.potential, standard_normal(3, 3, 1), 5, 7, step_size=0.4 * sampler.step_share)
    first, again = (sampler.run(task).positions for _ in range(2))
    other = sampler.run(replace(task, seed=8)).positions
    return torch.equal(first, again) and not torch.equal(first, other)
