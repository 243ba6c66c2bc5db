"""Five tasks in sequence: what EWC, online EWC, SI and sequential Bayes with NUTS keep of the earlier ones.

    python examples/continual_learning.py                   # scikit-learn's digits, 4 minutes on 2 cores
    python examples/continual_learning.py --quick           # one seed, few strengths, at most a minute
    python examples/continual_learning.py --mnist DIR       # MNIST from its idx files, 2,000 samples a task

The tasks are 0/1, 2/3, 4/5, 6/7 and 8/9, learned one after another by the same small network and asked for in three
ways: which of the two digits, the task being told (Task-IL) or not (Domain-IL), or which of all ten (Class-IL).
Strengths are chosen for each way on validation parts of other splits, by the learner that is then tested, and among the
same numbers for all that multiply Fisher matrices; beside it stands strength 1, the Bayesian answer.
Prints the mean test accuracy over all tasks after the last, with its standard error over seeds, and writes table.csv,
history.csv and accuracy.png.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import multiprocessing
import pathlib
import sys
import time

import matplotlib as mpl
import numpy as np
import torch
from continual_methods import METHODS, SCENARIOS, STRENGTHS, Budget, run
from split_tasks import mnist, sklearn_digits, split

CHOICE_SEEDS = 1000, 1001
Job = tuple[str, str, float, int]  # method, scenario, strength, seed


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=pathlib.Path, help="folder with MNIST's idx files (.gz or unpacked)")
    parser.add_argument("--limit", type=int, help="samples of a task at most (all of digits, 2000 of MNIST)")
    parser.add_argument("--seeds", type=int, default=5, help="splits and networks to average over")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/continual_learning"))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.scenarios = args.scenarios.split(",")
    if unknown := set(args.scenarios) - set(SCENARIOS):
        parser.error(f"--scenarios must be of {', '.join(SCENARIOS)}; received {', '.join(sorted(unknown))}")
    if args.seeds < 1 or args.workers < 1 or (args.limit is not None and args.limit < 20):
        parser.error("--seeds and --workers must be at least 1, --limit at least 20")
    if args.quick:
        args.seeds = 1
    return args


def prepare(args: argparse.Namespace) -> None:
    """Read the data, in each process."""
    torch.set_num_threads(1)
    global DATA, ARGS, BUDGET
    ARGS = args
    BUDGET = Budget(steps=60, warmup=20, draws=20, depth=4) if args.quick else Budget()
    DATA = mnist(args.mnist) if args.mnist else sklearn_digits()


def work(job: Job) -> tuple[float, list[float]]:
    """Validation accuracy at the end, and test accuracies after each task, of one run."""
    method, scenario, strength, seed = job
    limit = ARGS.limit or (2000 if ARGS.mnist else None)
    tasks = split(*DATA, seed=seed, limit=limit)
    learner = run(method, scenario, tasks, seed, BUDGET, strength)
    return learner.accuracy(tasks, len(tasks) - 1, "validation"), learner.history


def all_of(pool: multiprocessing.pool.Pool, jobs: list[Job]) -> dict[Job, tuple[float, list[float]]]:
    """Results of jobs, long ones first."""
    order = sorted(jobs, key=lambda job: job[0] != "sequential Bayes")
    return dict(zip(order, pool.map(work, order, chunksize=1), strict=True))


def choose(pool: multiprocessing.pool.Pool, args: argparse.Namespace) -> dict[tuple[str, str], float]:
    """For each method and scenario the strength with the best validation accuracy on splits that aren't tested."""
    grid = {m: s[::2] if args.quick else s for m, s in STRENGTHS.items()}
    seeds = CHOICE_SEEDS[:1] if args.quick else CHOICE_SEEDS
    jobs = [(m, scenario, s, seed) for m in grid for scenario in args.scenarios for s in grid[m] for seed in seeds]
    found = all_of(pool, jobs)
    return {
        (m, scenario): max(grid[m], key=lambda s: sum(found[m, scenario, s, seed][0] for seed in seeds))
        for m in grid
        for scenario in args.scenarios
    }


Row = tuple[str, dict[str, tuple[str, float]]]  # label; method and strength in each scenario


def rows_of(chosen: dict[tuple[str, str], float], scenarios: list[str]) -> list[Row]:
    """The rows of the table."""
    rows = []
    for method in METHODS:
        if method in STRENGTHS:
            rows.append((f"{method}, chosen", {s: (method, chosen[method, s]) for s in scenarios}))
            rows.append((f"{method}, strength 1", dict.fromkeys(scenarios, (method, 1.0))))
        else:
            rows.append((method, dict.fromkeys(scenarios, (method, 1.0))))
    return rows


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return float(np.mean(values)), float(error)


def plot(path: pathlib.Path, table: list[dict[str, object]], scenarios: list[str]) -> None:
    """Bars of accuracies with standard errors, a panel a scenario."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(scenarios), figsize=(4 * len(scenarios) + 1.5, 3.6), sharey=True, squeeze=False)
    for axis, scenario in zip(axes[0], scenarios, strict=True):
        rows = [row for row in table if row["scenario"] == scenario][::-1]
        errors = np.nan_to_num([row["error"] for row in rows])
        axis.barh([row["method"] for row in rows], [100 * row["accuracy"] for row in rows], xerr=100 * errors)
        axis.set_title(scenario)
        axis.set_xlabel("test accuracy after all tasks (%)")
        axis.set_xlim(0, 100)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Choose strengths, run all, print and save."""
    args = arguments()
    began = time.monotonic()
    try:
        prepare(args)
    except ValueError as error:
        print(f"continual_learning: error: {error}", file=sys.stderr)
        sys.exit(2)
    args.out.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(args.workers, prepare, (args,)) as pool:
        chosen = choose(pool, args)
        rows = rows_of(chosen, args.scenarios)
        jobs = {
            (how[s][0], s, how[s][1], seed)
            for (_, how), s, seed in itertools.product(rows, args.scenarios, range(args.seeds))
        }
        results = all_of(pool, sorted(jobs))

    table: list[dict[str, object]] = []
    history: list[dict[str, object]] = []
    for (label, how), scenario in itertools.product(rows, args.scenarios):
        method, strength = how[scenario]
        runs = [results[method, scenario, strength, seed][1] for seed in range(args.seeds)]
        mean, error = mean_and_error([accuracies[-1] for accuracies in runs])
        table.append({"method": label, "scenario": scenario, "strength": strength, "accuracy": mean, "error": error})
        for seed, accuracies in enumerate(runs):
            history += [
                {"method": label, "scenario": scenario, "seed": seed, "tasks": t + 1, "accuracy": a}
                for t, a in enumerate(accuracies)
            ]
    print(f"{'test accuracy after 5 tasks, %':28}" + "".join(f"{s:>32}" for s in args.scenarios))
    for label, _ in rows:
        cells = [row for row in table if row["method"] == label]
        text = [
            f"{100 * row['accuracy']:.1f} +- {100 * row['error']:.1f}"
            + (f" (strength {row['strength']:g})" if "chosen" in label else "")
            for row in cells
        ]
        print(f"{label:28}" + "".join(f"{cell:>32}" for cell in text))
    for name, lines in (("table", table), ("history", history)):
        with (args.out / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
    plot(args.out / "accuracy.png", table, args.scenarios)
    print(f"time {time.monotonic() - began:.0f} s, results in {args.out}")


if __name__ == "__main__":
    main()
