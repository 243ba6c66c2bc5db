"""The one loop: every run, of whatever kernel, goes through `run`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hnbayes.kernels.adaptation import Adaptation
from hnbayes.kernels.arrays import Host
from hnbayes.kernels.kernel import Kernel, State
from hnbayes.sampling.callbacks import Callback, Event, StopSampling


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
        The last state, with all chains in order, and whether the run was cut short (Ctrl-C or StopSampling).
    """
    total = warmup + draws
    count = state.chains
    done = np.zeros(count, np.int64)
    chains = np.arange(count)
    # Chains whose rows have left the batch are written back here.
    whole = state
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
            info = finished.info if live.all() else {k: v[live] for k, v in finished.info.items()}
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
            going_on = done[chains] < total
            if not going_on.all() and 2 * going_on.sum() <= len(chains):
                _write_back(whole, state, chains)
                keep = np.flatnonzero(going_on)
                state, chains = state.select(keep), chains[keep]
                if len(chains) and kernel.uses_gradient:
                    state.potential.prepare(state.positions_tensor())
    except (KeyboardInterrupt, StopSampling):
        _write_back(whole, state, chains)
        return whole, True
    return whole, False


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


def _write_back(whole: State, part: State, chains: Host) -> None:
    """Put the rows of a smaller state back where they stand in the whole."""
    if part is whole:
        return
    ix = whole.vectors.index(chains)
    whole.position[ix], whole.gradient[ix] = part.position, part.gradient
    whole.energy[chains] = part.energy
    whole.step_size[chains] = part.step_size
    inverse = part.metric.host_inverse()
    if len(inverse) == len(chains) and len(whole.metric.host_inverse()) == whole.chains:
        whole.metric.replace_rows(chains, inverse)
