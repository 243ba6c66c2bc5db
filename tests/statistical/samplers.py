"""The table of samplers: every statistical test goes through it, and a new sampler is one row.

A row is a function from a `Task` to `Chains`. It must leave exp(-U) invariant at a fixed step size and metric (or say
that it is not exact), and start where it is told to. Rank tests run chains in both directions of time, so they are for
reversible transitions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import MCMC
from torch import Tensor

import hnbayes.pyro
from hnbayes.kernels import HMC, MAMCLMC, MCLMC, NUTS, ChEES, RandomWalkMetropolis
from hnbayes.sampling import sample_potential
from hnbayes.utils.hmc import MultiChainHMC

NO_DEEPER = 6  # doublings: of no use to short targets, and what keeps a mutant from taking all day


@dataclass(frozen=True)
class Task:
    """What is to be sampled, and how.

    Attributes:
        potential: U, (D,) -> (); a function or a `Potential`.
        start: (C, D) float64.
        draws: S.
        seed: of everything random.
        warmup: transitions in which step size and metric adapt; 0 leaves both as they are.
        step_size: where it starts or stays.
        inverse_mass: (D, D), used by samplers that take one (its diagonal by those with diagonal ones) if warmup is 0.
        num_steps: steps of HMC's and microcanonical trajectories if warmup is 0.
    """

    potential: Any
    start: Tensor
    draws: int
    seed: int
    warmup: int = 0
    step_size: float = 0.5
    inverse_mass: Tensor | None = None
    num_steps: int = 3


@dataclass(frozen=True)
class Chains:
    """Draws (C, S, D), what was reported of each, name -> (C, S), and of the chains as a whole."""

    positions: Tensor
    stats: dict[str, Tensor] = field(default_factory=dict)
    step_size: Tensor | None = None
    inverse_metric: Tensor | None = None


@dataclass(frozen=True)
class Sampler:
    """A row of the table.

    Attributes:
        name: of the row.
        run: samples.
        family: "metropolis", "hmc", "nuts" or "microcanonical": which mutants fit it.
        batched: whether all chains share one run; if not, tests give it fewer.
        step_share: its fixed step size as a share of the task's.
        reversible: whether its transitions are, and are all alike; the rank tests are for such alone.
        exact: whether it leaves exp(-U) invariant; if not, it is asked for reports, divergences and reproducibility.
        target_accept: what its warm-up aims at.
    """

    name: str
    run: Callable[[Task], Chains]
    family: str
    batched: bool = True
    step_share: float = 1.0
    reversible: bool = True
    exact: bool = True
    target_accept: float = 0.8


def _metric_option(task: Task, metric: str) -> Any:
    if task.warmup or metric == "unit" or task.inverse_mass is None:
        return metric
    return task.inverse_mass if metric == "dense" else task.inverse_mass.diagonal()


def engine_kernel(family: str, task: Task) -> Any:
    """A kernel of the engine for a task."""
    if family == "metropolis":
        return RandomWalkMetropolis()
    return HMC(None if task.warmup else task.num_steps) if family == "hmc" else NUTS(10 if task.warmup else NO_DEEPER)


def native(family: str, metric: str, kernel: Callable[[Task], Any] | None = None) -> Callable[[Task], Chains]:
    """`sample_potential` with all chains in one batch."""

    def run(task: Task) -> Chains:
        draws = sample_potential(
            task.potential,
            task.start,
            kernel=engine_kernel(family, task) if kernel is None else kernel(task),
            metric=_metric_option(task, metric),
            warmup=task.warmup,
            draws=task.draws,
            step_size=None if task.warmup else task.step_size,
            adapt_step_size=task.warmup > 0,
            seed=task.seed,
            progress=False,
        )
        return Chains(draws.positions, draws.stats, draws.step_size, draws.inverse_metric)

    return run


def chees(task: Task) -> ChEES:
    """The trajectory length is jittered by a sequence, so no two transitions are alike."""
    return ChEES(None if task.warmup else task.num_steps * task.step_size)


def adjusted(noise_length: float | None) -> Callable[[Task], MAMCLMC]:
    """The adjusted microcanonical kernel; its rows have long steps, so that the correction is needed."""
    return lambda task: MAMCLMC(None if task.warmup else task.num_steps, noise_length=noise_length)


def unadjusted(task: Task) -> MCLMC:
    return MCLMC(None if task.warmup else task.num_steps)


def one_by_one(family: str, metric: str) -> Callable[[Task], Chains]:
    """`sample_potential` for each chain alone."""

    def run(task: Task) -> Chains:
        runs = []
        for c in range(len(task.start)):
            one = sample_potential(
                task.potential,
                task.start[c : c + 1],
                kernel=engine_kernel(family, task),
                metric=_metric_option(task, metric),
                warmup=task.warmup,
                draws=task.draws,
                step_size=None if task.warmup else task.step_size,
                adapt_step_size=task.warmup > 0,
                seed=task.seed,
                chain_ids=[c],
                progress=False,
            )
            runs.append(one)
        stats = {name: torch.cat([r.stats[name] for r in runs]) for name in runs[0].stats}
        return Chains(
            torch.cat([r.positions for r in runs]),
            stats,
            torch.cat([r.step_size for r in runs]),
            torch.cat([r.inverse_metric for r in runs]),
        )

    return run


def documented(chain_type: str) -> Callable[[Task], Chains]:
    """The documented chains, which have a fixed step size and a unit metric."""

    def run(task: Task) -> Chains:
        options: dict[str, Any] = {"hmc": {"num_steps": task.num_steps}, "nuts": {"max_tree_depth": NO_DEEPER}}[
            chain_type
        ]
        chains = MultiChainHMC(
            list(task.start), task.potential, chain_type=chain_type, stepsize=task.step_size, seed=task.seed, **options
        )
        if task.warmup:
            chains.warm_up(task.warmup)
        chains.simulate_chains(task.draws)
        draws = chains.to_draws()
        return Chains(draws.positions[:, -task.draws :], {k: v[:, -task.draws :] for k, v in draws.stats.items()})

    return run


def _pyro_kernel(family: str, metric: str, task: Task) -> Any:
    def potential_fn(params: dict[str, Tensor]) -> Tensor:
        return task.potential(params["q"])

    if family == "metropolis":
        return hnbayes.pyro.RandomWalkMetropolis(potential_fn=potential_fn, init_step_size=task.step_size)
    adapt = task.warmup > 0
    options = {"adapt_step_size": adapt, "adapt_mass_matrix": adapt, "full_mass": metric == "dense"}
    if family == "hmc":
        length: dict[str, Any] = {"trajectory_length": 1.5} if adapt else {"num_steps": task.num_steps}
        return hnbayes.pyro.HMC(potential_fn=potential_fn, step_size=task.step_size, **length, **options)
    depth = 10 if adapt else NO_DEEPER
    return hnbayes.pyro.NUTS(potential_fn=potential_fn, step_size=task.step_size, max_tree_depth=depth, **options)


def under_pyro(family: str, metric: str = "unit") -> Callable[[Task], Chains]:
    """One `pyro.infer.MCMC` after another."""

    def run(task: Task) -> Chains:
        positions, reports = [], []
        for c, start in enumerate(task.start):
            pyro.set_rng_seed(task.seed * 100_003 + c)
            kernel = _pyro_kernel(family, metric, task)
            mcmc = MCMC(kernel, task.draws, task.warmup, initial_params={"q": start}, disable_progbar=True)
            mcmc.run()
            positions.append(mcmc.get_samples(group_by_chain=True)["q"])
            reports.append(mcmc.diagnostics()["sample_stats"]["chain 0"])
        stats = {name: torch.from_numpy(np.stack([r[name] for r in reports])) for name in reports[0]}
        return Chains(torch.cat(positions), stats)

    return run


def vectorized(family: str, metric: str = "unit") -> Callable[[Task], Chains]:
    """`VectorizedMCMC`, all chains in one batch."""

    def run(task: Task) -> Chains:
        mcmc = hnbayes.pyro.VectorizedMCMC(
            _pyro_kernel(family, metric, task),
            task.draws,
            task.warmup,
            num_chains=len(task.start),
            initial_params={"q": task.start if len(task.start) > 1 else task.start[0]},
            seed=task.seed,
            disable_progbar=True,
        )
        mcmc.run()
        draws = mcmc.draws
        return Chains(draws.positions, draws.stats, draws.step_size, draws.inverse_metric)

    return run


SAMPLERS = (
    Sampler("metropolis diag", native("metropolis", "diag"), "metropolis", step_share=2.0),
    Sampler("metropolis dense", native("metropolis", "dense"), "metropolis", step_share=2.0),
    Sampler("hmc diag", native("hmc", "diag"), "hmc"),
    Sampler("hmc dense", native("hmc", "dense"), "hmc"),
    Sampler("nuts diag", native("nuts", "diag"), "nuts"),
    Sampler("nuts dense", native("nuts", "dense"), "nuts"),
    Sampler("hmc one chain", one_by_one("hmc", "diag"), "hmc", batched=False),
    Sampler("nuts one chain", one_by_one("nuts", "dense"), "nuts", batched=False),
    Sampler("chees", native("hmc", "diag", chees), "hmc", reversible=False, target_accept=0.651),
    Sampler(
        "mamclmc diag",
        native("microcanonical", "diag", adjusted(None)),
        "microcanonical",
        step_share=4.0,
        target_accept=0.9,
    ),
    Sampler(
        "mamclmc dense",
        native("microcanonical", "dense", adjusted(1.0)),
        "microcanonical",
        step_share=4.0,
        target_accept=0.9,
    ),
    Sampler("mclmc", native("microcanonical", "diag", unadjusted), "microcanonical", exact=False),
    Sampler("MultiChainHMC hmc", documented("hmc"), "hmc"),
    Sampler("MultiChainHMC nuts", documented("nuts"), "nuts"),
    Sampler("MCMC metropolis", under_pyro("metropolis"), "metropolis", batched=False, step_share=2.0),
    Sampler("MCMC hmc", under_pyro("hmc"), "hmc", batched=False),
    Sampler("MCMC nuts", under_pyro("nuts"), "nuts", batched=False),
    Sampler("VectorizedMCMC metropolis", vectorized("metropolis"), "metropolis", step_share=2.0),
    Sampler("VectorizedMCMC hmc", vectorized("hmc"), "hmc"),
    Sampler("VectorizedMCMC nuts", vectorized("nuts", "dense"), "nuts"),
)

ROWS = {sampler.name: sampler for sampler in SAMPLERS}
# The row of each family that its mutants spoil.
PLAIN = {
    "metropolis": ROWS["metropolis diag"],
    "hmc": ROWS["hmc diag"],
    "nuts": ROWS["nuts diag"],
    "microcanonical": ROWS["mamclmc diag"],
}
# What the ordinary test run looks at; the others are left to the suite.
CORE = (
    "metropolis diag",
    "hmc diag",
    "nuts dense",
    "nuts one chain",
    "chees",
    "mamclmc diag",
    "mclmc",
    "MCMC nuts",
    "VectorizedMCMC nuts",
)


def rows(
    keep: Callable[[Sampler], bool] = lambda sampler: True, core: tuple[str, ...] = CORE, biased: bool = False
) -> Any:
    """A parametrisation by the exact rows, and if `biased` the others, that `keep` takes.

    Those that aren't of the core are marked as slow.
    """
    chosen = [s for s in SAMPLERS if (s.exact or biased) and keep(s)]
    marked = [pytest.param(s, id=s.name, marks=() if s.name in core else pytest.mark.slow) for s in chosen]
    return pytest.mark.parametrize("sampler", marked)
