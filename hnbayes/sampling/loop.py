"""The one loop: every run, of whatever kernel, goes through `run`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hnbayes.kernels.adaptation import Adaptation
from hnbayes.kernels.arrays import Host
from hnbayes.kernels.kernel import Kernel, State
from hnbayes.sampling.callbacks import Callback, Event, StopSampling

FEW_ROWS = 4


class Sink(Protocol):
    """Where completed transitions go."""

    def store(self, chains: Host, positions: Host, info: dict[str, Host]) -> None:
        """Keep draws (R, D) of some chains."""


def run(
    kernel: Kernel,
    state: State,
    *,
    warmup: int,
    draws: int,
    sink: Sink,
    thin: int = 1,
    warmup_sink: Sink | None = None,
    adaptation: Adaptation | None = None,
    callbacks: Sequence[Callback] = (),
) -> tuple[State, bool]:
    """Advance all chains until each has completed its transitions.

    Args:
        kernel: the Markov kernel.
        state: all chains, about to begin a transition; step sizes and metrics are changed by the adaptation.
        warmup: transitions of warm-up a chain.
        draws: transitions after it a chain, of which every `thin`-th goes to the sink.
        sink: takes draws.
        thin: keep one in so many.
        warmup_sink: takes the transitions of warm-up; None drops them.
        adaptation: adapts step size and metric during warm-up.
        callbacks: told of every completed transition.

    Returns:
        The state in which each chain ended, and whether the run was cut short (Ctrl-C or StopSampling).
    """
    total = warmup + draws
    done = np.zeros(state.chains, np.int64)
    chains = np.arange(state.chains)
    # Each chain is written here when it ends, while its row may run on with others in the batch.
    final = state.select(chains)
    try:
        while len(chains):
            state, finished = kernel.advance(state)
            if finished is None:
                continue
            live = done[chains[finished.rows]] < total
            rows = finished.rows if live.all() else finished.rows[live]
            if not len(rows):
                continue
            ids = chains[rows]
            info = finished.info if live.all() else {name: values[live] for name, values in finished.info.items()}
            done[ids] += 1
            positions = state.vectors.to_host(state.position[state.vectors.index(rows)])
            _store(sink, warmup_sink, ids, done[ids], warmup, thin, positions, info)
            warm = done[ids] <= warmup
            if adaptation is not None and warm.any():
                adaptation.update(state, rows[warm], ids[warm], done[ids[warm]], info["acceptance_rate"][warm])
            if callbacks:
                event = Event(ids, done[ids], warmup, total, positions, info)
                for callback in callbacks:
                    callback(event)
            ended = done[ids] >= total
            if ended.any():
                _write(final, ids[ended], state, rows[ended])
                for row in rows[ended]:
                    # A stand-in, so that the chain's own stream stays where the chain has ended.
                    state.streams[row] = copy.deepcopy(state.streams[row])
                state, chains = _without_ended(kernel, state, chains, done < total)
    except (KeyboardInterrupt, StopSampling):
        going_on = np.flatnonzero(done[chains] < total)
        _write(final, chains[going_on], state, going_on)
        return final, True
    return final, False


def _without_ended(kernel: Kernel, state: State, chains: Host, going_on: Host) -> tuple[State, Host]:
    """Shrink the batch once half of its rows belong to chains that have ended.

    Not before: each new number of rows costs a new capture of the potential's graph. And not for few rows of a graph
    that costs the same for half of them.
    """
    keep = np.flatnonzero(going_on[chains])
    dispatch_bound = len(chains) <= FEW_ROWS and state.potential.evaluates_arrays(state.positions_tensor())
    if len(keep) and (2 * len(keep) > len(chains) or dispatch_bound):
        return state, chains
    state, chains = state.select(keep), chains[keep]
    if len(chains) and kernel.uses_gradient:
        state.potential.prepare(state.positions_tensor())
    return state, chains


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
    inverse = state.metric.host_inverse()
    if len(inverse) == state.chains and len(final.metric.host_inverse()) == final.chains:
        final.metric.replace_rows(chains, inverse[rows])
