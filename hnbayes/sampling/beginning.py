"""How a run begins: its first state, its parts, and what its folder says of its start."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from hnbayes.kernels.adaptation import find_step_size
from hnbayes.kernels.arrays import Host
from hnbayes.kernels.kernel import Kernel, State
from hnbayes.kernels.metrics import Metric
from hnbayes.kernels.warmups import adaptation_of
from hnbayes.potentials.base import Potential
from hnbayes.rng import chain_streams
from hnbayes.sampling.draw_files import DrawFiles
from hnbayes.sampling.draws import Recorder
from hnbayes.sampling.engine import Run
from hnbayes.sampling.isolation import Isolated
from hnbayes.sampling.loop import Progress
from hnbayes.sampling.mirror import Mirror, remove_mirror
from hnbayes.sampling.run_folder import RunFolder, Share
from hnbayes.sampling.settings import FORMAT, Settings, environment, kernel_to_record, spec_to_record
from hnbayes.sampling.verdict import warn_if_coarse


def begin(
    U: Potential,
    kernel: Kernel,
    positions: Tensor,
    settings: Settings,
    step_size: float | None,
    metric: Metric,
    structure: Host | None,
    folder: RunFolder | None = None,
) -> Run:
    """A run at its start, its first checkpoint written.

    Args:
        U: the potential.
        kernel: the kernel.
        positions: where chains start, (C, D).
        settings: the options.
        step_size: where the step size starts; None searches.
        metric: where the metric starts.
        structure: see `Adaptation`.
        folder: where draws and checkpoints go; None keeps draws in memory.
    """
    state, mode = first_state(U, kernel, positions, settings, metric)
    start = {"positions": _host(positions), "energy": state.energy.copy(), "gradient": _host_of(state, state.gradient)}
    state.step_size[:] = step_size or 1.0
    if step_size is None:
        state.step_size[:] = find_step_size(kernel, state)
        if isinstance(U, Isolated):
            U.errors.clear()  # of steps that were too large, not of transitions
    run = assemble(U, kernel, state, settings, structure, mode, folder)
    run.warned = warn_if_coarse(state.energy, positions.dtype)
    if folder is not None:
        arrays = {**start, "metric": metric.host_inverse()} | ({} if structure is None else {"structure": structure})
        record = {
            "format": FORMAT,
            "settings": settings.to_record(),
            "kernel": kernel_to_record(kernel),
            "compile": U.compile,
            "mode": mode,
            "spec": spec_to_record(U.spec),
            "environment": environment(positions.device),
        }
        # What a process wrote that was killed before its first checkpoint is no part of this run.
        for recorder in (run.recorder, run.warmup_recorder):
            if isinstance(recorder, DrawFiles):
                recorder.clear()
        remove_mirror(folder.path)
        folder.write_start(arrays, record)
        run.save()
    return run


def first_state(
    U: Potential, kernel: Kernel, positions: Tensor, settings: Settings, metric: Metric
) -> tuple[State, str]:
    """The state in which all chains are about to begin, and how U is evaluated."""
    streams = chain_streams(settings.seed, settings.chain_ids)
    mode = U.prepare(positions, settings.evaluations) if kernel.uses_gradient else "value only"
    return kernel.init(U, positions, streams, 1.0, metric), mode


def assemble(
    U: Potential,
    kernel: Kernel,
    state: State,
    settings: Settings,
    structure: Host | None,
    mode: str,
    folder: RunFolder | None,
) -> Run:
    """A run of its parts; in a folder, draws go to files there."""
    chains, dimension = state.position.shape

    def recorder(phase: str, draws: int) -> Recorder | DrawFiles:
        if folder is not None:
            share = folder.share or Share(folder.path, chains, tuple(range(chains)))
            members = None if folder.share is None else share.members
            files = DrawFiles(
                str(share.path),
                phase,
                share.chains,
                dimension,
                settings.storage_dtype,
                kernel.stats,
                members=members,
            )
            folder.held.callback(files.close)
            return files
        return Recorder(chains, draws, dimension, state.positions_tensor().dtype, kernel.stats)

    adaptation = adaptation_of(
        kernel,
        state,
        settings.warmup,
        settings.target_accept,
        step_size=settings.adapt_step_size,
        metric=settings.metric,
        pooled=settings.pooled,
        structure=structure,
    )
    warmup = recorder("warmup", settings.warmup) if settings.save_warmup else None
    draws = recorder("draws", settings.draws // settings.thin)
    run = Run(U, kernel, settings, Progress.begin(state), adaptation, draws, warmup, mode, folder, settings.draws)
    if folder is not None and settings.storage is not None:
        run.mirror = Mirror(folder.path, settings, kernel, U.spec, chains, dimension)
    return run


def _host(tensor: Tensor) -> Host:
    return tensor.detach().cpu().numpy()


def _host_of(state: State, values: Any) -> Host:
    return np.array(state.vectors.to_host(values))
