# ruff: noqa: E402 - the folders of the tests are no packages
"""How often checks fail although nothing is wrong: each over 50 seeds. Writes a table.

    python tests/statistical/false_alarms.py [--out out/verification/false_alarms.csv] [--seed N] [--rows NAME ...]

Seeds run as groups of chains of one batch: a chain is a function of (seed, chain number) alone, so 50 groups of n
chains are as good as 50 runs of n.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import sys
import time
import warnings
from collections.abc import Iterable, Mapping

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parent.parent)]

import numpy as np
import torch
from checks import LEVEL, mean_check, normal_checks, uniform_ranks
from exact import DENSITIES, PLACES, Ranks, moved_jointly, rank_test
from journey import PYRO_CASES, network_ranks, pyro_ranks, sequential_ranks
from problems import JOINTS
from references import TARGET_ACCEPT, compare, posterior_named, starts
from rows import CORRELATED, adapted_moments
from samplers import ROWS, Chains, Sampler, Task

from hnbayes.kernels import NUTS
from hnbayes.sampling import sample_potential

SEEDS = 50
SHOWN = (
    "metropolis diag",
    "hmc diag",
    "hmc dense",
    "nuts diag",
    "nuts dense",
    "chees",
    "mamclmc diag",
    "mamclmc dense",
    "VectorizedMCMC nuts",
)
ADAPTED = ("hmc diag", "nuts diag", "chees", "mamclmc diag")  # rows whose moments after warm-up are looked at


def groups_of(array: np.ndarray) -> list[np.ndarray]:
    """An array (SEEDS * n, ...) in SEEDS parts."""
    return np.split(array, SEEDS)


def invariance(sampler: Sampler, seed: int, chains: int = 400) -> Iterable[Mapping[str, float]]:
    for density in DENSITIES.values():
        start = density.target.draw(SEEDS * chains, 10 * seed + 1)
        task = Task(
            density.target.potential,
            start,
            4,
            seed,
            step_size=density.step_size * sampler.step_share,
            inverse_mass=density.target.covariance,
        )
        moved = density.whiten(sampler.run(task).positions[:, -1]).numpy()
        for part in groups_of(moved):
            yield normal_checks(part, tuple(f"q{i}" for i in range(part.shape[1])))


def ranks_in_groups(found: Ranks) -> Iterable[Mapping[str, float]]:
    for part in groups_of(found.values):
        yield {name: uniform_ranks(part[:, i], PLACES) for i, name in enumerate(found.names)}


def ranks(sampler: Sampler, seed: int, count: int = 150) -> Iterable[Mapping[str, float]]:
    for joint in JOINTS.values():
        yield from ranks_in_groups(rank_test(sampler, joint, SEEDS * count, seed))


def joint_distribution(sampler: Sampler, seed: int, count: int = 150) -> Iterable[Mapping[str, float]]:
    for joint in JOINTS.values():
        for part in groups_of(moved_jointly(sampler, joint, SEEDS * count, seed, rounds=8)):
            yield normal_checks(part, joint.names)


def journeys(seed: int, count: int = 10) -> Iterable[tuple[str, Iterable[Mapping[str, float]]]]:
    """Networks, Pyro models and tasks in sequence, as `test_journey.py` has them."""
    yield "network", ranks_in_groups(network_ranks(SEEDS * count, seed))
    for name, case in PYRO_CASES.items():
        yield f"Pyro model, {name}", ranks_in_groups(pyro_ranks(case, SEEDS * count, seed))
    yield "tasks in sequence", ranks_in_groups(sequential_ranks(SEEDS * count, seed))


def moments(sampler: Sampler, seed: int, chains: int = 24) -> Iterable[Mapping[str, float]]:
    _, found = adapted_moments(sampler, CORRELATED, seed, SEEDS * chains, 200, 60)
    x, variance = found.positions.numpy(), CORRELATED.covariance.diagonal().numpy()
    for part in groups_of(x):
        p = {f"q{i} mean": mean_check(part[..., i].mean(1), 0.0) for i in range(x.shape[-1])}
        squares = np.square(part).mean(1) / variance
        yield p | {f"q{i} square": mean_check(squares[:, i], 1.0) for i in range(x.shape[-1])}


def references(name: str, seed: int, draws: int) -> tuple[list[Mapping[str, float]], dict[str, int]]:
    """p-values of each group of four chains, and how many groups fail each criterion."""
    posterior = posterior_named(name)
    found = sample_potential(
        posterior.potential,
        starts(posterior, 4 * SEEDS, seed),
        kernel=NUTS(),
        warmup=draws,
        draws=draws,
        target_accept=TARGET_ACCEPT.get(name, 0.8),
        seed=seed,
        progress=False,
    )
    p_values, failed = [], {}
    for g in range(SEEDS):
        part = slice(4 * g, 4 * g + 4)
        agreement = compare(posterior, Chains(found.positions[part], {k: v[part] for k, v in found.stats.items()}))
        p_values.append(agreement.p_values())
        for criterion, met in agreement.criteria().items():
            failed[criterion] = failed.get(criterion, 0) + (not met)
    return p_values, failed


def row(test: str, what: str, runs: Iterable[Mapping[str, float]], began: float) -> dict[str, object]:
    """Shares of p-values and of runs below some levels."""
    runs = list(runs)
    p = np.array([value for found in runs for value in found.values()])
    failed = sum(min(found.values()) < LEVEL for found in runs)
    return {
        "test": test,
        "of": what,
        "runs": len(runs),
        "checks": len(p),
        "p < 0.05": round(float((p < 0.05).mean()), 4),
        "p < 0.01": round(float((p < 0.01).mean()), 4),
        "p < 0.001": round(float((p < 0.001).mean()), 5),
        "smallest p": f"{p.min():.1e}",
        "runs that fail": failed,
        "seconds": round(time.time() - began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/verification/false_alarms.csv"))
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--posteriors", nargs="*", default=["gp_regr", "kidscore_interaction_c2", "garch11"])
    parser.add_argument("--journeys", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rows", nargs="*", default=list(SHOWN), help="rows of the table of samplers")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []

    def keep(found: dict[str, object]) -> None:
        rows.append(found)
        print(found, flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    for name in options.rows:
        began = time.time()
        keep(row("invariance", name, invariance(ROWS[name], options.seed), began))
        if ROWS[name].reversible:
            began = time.time()
            keep(row("ranks", name, ranks(ROWS[name], options.seed), began))
        if ROWS[name].batched:
            began = time.time()
            keep(row("Geweke", name, joint_distribution(ROWS[name], options.seed), began))
    if options.journeys:
        began = time.time()
        for name, found in journeys(options.seed):
            keep(row("ranks, journey", name, found, began))
            began = time.time()
    for name in (name for name in options.rows if name in ADAPTED):
        began = time.time()
        keep(row("adapted moments", name, moments(ROWS[name], options.seed), began))
    for name in options.posteriors:
        began = time.time()
        p_values, failed = references(name, options.seed, 1000)
        keep(row("references", name, p_values, began))
        for criterion, count in failed.items():
            empty = dict.fromkeys(rows[-1], "") | {"test": "criterion", "of": f"{name}, {criterion}", "runs": SEEDS}
            keep(empty | {"runs that fail": count})


if __name__ == "__main__":
    main()
