"""Ranks: chains spread over the processes that `torchrun` has started, on one machine or several."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from hnbayes._checks import brief, check_positive
from hnbayes.distributed.heart import Heart
from hnbayes.distributed.process_group import agreed, agreed_on, join
from hnbayes.potentials.base import Potential
from hnbayes.sampling.callbacks import Callback, ProgressBar
from hnbayes.sampling.cores import draws_in_all
from hnbayes.sampling.draws import Draws
from hnbayes.sampling.lots import Lot, Plan, done_so_far, gather
from hnbayes.sampling.lots_mirror import LotsMirror
from hnbayes.sampling.run_folder import begun_folder, lock
from hnbayes.sampling.shift import Shift
from hnbayes.sampling.signals import stop_requests
from hnbayes.sampling.verdict import warn_about, warn_if_coarse


class RanksStoppedError(RuntimeError):
    """The ranks were asked to stop; `draws` are those so far."""


class RankDiedError(RuntimeError):
    """A rank has died, or failed; `draws` are those so far."""


class Ranks:
    """A way to spread chains, for `cores=` of `hnbayes.sample`, `sample_potential` and `resume`; called on every rank.

    Each rank samples some of the chains, with one thread, as a worker process would: draws are those of `cores=` with
    any number of workers, bit for bit, whatever the number of ranks. What rank 0 was given counts: starts, options,
    seed. Each rank evaluates the potential that it was given. All ranks return the draws of all chains, read from the
    run's folder, so that one of them, rank 0, can write them.

    Several machines need a `checkpoint` folder that all see; without one, ranks on one machine use a temporary folder.

    Args:
        patience: seconds without a sign of life after which a rank is taken to be gone.

    Raises:
        TypeError, ValueError: if patience is no positive number.

    Example:
        >>> ranks = hnbayes.distributed.Ranks(patience=30.0)
    """

    def __init__(self, patience: float = 15.0) -> None:
        self.patience = check_positive("patience", patience)

    def __repr__(self) -> str:
        return f"Ranks(patience={self.patience:g})"

    def spread(
        self,
        plan: Plan,
        U: Potential,
        checkpoint: str | os.PathLike[str] | None,
        every: float,
        callbacks: Sequence[Callback],
        progress: bool,
    ) -> Draws:
        """Sample a plan; see `hnbayes.sampling.cores.spread`."""
        join()
        with contextlib.ExitStack() as held:
            folder, plan = agreed_on(lambda: self._begun(plan, checkpoint, held))
            return self._work(folder, plan, U, None, every, callbacks, progress, kept=checkpoint is not None)

    def resume(
        self,
        folder: Path,
        U: Potential,
        draws: int | None,
        every: float,
        callbacks: Sequence[Callback],
        progress: bool,
    ) -> Draws:
        """Go on with a run; see `hnbayes.sampling.cores.resume_spread`."""
        join()
        with contextlib.ExitStack() as held:
            folder, plan, draws = agreed_on(lambda: self._found(folder, draws, held))
            return self._work(folder, plan, U, draws, every, callbacks, progress, kept=True)

    def _begun(
        self, plan: Plan, checkpoint: str | os.PathLike[str] | None, held: contextlib.ExitStack
    ) -> tuple[Path, Plan]:
        """The folder of a run that begins, and its plan with files for each lot, as machines can't share them."""
        folder = begun_folder(checkpoint, held)
        plan = dataclasses.replace(plan, shared=False, cores=1)
        plan.write(folder)
        return folder.resolve(), plan

    def _found(self, folder: Path, draws: int | None, held: contextlib.ExitStack) -> tuple[Path, Plan, int]:
        """The folder of a run that goes on, its plan, and the draws that it is to have."""
        held.callback(lock(folder))
        plan = Plan.read(folder)
        return folder.resolve(), plan, draws_in_all(folder, plan, draws)

    def _work(
        self,
        folder: Path,
        plan: Plan,
        U: Potential,
        draws: int | None,
        every: float,
        callbacks: Sequence[Callback],
        progress: bool,
        kept: bool,
    ) -> Draws:
        rank, world = dist.get_rank(), dist.get_world_size()
        numbers = range(rank, len(plan.lots), world)
        store = dist.distributed_c10d._get_default_store()
        bar = None
        if progress and rank == 0:  # its own chains stand for all
            mine = sum(len(plan.lots[number]) for number in numbers)
            total = mine * (plan.settings.warmup + (draws or plan.settings.draws))
            bar = ProgressBar(total, initial=done_so_far(folder, plan, numbers))
        mirror = LotsMirror(folder, plan, every) if plan.settings.storage is not None and rank == 0 else None
        told: list[Callback] = [*callbacks, *([] if bar is None else [bar]), *([] if mirror is None else [mirror.told])]
        with stop_requests() as request, _one_thread(), contextlib.ExitStack() as held:
            heart = Heart(store, agreed(uuid.uuid4().hex), rank, world, request, self.patience)
            heart.show()
            dist.barrier()
            heart.start()
            held.callback(heart.stop)
            shift = Shift(folder, plan, list(numbers), request)
            try:
                with contextlib.ExitStack() as lots:
                    shift.open(U, lots)
                    shift.work(every, draws, lambda lot: _numbered(lot, told))
                heart.wait_for_all()
                if mirror is not None:
                    mirror.finish()
            except Exception as error:
                heart.show("failed", brief(error))
                error.draws = gather(folder, plan)  # type: ignore[attr-defined]
                raise
            finally:
                if bar:
                    bar.close()
            stopped = request.signal
            result = gather(folder, plan)
            if stopped:
                raise _stopped(heart.gone, stopped, result, folder if kept else None)
            # None may remove the folder, or end the store, before all have read.
            dist.barrier()
        result.metadata["cores"] = world
        if shift.dropped and plan.none_left(result):
            shift.dropped[-1].draws = result  # type: ignore[attr-defined]
            raise shift.dropped[-1]
        if rank == 0:
            warn_if_coarse(result.stats["lp"].numpy(), plan.positions.dtype)
            warn_about(result)
        return result


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """As workers have, so that rounding is that of theirs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _numbered(lot: Lot, callbacks: Sequence[Callback]) -> list[Callback]:
    """Callbacks of a lot, told of its chains by their numbers in the run."""
    numbers = np.array(lot)

    def told(callback: Callback) -> Callback:
        return lambda event: callback(dataclasses.replace(event, chains=numbers[event.chains]))

    return [told(callback) for callback in callbacks]


def _stopped(gone: str | None, signal: str, draws: Draws, folder: Path | None) -> RuntimeError:
    """What is raised where ranks can't go on together."""
    again = f"Start as many ranks as you like and go on by hnbayes.resume({str(folder)!r}, ..., cores=Ranks())."
    if folder is None:
        again = "With a checkpoint folder it could be resumed."
    if gone is not None:
        error: RuntimeError = RankDiedError(f"{gone}, so the run has ended. {again}")
    else:
        error = RanksStoppedError(
            f"the ranks were stopped by {signal}, which torchrun sends to all when one of them has ended. {again}"
        )
    error.draws = draws  # type: ignore[attr-defined]
    return error
