"""Cores: a run that is spread over processes, from its plan or its folder to its draws."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hnbayes._checks import check_count, describe
from hnbayes.kernels.kernel import Kernel
from hnbayes.potentials.base import Potential
from hnbayes.potentials.evaluators import SECONDS_PER_NODE
from hnbayes.potentials.sequential import sequential_value, sequential_value_and_grad
from hnbayes.sampling.arguments import check_no_fewer
from hnbayes.sampling.callbacks import Callback, ProgressBar
from hnbayes.sampling.crew import Crew, Outcome, pickled
from hnbayes.sampling.draws import Draws
from hnbayes.sampling.lots import Plan, divide, done_so_far, gather
from hnbayes.sampling.lots_mirror import LotsMirror
from hnbayes.sampling.run_folder import begun_folder, lock
from hnbayes.sampling.settings import KERNELS
from hnbayes.sampling.signals import stop_requests
from hnbayes.sampling.verdict import warn_about, warn_if_coarse


class Spreader(Protocol):
    """Another way to spread lots than over processes of this machine; see `hnbayes.distributed.Ranks`."""

    def spread(
        self,
        plan: Plan,
        U: Potential,
        checkpoint: str | os.PathLike[str] | None,
        every: float,
        callbacks: Sequence[Callback],
        progress: bool,
    ) -> Draws:
        """See `spread`."""

    def resume(
        self,
        folder: Path,
        U: Potential,
        draws: int | None,
        every: float,
        callbacks: Sequence[Callback],
        progress: bool,
    ) -> Draws:
        """See `resume_spread`."""


Cores = int | Literal["auto"] | Spreader | None
# What `cores="auto"` reckons with: the start of a worker, in seconds, and the operations of a kernel's step.
START_SECONDS = 5.0
KERNEL_NODES = 60
# What a core does on a small network in one batch (1.6 million in 50 us); to take it for less would spread too early.
FLOPS_IN_BATCH = 3e10


def check_cores(cores: Any) -> Cores:
    """A number of processes, "auto", or None.

    Raises:
        TypeError, ValueError: if it is none of these.
    """
    if cores is None:
        return None
    if isinstance(cores, str) and cores == "auto":
        return "auto"
    if hasattr(cores, "spread") and not isinstance(cores, type):
        return cast(Spreader, cores)
    if isinstance(cores, str):
        raise ValueError(f"cores must be a number of processes, 'auto' or None; received {describe(cores)}.")
    return check_count("cores", cores)


def why_not(kernel: Kernel, positions: Tensor, pooled: bool) -> str | None:
    """Why a run can't be spread over processes, if it can't."""
    if pooled:
        return "adaptation='per-chain', as chains in several processes don't see each other; received 'pooled'"
    if kernel.shares_adaptation:
        return f"a kernel whose chains don't learn from each other; received a {type(kernel).__name__}"
    if KERNELS.get(type(kernel).__name__) is not type(kernel):
        return f"a kernel of hnbayes.kernels, which a process can make again; received a {type(kernel).__name__}"
    if positions.device.type != "cpu":
        return f"positions on the CPU, as a GPU evaluates all chains in one batch; received {positions.device}"
    return None


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def automatic(U: Potential, positions: Tensor, evaluations: int, gradient: bool) -> int | None:
    """The number of processes that an estimate takes to be fastest; None is this one.

    It counts the operations and the arithmetic of one gradient and looks at no clock, so that the same run is spread
    the same way each time. Workers must save more than they take to start.
    """
    chains, cpus = len(positions), usable_cpus()
    workers = min(cpus, len(divide(chains)))
    if workers < 2:
        return None
    nodes, flops = _counted(U, positions[:1], gradient)
    alone = (nodes + KERNEL_NODES) * SECONDS_PER_NODE + chains * flops / FLOPS_IN_BATCH
    lots = divide(chains)
    turns, size = -(-len(lots) // workers), len(lots[0])
    spread = turns * ((nodes + KERNEL_NODES) * SECONDS_PER_NODE + size * flops / FLOPS_IN_BATCH)
    return workers if evaluations * (alone - spread) > START_SECONDS else None


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.nodes += 1
        return func(*args, **(kwargs or {}))


def _counted(U: Potential, position: Tensor, gradient: bool) -> tuple[int, float]:
    """Operations of one evaluation of U, and what it multiplies and adds."""
    from torch.utils.flop_counter import FlopCounterMode

    evaluate = sequential_value_and_grad if gradient else sequential_value
    with FlopCounterMode(display=False) as flops, _Counting() as counting:
        evaluate(U.function, position)
    return counting.nodes, float(flops.get_total_flops())


def spread(
    plan: Plan,
    U: Potential,
    cores: int | Spreader,
    checkpoint: str | os.PathLike[str] | None,
    every: float,
    callbacks: Sequence[Callback],
    progress: bool,
) -> Draws:
    """Sample a plan with several processes.

    Args:
        plan: of the run.
        U: the potential.
        cores: the number of processes.
        checkpoint: the folder of the run; None takes a temporary one.
        every: seconds between checkpoints.
        callbacks: told, in this process, of every completed transition.
        progress: whether to show a progress bar.
    """
    if not isinstance(cores, int):
        return cores.spread(plan, U, checkpoint, every, callbacks, progress)
    content = pickled(U)
    with contextlib.ExitStack() as held:
        folder = begun_folder(checkpoint, held)
        plan.write(folder)
        return _worked(folder, plan, content, cores, every, None, callbacks, progress, kept=checkpoint is not None)


def resume_spread(
    folder: Path,
    U: Potential,
    cores: Cores,
    draws: int | None,
    every: float,
    callbacks: Sequence[Callback],
    progress: bool,
) -> Draws:
    """Go on with a run of `spread`; see `resume_potential`."""
    if cores is not None and not isinstance(cores, (int, str)):
        return cores.resume(folder, U, draws, every, callbacks, progress)
    with contextlib.ExitStack() as held:
        held.callback(lock(folder))
        plan = Plan.read(folder)
        content = pickled(U)
        cores = plan.cores if cores is None else usable_cpus() if cores == "auto" else cores
        draws = draws_in_all(folder, plan, draws)
        return _worked(folder, plan, content, cores or 1, every, draws, callbacks, progress, kept=True)


def draws_in_all(folder: Path, plan: Plan, draws: int | None) -> int:
    """Transitions after warm-up that a run is to have when it is resumed.

    Raises:
        ValueError: if they are fewer than it was asked for.
    """
    asked = int(gather(folder, plan).metadata["draws"])
    check_no_fewer(draws, asked)
    return draws or asked


def _worked(
    folder: Path,
    plan: Plan,
    potential: bytes,
    cores: int,
    every: float,
    draws: int | None,
    callbacks: Sequence[Callback],
    progress: bool,
    kept: bool,
) -> Draws:
    """The run in a folder taken to its end by a crew."""
    events = "all" if callbacks else "progress" if progress else "none"
    bar = None
    if progress:
        total = len(plan.positions) * (plan.settings.warmup + (draws or plan.settings.draws))
        bar = ProgressBar(total, initial=done_so_far(folder, plan))
    outcome, interrupted = Outcome(), False
    mirror = LotsMirror(folder, plan, every) if plan.settings.storage is not None else None
    try:
        with stop_requests(sigterm=kept) as request, Crew(folder, plan, potential, cores, every, draws, events) as crew:
            try:
                tolerant = plan.settings.on_error == "drop"
                outcome = crew.work(request, (*callbacks, bar) if bar else callbacks, tolerant, mirror)
                interrupted = crew.stopping
            except KeyboardInterrupt:  # asked twice: at once
                interrupted, outcome.stopped_by = True, "SIGINT"
    finally:
        if bar:
            bar.close()
    if mirror is not None:
        try:
            mirror.finish(outcome.lost)
        except OSError as full:
            outcome.error = outcome.error or full
    result = gather(folder, plan, outcome.lost)
    if not kept:
        result = _in_memory(result)
    result.metadata["cores"] = cores
    result.metadata["interrupted"] = int(interrupted or result.metadata["interrupted"])
    if outcome.stopped_by is not None and kept:
        result.metadata["stopped_by"] = outcome.stopped_by
    error = outcome.error
    if error is None and plan.none_left(result):
        error = outcome.last_dropped
    if error is not None:
        error.draws = result  # type: ignore[attr-defined]
        raise error
    warn_if_coarse(result.stats["lp"].numpy(), plan.positions.dtype)
    warn_about(result)
    return result


def _in_memory(draws: Draws) -> Draws:
    """The same draws, when the files that they are mapped from are about to go."""

    def copied(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.clone(memory_format=torch.contiguous_format)

    def each(tensors: dict[str, Tensor] | None) -> Any:
        return None if tensors is None else {name: copied(tensor) for name, tensor in tensors.items()}

    ragged = draws.ragged_positions
    return dataclasses.replace(
        draws,
        positions=draws.positions.clone(memory_format=torch.contiguous_format),
        stats=each(draws.stats),
        warmup_positions=copied(draws.warmup_positions),
        warmup_stats=each(draws.warmup_stats),
        ragged_positions=None if ragged is None else tuple(rows.clone() for rows in ragged),
    )
