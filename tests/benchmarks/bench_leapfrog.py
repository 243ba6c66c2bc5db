"""What a leapfrog step costs inside HMC and NUTS, beside the bare batched gradient it can't do without.

By default the problem is the posterior of a 10-50-1 tanh network on scikit-learn's diabetes data, float32, N(0, 1)
prior, Gaussian noise of precision 2; D = 601. Rounds of bare gradient, HMC and NUTS alternate, and ratios are taken
within a round, because machines are noisy; with several numbers of chains, these alternate too, and the cost of a
batched step is compared with that of the first number. Where the package `hypnettorch` is installed, its HMC runs on
the same potential in the same run. `--profile` says where the time of a leapfrog in NUTS goes.

    python tests/benchmarks/bench_leapfrog.py [--chains 4] [--threads 2] [--compile auto|true]
    python tests/benchmarks/bench_leapfrog.py --problem schools --chains 1 64
    python tests/benchmarks/bench_leapfrog.py --profile
    python tests/benchmarks/bench_leapfrog.py --gradient general    # as without a C compiler
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable

import numpy as np
import torch
from nuts.problems import PROBLEMS, Problem

import hnbayes
from hnbayes.kernels import HMC, NUTS
from hnbayes.kernels.kernel import State
from hnbayes.rng import chain_streams

# About what NUTS adapts to.
STEP_SIZES = {"diabetes": 0.005, "airfoil": 0.002, "digits": 0.005, "schools": 0.3, "gaussian": 0.01, "funnels": 0.1}
STEPS_PER_ROUND = 200
PROFILED_STEPS = 5000


class Job:
    """What is timed: a call that is one batched gradient."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def gradients(self, repeats: int) -> float:
        """Call it so often; returns how many gradients a chain that was."""
        for _ in range(repeats):
            self.call()
        return repeats


class NutsJob(Job):
    """NUTS: a call adds a leaf to each chain's tree, or many where trees grow in compiled C."""

    def __init__(self, kernel: NUTS, state: State) -> None:
        super().__init__(lambda: kernel.advance(state))
        self.kernel, self.state = kernel, state

    def gradients(self, repeats: int) -> float:
        """As many leaves a chain as `repeats` or a few more; returns their number."""
        before, finished, chains = self._open_leaves(), 0, len(self.state.position)
        leaves = 0
        while leaves < repeats * chains:
            _, ended = self.kernel.advance(self.state)
            if ended is not None:
                finished += int(ended.info["n_steps"].sum())
            leaves = finished + self._open_leaves() - before
        return leaves / chains

    def _open_leaves(self) -> int:
        """Leaves of trees that aren't complete."""
        tree, going = self.state.path, ~self.state.fresh
        return 0 if tree is None else int((tree.n_steps + tree.leaf)[going].sum())


def microseconds(job: Job, repeats: int = STEPS_PER_ROUND) -> float:
    """Mean time of a batched gradient."""
    began = time.perf_counter()
    done = job.gradients(repeats)
    return (time.perf_counter() - began) / done * 1e6


def prepared(problem: Problem, compile: bool | str) -> hnbayes.Potential:
    """The problem's potential, to be compiled or not."""
    U = problem.torch_potential()
    if isinstance(U, hnbayes.Potential):
        U.compile = compile
        return U
    return hnbayes.Potential(U, compile=compile)


def make_jobs(U: hnbayes.Potential, positions: torch.Tensor, step_size: float) -> dict[str, Job]:
    """What is timed: one batched gradient each."""
    streams = [chain_streams(0, range(len(positions))) for _ in range(2)]
    hmc, nuts = HMC(num_steps=50), NUTS()
    hmc_state = hmc.init(U, positions, streams[0], step_size)
    nuts_state = nuts.init(U, positions, streams[1], step_size)
    # As kernels ask for it, on the CPU.
    array = positions.numpy()
    return {
        "bare batched gradient": Job(lambda: U.value_and_grad_arrays(array)),
        "leapfrog in HMC": Job(lambda: hmc.advance(hmc_state)),
        "leapfrog in NUTS": NutsJob(nuts, nuts_state),
    }


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=PROBLEMS, default="diabetes")
    parser.add_argument("--chains", type=int, nargs="+", default=[4])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", choices=["auto", "true"], default="auto")
    parser.add_argument("--gradient", choices=["default", "general"], default="default", help="general: without our C")
    parser.add_argument("--profile", action="store_true", help="where the time of NUTS goes, by cProfile")
    return parser


def main() -> None:
    """Run the rounds and print the table."""
    args = make_parser().parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    problem = PROBLEMS[args.problem]()
    U = prepared(problem, True if args.compile == "true" else "auto")
    if args.gradient == "general":
        U.parts = None
    step_size = STEP_SIZES[args.problem]
    jobs: dict[tuple[int, str], Job] = {}
    for chains in args.chains:
        positions = torch.from_numpy(problem.starts(chains, seed=0))
        mode = U.prepare(positions, evaluations=1_000_000)
        mode += " (by NumPy)" if mode == "captured" and U.evaluates_arrays(positions) else ""
        print(f"{chains} chains, D = {problem.dimension}, {args.threads} threads, gradient {mode}")
        jobs |= {(chains, name): job for name, job in make_jobs(U, positions, step_size).items()}
    peer = hypnettorch_step(U, positions[0], step_size)
    if peer is not None:
        jobs[1, "leapfrog in hypnettorch"] = peer
    for job in jobs.values():
        microseconds(job, 50)
    if args.profile:
        for chains in args.chains:
            profile(jobs[chains, "leapfrog in NUTS"], jobs[chains, "bare batched gradient"])
        return
    times = {key: np.zeros(args.rounds) for key in jobs}
    for at in range(args.rounds):
        for key, job in jobs.items():
            times[key][at] = microseconds(job)
    print_table(times, args.chains, peer is not None)


def print_table(times: dict[tuple[int, str], np.ndarray], numbers: list[int], with_peer: bool) -> None:
    """Medians over rounds; ratios within rounds."""
    rounds = len(next(iter(times.values())))
    print(f"{'':8}{f'{rounds} rounds':26}{'median us':>10}{'min us':>9}{'/ bare':>9}{'leapfrogs/s':>13}")
    for (chains, name), values in times.items():
        bare = times[numbers[-1] if name.endswith("hypnettorch") else chains, "bare batched gradient"]
        rate = chains * 1e6 / np.median(values)
        ratio = np.median(values / bare)
        print(f"{chains:6}  {name:26}{np.median(values):10.0f}{values.min():9.0f}{ratio:9.2f}{rate:13,.0f}")
    for chains in numbers[1:]:
        for name in ("bare batched gradient", "leapfrog in HMC", "leapfrog in NUTS"):
            ratio = np.median(times[chains, name] / times[numbers[0], name])
            print(f"{name}: {chains} chains cost {ratio:.2f} times {numbers[0]}")
    if with_peer:
        for name in ("HMC", "NUTS"):
            chains = numbers[-1]
            apiece = times[chains, f"leapfrog in {name}"] / chains
            speedup = np.median(times[1, "leapfrog in hypnettorch"] / apiece)
            print(f"leapfrogs per second, {name} of {chains} chains / hypnettorch: {speedup:.1f}")


def profile(leapfrog: Job, gradient: Job) -> None:
    """Shares of a leapfrog in NUTS by function, each with all that it calls.

    The profiler slows small functions most, so what is left beside the gradient is overstated; the time without it, and
    that of the bare gradient, are printed beside.
    """
    plain, bare = microseconds(leapfrog, PROFILED_STEPS), microseconds(gradient, PROFILED_STEPS)
    profiler = cProfile.Profile()
    profiler.enable()
    leapfrog.gradients(PROFILED_STEPS)
    profiler.disable()
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    total = max(cumulative for _, _, _, cumulative, _ in stats.values())
    print(f"leapfrog {plain:.0f} us, bare gradient {bare:.0f} us; profiled {total / PROFILED_STEPS * 1e6:.0f} us")
    print(f"{'share':>6}{'own':>6}{'calls':>7}  function (shares of the profiled time, calls a leapfrog)")
    largest = sorted(stats.items(), key=lambda entry: -entry[1][3])
    for (path, _, name), (_, calls, own, cumulative, _) in largest[:28]:
        place = "" if path.startswith("~") else "/".join(path.split("/")[-2:]) + " "
        print(f"{cumulative / total:6.1%}{own / total:6.1%}{calls / PROFILED_STEPS:7.2f}  {place}{name}")


def hypnettorch_step(U: hnbayes.Potential, position: torch.Tensor, step_size: float) -> Job | None:
    """A leapfrog step of hypnettorch's HMC on the same potential, at the cost of one in a chain; None without it."""
    try:
        from hypnettorch.utils.hmc import HMC as PeerHMC
    except ImportError:
        return None
    steps = 25
    chain = PeerHMC(position.clone(), U.function, stepsize=step_size, num_steps=steps)
    calls = {"n": 0}

    def step() -> None:
        # Its chain takes whole states only: one of `steps` leapfrogs in so many calls.
        if calls["n"] % steps == 0:
            chain.simulate_chain(1)
        calls["n"] += 1

    return Job(step)


if __name__ == "__main__":
    main()
