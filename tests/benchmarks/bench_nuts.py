"""NUTS of this library beside another's on the same posterior: time, gradients, effective draws and memory.

Each run is a process of its own, so that what a first use costs (tracing, capturing, compiling) is in its time, and
given apart too ("running" is without). Ours and the peer's alternate, `--rounds` times with different seeds, and ratios
are taken within a round, because machines are noisy. Both must agree about the log density at five points up to a
constant, or there is no result.

    python tests/benchmarks/bench_nuts.py --peer numpyro-parallel --problem diabetes [--rounds 3] [--json out.json]
    python tests/benchmarks/bench_nuts.py --problem funnels          # ours alone: useful rows, and lockstep

Networks have a N(0, 1) prior, Gaussian noise of precision 2 or a softmax. Effective sizes (ArviZ's bulk ESS, of all
chains together) are those of predictions at 20 rows left out, since weights aren't identified, elsewhere those of the
parameters. Peers must be installed in the same environment: numpyro, blackjax, pyro-ppl, hypnettorch; scikit-learn has
the data.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
from nuts.problems import PROBLEMS

WORKER = pathlib.Path(__file__).parent / "nuts" / "worker.py"
PEERS = ("numpyro", "numpyro-parallel", "blackjax", "pyro", "hypnettorch")
OURS = "hnbayes"
TOLERANCE = 1e-3  # of the largest difference in U among the probes; U is float32
Report = dict[str, Any]


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=PROBLEMS, required=True)
    parser.add_argument("--peer", choices=PEERS, help="none runs ours alone")
    for name in ("chains", "warmup", "draws"):
        parser.add_argument(f"--{name}", type=int, help="of each run; the problem's own if not given")
    parser.add_argument("--peer-chains", type=int, help="if the peer, which draws chains one by one, is to have fewer")
    parser.add_argument("--peer-draws", type=int, help="draws, and transitions of warm-up, if it is to have fewer")
    parser.add_argument("--target-accept", type=float, default=0.8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the others count on")
    parser.add_argument("--json", type=pathlib.Path, help="where to write all that was measured")
    return parser


def main() -> None:
    """Run the rounds, print the table, write the JSON."""
    args = make_parser().parse_args()

    kind = PROBLEMS[args.problem]
    lengths = {name: getattr(args, name) or getattr(kind, name) for name in ("chains", "warmup", "draws")}
    peer_lengths = dict(lengths)
    if args.peer_chains:
        peer_lengths["chains"] = args.peer_chains
    if args.peer_draws:
        peer_lengths |= {"warmup": args.peer_draws, "draws": args.peer_draws}

    print(HEADER, flush=True)
    rounds: list[list[Report]] = []
    for seed in range(args.seed, args.seed + args.rounds):
        runs = [(OURS, lengths)] + ([(args.peer, peer_lengths)] if args.peer else [])
        reports = []
        # Who begins alternates too.
        for sampler, of in runs if seed % 2 == 0 else runs[::-1]:
            reports.append(run(sampler, args.problem, of, seed, args.target_accept))
            print(line(reports[-1]), flush=True)
        rounds.append(reports if seed % 2 == 0 else reports[::-1])
    if args.peer:
        check_same_density([report for reports in rounds for report in reports])
        print(ratios(rounds))
    print(engine(rounds))
    if args.json:
        args.json.write_text(json.dumps(rounds, indent=1))


def run(sampler: str, problem: str, lengths: dict[str, int], seed: int, target_accept: float) -> Report:
    """One run in a process of its own."""
    options = [f"--{name}={value}" for name, value in lengths.items()]
    command = [sys.executable, str(WORKER), sampler, problem, *options, f"--seed={seed}"]
    finished = subprocess.run(
        [*command, f"--target-accept={target_accept}"], stdout=subprocess.PIPE, text=True, check=True
    )
    report: Report = json.loads(finished.stdout.splitlines()[-1])
    return report | rates(report)


def rates(report: Report) -> dict[str, float]:
    """What follows from a run's counts and times."""
    ess = np.array(report["ess"])
    running = report["wall_s"] - report["preparing_s"]
    return {
        "running_s": running,
        "gradients_per_s": report["gradients"] / running,
        "ess_median": float(np.median(ess)),
        "ess_min": float(ess.min()),
        "ess_median_per_s": float(np.median(ess)) / report["wall_s"],
        "ess_min_per_s": float(ess.min()) / report["wall_s"],
        "ess_median_per_s_running": float(np.median(ess)) / running,
        "ess_min_per_s_running": float(ess.min()) / running,
        "ess_median_per_1000_gradients": 1000 * float(np.median(ess)) / report["gradients"],
        "ess_median_per_1000_draw_gradients": 1000 * float(np.median(ess)) / report["draw_gradients"],
    }


def check_same_density(reports: list[Report]) -> None:
    """Raise unless all runs had the same log density up to a constant."""
    energies = np.array([report["energies"] for report in reports])
    differences = energies[:, 1:] - energies[:, :1]
    apart = np.abs(differences - differences[0]).max()
    if not apart <= TOLERANCE * np.abs(differences[0]).max():
        raise SystemExit(f"the samplers' log densities differ: U at the probes, less the first, is\n{differences}")


HEADER = (
    f"{'sampler':17}{'chains':>7}{'draws':>11}{'wall s':>8}{'running':>8}{'gradients/s':>12}{'ESS med':>8}{'min':>7}"
    f"{'ESS/s med':>10}{'min':>8}{'ESS/1000 grad.':>15}{'(draws)':>8}{'diverg.':>8}{'MiB':>6}{'imported':>9}"
)


def line(report: Report) -> str:
    """A row of the table."""
    lengths = f"{report['warmup']}+{report['draws']}"
    return (
        f"{report['sampler']:17}{report['chains']:7}{lengths:>11}{report['wall_s']:8.1f}{report['running_s']:8.1f}"
        f"{report['gradients_per_s']:12,.0f}{report['ess_median']:8.0f}{report['ess_min']:7.0f}"
        f"{report['ess_median_per_s']:10.2f}{report['ess_min_per_s']:8.2f}"
        f"{report['ess_median_per_1000_gradients']:15.3f}{report['ess_median_per_1000_draw_gradients']:8.3f}"
        f"{report['divergences']:8}{report['peak_mib']:6.0f}{report['imported_mib']:9.0f}"
    )


def ratios(rounds: list[list[Report]]) -> str:
    """Ours / the peer's: medians over rounds, and how far apart the samplers' means are."""
    names = {
        "ESS/s (median), compilation included": "ess_median_per_s",
        "ESS/s (minimum), compilation included": "ess_min_per_s",
        "ESS/s (median), without": "ess_median_per_s_running",
        "ESS/s (minimum), without": "ess_min_per_s_running",
        "gradients/s": "gradients_per_s",
        "ESS/gradient, warm-up included": "ess_median_per_1000_gradients",
        "ESS/gradient, draws alone": "ess_median_per_1000_draw_gradients",
    }
    lines = ["ours / peer"]
    for label, key in names.items():
        values = [ours[key] / peer[key] for ours, peer in rounds]
        lines.append(f"  {label:40}{np.median(values):8.2f}   rounds: {' '.join(f'{v:.2f}' for v in values)}")
    furthest = max(apart(*pair) for pair in rounds)
    lines.append(f"  means differ by at most {furthest:.1f} standard errors of the difference")
    return "\n".join(lines)


def apart(ours: Report, peer: Report) -> float:
    """The largest difference of means, in its Monte Carlo standard errors."""
    means = np.array(ours["means"]) - np.array(peer["means"])
    variances = sum(np.array(report["sds"]) ** 2 / np.array(report["ess"]) for report in (ours, peer))
    return float((np.abs(means) / np.sqrt(variances)).max())


def engine(rounds: list[list[Report]]) -> str:
    """What desynchronised chains save, from our runs."""
    found = [reports[0]["extra"] for reports in rounds]
    useful = [extra.get("useful_rows_until_a_chain_ends", 1.0) for extra in found]
    saved = [extra["rows_in_lockstep"] / extra["rows"] for extra in found]
    whole = [extra["useful_rows"] for extra in found]
    return (
        f"ours: gradient {found[0]['evaluation']}; batch rows of use {np.median(useful):.3f} until a chain ends, "
        f"{np.median(whole):.3f} over the whole run; gradients in lockstep / ours {np.median(saved):.2f}"
    )


if __name__ == "__main__":
    main()
