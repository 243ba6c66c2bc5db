"""Going on with a run that was stopped, and reading one that may be going on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hnbayes._checks import check_count
from hnbayes.kernels.arrays import vectors_like
from hnbayes.kernels.kernel import State
from hnbayes.kernels.metrics import DenseMetric, DiagonalMetric
from hnbayes.potentials.base import Potential, as_potential, check_positions
from hnbayes.sampling.arguments import check_callbacks, check_interval, check_no_fewer
from hnbayes.sampling.beginning import assemble, first_state
from hnbayes.sampling.callbacks import Callback
from hnbayes.sampling.cores import Spreader, check_cores, resume_spread
from hnbayes.sampling.draw_files import DrawFiles
from hnbayes.sampling.draws import Draws
from hnbayes.sampling.engine import Run, draws_of, metadata_of
from hnbayes.sampling.isolation import Isolated
from hnbayes.sampling.lots import Plan, gather
from hnbayes.sampling.run_folder import Arrays, RunFolder, folder_of, has_lots, read_start
from hnbayes.sampling.settings import FORMAT, Settings, environment, kernel_from_record, spec_from_record
from hnbayes.sampling.snapshot import adapted

# Another machine or version rounds otherwise: so far may U and its gradient be off, relative to their largest.
ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-9}


def resume_potential(
    folder: str | os.PathLike[str],
    potential: Potential | Callable[[Tensor], Tensor],
    *,
    draws: int | None = None,
    checkpoint_every: float = 60.0,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    cores: int | Literal["auto"] | Spreader | None = None,
) -> Draws:
    """Go on with a run of `sample_potential(..., checkpoint=folder)`, bit for bit as if it had not been stopped.

    A damaged newest checkpoint is passed over for the one before, with a warning. All options are those of the run.

    Args:
        folder: of the run.
        potential: the same as that of the run, which no file can hold.
        draws: transitions after warm-up a chain in all; None is as many as were asked for so far. More than that are
            added when these are done.
        checkpoint_every: seconds between checkpoints.
        progress: show a progress bar.
        callbacks: functions of an `Event`.
        cores: for a run that was begun with `cores`: how many processes take it on; None is as many as then. The draws
            don't depend on it.

    Returns:
        All draws of the run, before and after.

    Raises:
        TypeError, ValueError: if an argument is none of the above, there is no run or no undamaged checkpoint in the
            folder, or the potential isn't that of the run.
        OSError: as `sample_potential`.

    Example:
        >>> def U(q):
        ...     return 0.5 * (q**2).sum()
        >>> options = {"warmup": 20, "draws": 20, "seed": 0, "progress": False}
        >>> run = hnbayes.sample_potential(U, torch.zeros(2, 3), checkpoint="run", **options)
        >>> hnbayes.sampling.resume_potential("run", U, draws=30, progress=False).num_draws
        30
    """
    every = check_interval(checkpoint_every)
    check_callbacks(callbacks)
    if draws is not None:
        draws = check_count("draws", draws)
    cores = check_cores(cores)
    if has_lots(path := folder_of(folder)):
        plan = Plan.read(path)
        U = as_potential(potential, compile=plan.compile)
        return resume_spread(path, U, cores, draws, every, callbacks, progress)
    if cores is not None:
        raise ValueError(
            f"cores must be None for a run that was begun without it, as that in {path}: its chains advance in one "
            f"batch; received {cores}. Leave it out."
        )
    with RunFolder(folder, "resume") as held:
        start, record = read_start(held.path)
        U = as_potential(potential, compile=record["compile"])
        run = run_of(held, start, record, U if record["settings"]["on_error"] == "raise" else Isolated(U))
        held.newest(run.restore)
        check_no_fewer(draws, run.draws)
        result = run.go(callbacks, progress, every)
        if draws is None or draws == run.draws or result.metadata["interrupted"]:
            return result
        run.add_draws(draws)
        return run.go(callbacks, progress, every)


def read_draws(folder: str | os.PathLike[str]) -> Draws:
    """The draws that a run has written to its folder so far, also while it goes on.

    Args:
        folder: given to `sample_potential` as `checkpoint`.

    Returns:
        As many draws as every chain has, mapped from the files: only what is looked at takes memory.

    Raises:
        TypeError, ValueError: if the folder holds no run, or one that is damaged.

    Example:
        >>> def U(q):
        ...     return 0.5 * (q**2).sum()
        >>> options = {"warmup": 20, "draws": 20, "seed": 0, "progress": False}
        >>> run = hnbayes.sample_potential(U, torch.zeros(2, 3), checkpoint="run", **options)
        >>> hnbayes.read_draws("run").positions.shape  # from another process too, while it runs
        torch.Size([2, 20, 3])
    """
    if has_lots(path := folder_of(folder)):
        return gather(path, Plan.read(path))
    held = RunFolder(folder, "read")
    start, record = read_start(held.path)
    settings, kernel = Settings.from_record(record["settings"]), kernel_from_record(record["kernel"])
    chains, dimension = start["positions"].shape
    phases = ("draws", "warmup") if settings.save_warmup else ("draws",)
    files = {}
    for phase in phases:
        files[phase] = DrawFiles(
            str(held.path), phase, chains, dimension, settings.storage_dtype, kernel.stats, writable=False
        )
        files[phase].count_stored()
    arrays, newest = held.newest(lambda arrays, record: (arrays, record))
    step_size, inverse = adapted(arrays)
    dropped = {int(chain): str(reason) for chain, reason in newest["dropped"]}
    draws = int(newest["draws"])
    missing = bool((arrays["done"] < settings.warmup + draws).any())
    version = record["environment"]["hnbayes"]
    metadata = metadata_of(settings, kernel, draws, dropped, record["mode"], version, missing)
    return draws_of(
        files["draws"], files.get("warmup"), dropped, step_size, inverse, spec_from_record(record["spec"]), metadata
    )


def run_of(held: RunFolder, start: Arrays, record: dict[str, Any], U: Potential) -> Run:
    """The run at its start, made again from what was written of it.

    Raises:
        ValueError: if the potential isn't that of the run.
    """
    if record["format"] > FORMAT:
        raise ValueError(f"{held.path} was written by a newer hnbayes. Update it.")
    settings, kernel = Settings.from_record(record["settings"]), kernel_from_record(record["kernel"])
    before, now = record["environment"], environment(torch.device(record["environment"]["device"]))
    positions = torch.from_numpy(start["positions"]).to(before["device"])
    spec = spec_from_record(record["spec"])
    if U.spec is not None and spec is not None and U.spec != spec:
        raise _another(
            held,
            f"its positions are made of {', '.join(U.spec.names)}, those of the run of "
            f"{', '.join(spec.names)}, or in other shapes",
        )
    check_positions(positions, U.spec, U.dtype)
    vectors = vectors_like(positions)
    inverse = start["metric"]
    metric = (DiagonalMetric if inverse.ndim == 2 else DenseMetric)(vectors, inverse)
    state, mode = first_state(U, kernel, positions, settings, metric)
    _compare(held, state, start, same_place=before == now, dtype=positions.dtype)
    if changed := [f"{name} {before.get(name)} -> {now[name]}" for name in now if now[name] != before.get(name)]:
        _warn(f"the run was begun elsewhere ({', '.join(changed)}), where numbers may be rounded otherwise")
    elif mode != record["mode"]:
        _warn(f"the potential is evaluated otherwise than before ({record['mode']} -> {mode})")
    return assemble(U, kernel, state, settings, start.get("structure"), mode, held)


def _compare(held: RunFolder, state: State, start: Arrays, same_place: bool, dtype: torch.dtype) -> None:
    """Raise ValueError unless U and its gradient at the starts are what they were."""
    found = {"energy": state.energy, "gradient": np.asarray(state.vectors.to_host(state.gradient))}
    for name, values in found.items():
        before = start[name]
        if np.array_equal(values, before):
            continue
        scale = float(np.abs(before).max())
        off = float(np.abs(values - before).max())
        if same_place or off > ROUNDING[dtype] * scale:
            what = "U" if name == "energy" else "the gradient of U"
            raise _another(held, f"where the chains began, {what} is off by {off:.3g} (its largest was {scale:.3g})")


def _another(held: RunFolder, reason: str) -> ValueError:
    return ValueError(
        f"the potential must be that of the run in {held.path}, with the same model and data; {reason}. Give the same "
        "potential, or begin a new run in another folder."
    )


def _warn(reason: str) -> None:
    warnings.warn(
        f"{reason}: the draws to come are as good, but not bit for bit those of the run that wasn't stopped.",
        UserWarning,
        stacklevel=4,
    )
