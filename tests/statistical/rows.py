"""What else must be so for every row of the table: what it reports, how it fails, what it depends on, how it adapts."""

from __future__ import annotations

import math
from dataclasses import replace

import arviz
import numpy as np
import torch
from checks import mean_check
from samplers import Chains, Sampler, Task
from targets import Target, banana, gaussian
from torch import Tensor

BENT = banana([1.0, 1.4, 0.8], [0.4, -0.3])
WIDE = torch.logspace(-1.5, 1.5, 50, dtype=torch.float64)
# How far the mean acceptance may be below and above a target after 1000 transitions of warm-up.
BANDS = {0.651: (0.03, 0.20), 0.8: (0.03, 0.15), 0.9: (0.03, 0.06)}
VARIANCES = (0.6, 1.5)


def fixed(sampler: Sampler, chains: int, draws: int, seed: int, step_size: float = 0.5) -> Task:
    """A run on a bent target at a fixed step size."""
    return Task(BENT.potential, BENT.draw(chains, seed + 50), draws, seed, step_size=step_size * sampler.step_share)


def reports(sampler: Sampler, seed: int, draws: int = 100) -> dict[str, bool]:
    """Whether lp = -U(draw), and whether all reports keep within their bounds."""
    chains = sampler.run(fixed(sampler, 3, draws, seed))
    stats = chains.stats
    energy = torch.func.vmap(torch.func.vmap(BENT.potential))(chains.positions)
    rate = stats["acceptance_rate"]
    found = {
        "lp = -U": float((stats["lp"] + energy).abs().max()) < 1e-10,
        "acceptance in [0, 1]": bool(((rate >= 0) & (rate <= 1)).all()),
    }
    if "energy" in stats:
        found["kinetic energy >= 0"] = bool((stats["energy"] + stats["lp"] >= 0).all())
    if "tree_depth" in stats:
        found["n_steps < 2^depth"] = bool((stats["n_steps"] <= 2 ** stats["tree_depth"] - 1).all())
    return found


def narrow(q: Tensor) -> Tensor:
    """The mean of a thousand observations of unit variance: sd 0.03."""
    return 500.0 * q.square().sum()


def walled(q: Tensor) -> Tensor:
    """A standard normal whose energy is NaN where q_0 > 1."""
    return torch.where(q[0] > 1, math.nan, 0.5 * q.square().sum())


def divergences(sampler: Sampler, step_size: float, seed: int) -> tuple[float, bool]:
    """The share of divergent transitions on `narrow`, and whether no chain has moved."""
    start = torch.tensor([[0.01, 0.0], [0.02, -0.01]], dtype=torch.float64)
    chains = sampler.run(Task(narrow, start, 30, seed, step_size=step_size))
    still = torch.equal(chains.positions, start[:, None].expand_as(chains.positions))
    return float(chains.stats["diverging"].double().mean()), still


def behind_the_wall(sampler: Sampler, seed: int) -> tuple[float, bool]:
    """The largest q_0 on `walled`, and whether the wall was reported."""
    task = Task(walled, torch.zeros(3, 2, dtype=torch.float64), 150, seed, step_size=0.6 * sampler.step_share)
    chains = sampler.run(task)
    assert all(not values.double().isnan().any() for values in chains.stats.values())
    return float(chains.positions[..., 0].max()), bool(chains.stats["diverging"].any())


def constant_error(sampler: Sampler, seed: int) -> float:
    """How far a constant added to U moves the draws; a power of two takes only last digits of an energy."""
    task = fixed(sampler, 3, 40, seed)
    moved = sampler.run(replace(task, potential=lambda q: BENT.potential(q) + 1024.0))
    return float((moved.positions - sampler.run(task).positions).abs().max())


def lone_chain_error(sampler: Sampler, seed: int) -> float:
    """How far chain 0 of a batch is from the run of chain 0 alone."""
    task = fixed(sampler, 20, 20, seed)
    lone = sampler.run(replace(task, start=task.start[:1]))
    return float((sampler.run(task).positions[:1] - lone.positions).abs().max())


CORRELATED = gaussian([[1.0, 0.7, 0.0], [0.7, 2.0, 0.3], [0.0, 0.3, 0.1]])


def adapted_moments(
    sampler: Sampler, target: Target, seed: int, chains: int = 60, warmup: int = 300, draws: int = 200
) -> tuple[dict[str, float], Chains]:
    """p-values of the chains' means of q and of its squares, which are independent, by Student's t."""
    found = sampler.run(Task(target.potential, target.draw(chains, seed + 60), draws, seed, warmup=warmup))
    x = found.positions - target.mean
    variance = target.covariance.diagonal()
    p_values = {}
    for i in range(target.dimension):
        p_values[f"q{i} mean"] = mean_check(x[..., i].mean(1).numpy(), 0.0)
        p_values[f"q{i} square"] = mean_check((x[..., i].square().mean(1) / variance[i]).numpy(), 1.0)
    return p_values, found


def ess_per_gradient(chains: Chains) -> float:
    """The smallest effective sample size of a coordinate over all evaluations after warm-up."""
    ess = arviz.ess(arviz.convert_to_dataset({"x": chains.positions.numpy()}))["x"].values.min()
    return float(ess / chains.stats["n_steps"].sum())


def wide(q: Tensor) -> Tensor:
    """50 dimensions, scales from 10^-1.5 to 10^1.5."""
    return 0.5 * (q / WIDE).square().sum()


def adaptation_errors(sampler: Sampler, seed: int) -> dict[str, bool]:
    """Whether acceptance, variances and constancy are as they should after 1000 transitions of warm-up on `wide`."""
    start = torch.randn(8, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 70)) * WIDE
    chains = sampler.run(Task(wide, start, 150, seed, warmup=1000))
    accepted = float(chains.stats["acceptance_rate"].mean())
    below, above = BANDS[sampler.target_accept]
    found = {"acceptance": -below <= accepted - sampler.target_accept <= above}
    if chains.inverse_metric is not None and chains.inverse_metric.ndim == 2:
        # Of the median chain: of 400 right variances one may well be outside.
        ratio = (chains.inverse_metric / WIDE.square()).median(0).values
        found["variances"] = bool(ratio.min() >= VARIANCES[0] and ratio.max() <= VARIANCES[1])
    steps = chains.stats["step_size"]
    found["step size stays"] = torch.equal(steps, steps[:, :1].expand_as(steps))
    return found


def as_p(criteria: dict[str, bool]) -> dict[str, float]:
    """Criteria without a p-value, as the record takes them."""
    return {name: 1.0 if met else 0.0 for name, met in criteria.items()}


def is_close(x: float, tolerance: float) -> bool:
    return bool(np.isfinite(x) and x <= tolerance)
