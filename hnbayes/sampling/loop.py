"""The one loop: every run, of whatever kernel, is made of the steps of a `Stepper`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from hnbayes.kernels.adaptation import Adaptation
from hnbayes.kernels.arrays import Host
from hnbayes.kernels.kernel import Kernel, State
from hnbayes.sampling.callbacks import Callback, Event, StopSampling

FEW_ROWS = 4


class Sink(Protocol):
    """Where completed transitions go."""

    def store(self, chains: Host, positions: Host, info: dict[str, Host]) -> None:
        """Keep draws (R, D) of some chains."""


@dataclass
class Progress:
    """How far a run has come, between two evaluations.

    Attributes:
        state: the batch that is evaluated, R chains.
        chains: their numbers, (R,).
        done: transitions that each chain of the run has completed, (C,).
        final: each chain's state is written here when it ends, while its row may run on with others in the batch.
        starts: where the chains began, (C, D): what graphs are prepared with, so that a run that is resumed has those
            of the run that wasn't stopped.
        dropped: chains that go on no more, and why.
        numbers: what messages call the chains; of a part of a run, their numbers in the run.
        torn: whether an interrupt came in the middle of an evaluation, after which nothing can go on bit for bit.
    """

    state: State
    chains: Host
    done: Host
    final: State
    starts: Tensor
    dropped: dict[int, str] = field(default_factory=dict)
    torn: bool = False
    numbers: Sequence[int] | None = None

    def number(self, chain: int) -> int:
        """What messages call a chain."""
        return chain if self.numbers is None else self.numbers[chain]

    @classmethod
    def begin(cls, state: State) -> Progress:
        """No transition has been completed."""
        chains = np.arange(state.chains)
        done = np.zeros(state.chains, np.int64)
        return cls(state, chains, done, state.select(chains), state.positions_tensor().clone())

    def going_on(self, total: int) -> Host:
        """Which chains have transitions to complete, (C,)."""
        result: Host = self.done < total
        if self.dropped:
            result[list(self.dropped)] = False
        return result

    def keep(self, chains: Host, rows: Host) -> None:
        """Write the states of some chains, which stand in these rows of the batch, to the final one."""
        _write(self.final, chains, self.state, rows)
        for row in rows:
            # A stand-in, so that the chain's own stream stays where the chain has ended.
            self.state.streams[row] = copy.deepcopy(self.state.streams[row])

    def begin_again(self) -> None:
        """All chains but those that were dropped set out from where they have ended."""
        self.chains = np.setdiff1d(np.arange(self.final.chains), list(self.dropped)).astype(np.int64)
        self.state = self.final.select(self.chains)
        self.state.fresh[:] = True


def run(
    kernel: Kernel,
    state: State,
    *,
    warmup: int,
    draws: int,
    sink: Sink,
    adaptation: Adaptation | None = None,
) -> tuple[State, bool]:
    """Advance all chains until each has completed its transitions.

    Args:
        kernel: the Markov kernel.
        state: all chains, about to begin a transition; step sizes and metrics are changed by the adaptation.
        warmup: transitions of warm-up a chain, which are not kept.
        draws: transitions after it a chain.
        sink: takes draws.
        adaptation: adapts step size and metric during warm-up.

    Returns:
        The state in which each chain ended, and whether the run was cut short (Ctrl-C or StopSampling).
    """
    progress = Progress.begin(state)
    interrupted = go_on(Stepper(kernel, progress, warmup=warmup, draws=draws, sink=sink, adaptation=adaptation))
    return progress.final, interrupted


class Stepper:
    """The loop's body: one evaluation of all chains of a run.

    Args:
        kernel: the Markov kernel.
        progress: changed in place; in the end `progress.final` is the state in which each chain ended.
        warmup: transitions of warm-up a chain.
        draws: transitions after it a chain, those completed already included.
        sink: takes draws.
        thin: keep one in so many.
        warmup_sink: takes the transitions of warm-up; None drops them.
        adaptation: adapts step size and metric during warm-up.
        callbacks: told of every completed transition.
        check: called after every evaluation, before what was completed is stored; says whether it has dropped chains.
        watch: called after every evaluation, when what was completed is stored; may raise StopSampling.
    """

    def __init__(
        self,
        kernel: Kernel,
        progress: Progress,
        *,
        warmup: int,
        draws: int,
        sink: Sink,
        thin: int = 1,
        warmup_sink: Sink | None = None,
        adaptation: Adaptation | None = None,
        callbacks: Sequence[Callback] = (),
        check: Callable[[Progress, int], bool] | None = None,
        watch: Callable[[Progress], None] | None = None,
    ) -> None:
        self.kernel, self.progress, self.adaptation = kernel, progress, adaptation
        self.warmup, self.total, self.thin = warmup, warmup + draws, thin
        self.sink, self.warmup_sink = sink, warmup_sink
        self.callbacks, self.check, self.watch = callbacks, check, watch

    @property
    def ended(self) -> bool:
        """Whether no chain has transitions to complete."""
        return not len(self.progress.chains)

    def step(self) -> None:
        """Evaluate once, and deal with what was completed by it.

        Raises:
            StopSampling: if a callback or the watch wants the run to stop.
        """
        progress, total = self.progress, self.total
        done = progress.done
        state, finished = self.kernel.advance(progress.state)
        progress.state = state
        fewer = self.check is not None and self.check(progress, total)
        stop = False
        # Rows of chains that have ended run on until the batch shrinks.
        live = None if finished is None else progress.going_on(total)[progress.chains[finished.rows]]
        if finished is not None and live is not None and live.any():
            rows, info = finished.rows, finished.info
            if not live.all():
                rows, info = rows[live], {name: values[live] for name, values in info.items()}
            ids = progress.chains[rows]
            done[ids] += 1
            positions = state.vectors.to_host(state.position[state.vectors.index(rows)])
            _store(self.sink, self.warmup_sink, ids, done[ids], self.warmup, self.thin, positions, info)
            warm = done[ids] <= self.warmup
            if self.adaptation is not None and warm.any():
                self.adaptation.update(state, rows[warm], ids[warm], done[ids[warm]], info["acceptance_rate"][warm])
            if self.callbacks:
                stop = _tell(self.callbacks, Event(ids, done[ids], self.warmup, total, positions, info))
            ended = done[ids] >= total
            if ended.any():
                progress.keep(ids[ended], rows[ended])
                fewer = True
        if fewer:
            _shrink(self.kernel, progress, progress.going_on(total))
        if self.watch is not None:
            self.watch(progress)
        if stop:
            raise StopSampling

    def leave(self) -> None:
        """Evaluate chains that have ended, or were dropped, no more."""
        _shrink(self.kernel, self.progress, self.progress.going_on(self.total))

    def cut_short(self, torn: bool) -> None:
        """Leave each chain where it is; `torn` if an evaluation may not have been dealt with to its end."""
        progress = self.progress
        progress.torn = torn
        going_on = np.flatnonzero(progress.going_on(self.total)[progress.chains])
        _write(progress.final, progress.chains[going_on], progress.state, going_on)


def go_on(stepper: Stepper) -> bool:
    """Step until all chains have ended, or somebody stops it; returns whether the run was cut short."""
    try:
        while not stepper.ended:
            stepper.step()
    except (KeyboardInterrupt, StopSampling) as error:
        stepper.cut_short(torn=isinstance(error, KeyboardInterrupt))
        return True
    return False


def _tell(callbacks: Sequence[Callback], event: Event) -> bool:
    """Call callbacks; says whether one wants the run to stop."""
    try:
        for callback in callbacks:
            callback(event)
    except StopSampling:
        return True
    return False


def _shrink(kernel: Kernel, progress: Progress, going_on: Host) -> None:
    """Shrink the batch once half of its rows belong to chains that have ended.

    Not before: each new number of rows costs a new capture of the potential's graph. And not for few rows of a graph
    that costs the same for half of them.
    """
    state, chains = progress.state, progress.chains
    keep = np.flatnonzero(going_on[chains])
    dispatch_bound = len(chains) <= FEW_ROWS and state.potential.evaluates_arrays(state.positions_tensor())
    if len(keep) and (2 * len(keep) > len(chains) or dispatch_bound):
        return
    progress.state, progress.chains = state.select(keep), chains[keep]
    if len(keep) and kernel.uses_gradient:
        state.potential.prepare(progress.starts[progress.chains])


def _store(
    sink: Sink,
    warmup_sink: Sink | None,
    ids: Host,
    done: Host,
    warmup: int,
    thin: int,
    positions: Host,
    info: dict[str, Host],
) -> None:
    warm = done <= warmup
    if warmup_sink is not None and warm.any():
        warmup_sink.store(ids[warm], positions[warm], {name: values[warm] for name, values in info.items()})
    kept = ~warm & ((done - warmup) % thin == 0)
    if kept.all():
        sink.store(ids, positions, info)
    elif kept.any():
        sink.store(ids[kept], positions[kept], {name: values[kept] for name, values in info.items()})


def _write(final: State, chains: Host, state: State, rows: Host) -> None:
    """Copy rows of the running state to where their chains stand in the final one."""
    to, ix = final.vectors.index(chains), state.vectors.index(rows)
    final.position[to], final.gradient[to] = state.position[ix], state.gradient[ix]
    final.energy[chains] = state.energy[rows]
    final.step_size[chains] = state.step_size[rows]
    final.length[chains] = state.length[rows]
    inverse = state.metric.host_inverse()
    if len(inverse) == state.chains and len(final.metric.host_inverse()) == final.chains:
        final.metric.replace_rows(chains, inverse[rows])
