"""Run: all that belongs to a run of several chains, from its begin or from a checkpoint, to its draws."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hnbayes._version import __version__
from hnbayes.kernels.adaptation import Adaptation
from hnbayes.kernels.arrays import Host
from hnbayes.kernels.kernel import Kernel
from hnbayes.params import ParamSpec
from hnbayes.potentials.base import Potential
from hnbayes.sampling.callbacks import Callback, ProgressBar, StopSampling
from hnbayes.sampling.draw_files import DrawFiles
from hnbayes.sampling.draws import Draws, Recorder, remaining
from hnbayes.sampling.isolation import drop_failed
from hnbayes.sampling.loop import Progress, Stepper, go_on
from hnbayes.sampling.mirror import Mirror
from hnbayes.sampling.run_folder import Arrays, RunFolder
from hnbayes.sampling.settings import Settings
from hnbayes.sampling.signals import StopRequest, stop_requests
from hnbayes.sampling.snapshot import put_back, take
from hnbayes.sampling.verdict import warn_about, warn_if_coarse


@dataclass
class Run:
    """A run between two evaluations.

    Attributes:
        potential, kernel, settings: what is sampled, and how.
        progress: how far it has come.
        adaptation: of step sizes and metric.
        recorder, warmup_recorder: where draws go.
        mode: how the potential is evaluated.
        folder: where checkpoints go; None for a run in memory.
        draws: transitions after warm-up a chain, those that were added later included.
        elapsed: seconds of sampling before this process.
        warned: whether a warning of coarse energies was given.
        mirror: of the draws in files; None has none.
    """

    potential: Potential
    kernel: Kernel
    settings: Settings
    progress: Progress
    adaptation: Adaptation
    recorder: Recorder | DrawFiles
    warmup_recorder: Recorder | DrawFiles | None
    mode: str
    folder: RunFolder | None = None
    draws: int = 0
    elapsed: float = 0.0
    warned: bool = False
    mirror: Mirror | None = None
    stopped_by: str | None = None
    _began: float = field(default_factory=time.monotonic)

    def go(self, callbacks: Sequence[Callback], show_progress: bool, every: float = 0.0) -> Draws:
        """Sample until all chains have all their draws, or somebody stops it.

        Args:
            callbacks: told of every completed transition.
            show_progress: whether to show a progress bar.
            every: seconds between checkpoints.
        """
        settings = self.settings
        bar = None
        if show_progress:
            total = len(self.progress.done) * (settings.warmup + self.draws)
            bar = ProgressBar(total, initial=int(self.progress.done.sum()))
        try:
            self.reflect(whole=True)
            with stop_requests() if self.folder else contextlib.nullcontext(StopRequest()) as request:
                interrupted = go_on(self.stepper((*callbacks, bar) if bar else callbacks, request, every))
                # An interrupt in the middle of an evaluation leaves nothing that could go on bit for bit.
                if self.folder and not self.progress.torn:
                    self.save(whole=True)
                self.stopped_by = request.signal
        except Exception as error:
            # Whatever stops a run, what it has sampled goes with the error: `error.draws`.
            error.draws = self.collect(interrupted=False)  # type: ignore[attr-defined]
            raise
        finally:
            if bar:
                bar.close()
        result = self.collect(interrupted)
        if not self.warned:
            warn_if_coarse(result.stats["lp"].numpy(), self.progress.starts.dtype)
        warn_about(result)
        return result

    def stepper(self, callbacks: Sequence[Callback], request: StopRequest, every: float) -> Stepper:
        """What takes the run on, evaluation by evaluation.

        Args:
            callbacks: told of every completed transition.
            request: looked at after every evaluation, if the run has a folder.
            every: seconds between checkpoints.
        """
        settings = self.settings
        return Stepper(
            self.kernel,
            self.progress,
            warmup=settings.warmup,
            draws=self.draws,
            thin=settings.thin,
            sink=self.recorder,
            warmup_sink=self.warmup_recorder,
            adaptation=self.adaptation if settings.warmup else None,
            callbacks=callbacks,
            check=drop_failed if settings.on_error == "drop" else None,
            watch=_Watch(self, request, every) if self.folder else None,
        )

    def add_draws(self, draws: int) -> None:
        """Ask a finished run for more draws, `draws` in all."""
        self.draws = draws
        self.progress.begin_again()

    def save(self, whole: bool = False) -> None:
        """Write a checkpoint; then bring the mirror to it.

        Args:
            whole: see `reflect`.
        """
        if self.folder is None:
            return
        arrays, record = take(self.progress, self.adaptation)
        for name, recorder in (("draws", self.recorder), ("warmup", self.warmup_recorder)):
            if isinstance(recorder, DrawFiles):
                recorder.flush()
                arrays |= {f"{name}.counts": recorder.counts, f"{name}.checksums": recorder.checksums}
        self.folder.save(arrays, {**record, "draws": self.draws, "elapsed": self._seconds()})
        self.reflect(whole)

    def reflect(self, whole: bool) -> None:
        """Bring the mirror of the draws, if there is one, to what their files have.

        Args:
            whole: whether draws go to it that don't fill a chunk.
        """
        if self.mirror is None:
            return
        dropped, total = self.progress.dropped, self.settings.warmup + self.draws
        missing = bool(self.progress.going_on(total).any())
        metadata = metadata_of(self.settings, self.kernel, self.draws, dropped, self.mode, __version__, missing)
        metadata["sampling_time"] = self._seconds()
        phases = {"": self.recorder, "warmup_": self.warmup_recorder}
        files = {prefix: found for prefix, found in phases.items() if isinstance(found, DrawFiles)}
        self.mirror.bring_to(files, dropped, metadata, whole)

    def restore(self, arrays: Arrays, record: dict[str, Any]) -> None:
        """Go back, or on, to a checkpoint.

        Raises:
            DamagedFileError: if the draws that it refers to aren't in the files as they were written.
            ValueError: if the checkpoint is none of this run.
        """
        try:
            self._restore(arrays, record)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a checkpoint must be one of this run; it lacks what that needs: {error!r}.") from error

    def _restore(self, arrays: Arrays, record: dict[str, Any]) -> None:
        for name, recorder in (("draws", self.recorder), ("warmup", self.warmup_recorder)):
            if isinstance(recorder, DrawFiles):
                recorder.go_back(arrays[f"{name}.counts"], arrays[f"{name}.checksums"])
        put_back(arrays, record, self.kernel, self.progress, self.adaptation)
        self.draws, self.elapsed = int(record["draws"]), float(record["elapsed"])

    def collect(self, interrupted: bool) -> Draws:
        """The draws so far."""
        settings, final = self.settings, self.progress.final
        dropped = self.progress.dropped
        metadata = metadata_of(settings, self.kernel, self.draws, dropped, self.mode, __version__, interrupted)
        metadata["sampling_time"] = self._seconds()
        if self.stopped_by is not None:
            metadata["stopped_by"] = self.stopped_by
        return draws_of(
            self.recorder,
            self.warmup_recorder,
            dropped,
            final.step_size,
            final.metric.host_inverse(),
            self.potential.spec,
            metadata,
        )

    def _seconds(self) -> float:
        return self.elapsed + time.monotonic() - self._began


class Kept(Protocol):
    """What holds the draws of a phase."""

    def complete(self, kept: Host | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Positions (C, S, D) and statistics (C, S) of as many draws as every chain has."""

    def ragged(self, kept: Host | None = None) -> tuple[Tensor, ...] | None:
        """Every draw of each chain, if they have not equally many."""


def draws_of(
    recorder: Kept,
    warmup_recorder: Kept | None,
    dropped: Collection[int],
    step_size: Host,
    inverse: Host,
    spec: ParamSpec | None,
    metadata: dict[str, Any],
) -> Draws:
    """Draws from what recorders hold.

    Args:
        recorder: of the draws.
        warmup_recorder: of the draws of warm-up.
        dropped: chains that are left out.
        step_size: (C,).
        inverse: inverse mass matrices, (C or 1, ...).
        spec: of the positions.
        metadata: how the run was made.
    """
    count = len(step_size)
    kept = remaining(count, dropped)
    step_size = step_size[kept]
    if len(inverse) == count:
        inverse = inverse[kept]
    which = kept if len(kept) < count else None
    positions, stats = recorder.complete(which)
    warmup = None if warmup_recorder is None else warmup_recorder.complete(which)
    chains, _, dimension = positions.shape
    shape = (chains, dimension) if inverse.ndim == 2 else (chains, dimension, dimension)
    return Draws(
        positions=positions,
        stats=stats,
        step_size=torch.from_numpy(step_size.copy()),
        inverse_metric=torch.from_numpy(np.broadcast_to(inverse, shape).copy()),
        warmup_positions=None if warmup is None else warmup[0],
        warmup_stats=None if warmup is None else warmup[1],
        spec=spec,
        metadata=metadata,
        ragged_positions=recorder.ragged(which),
    )


def metadata_of(
    settings: Settings,
    kernel: Kernel,
    draws: int,
    dropped: Mapping[int, str],
    mode: str,
    version: str,
    interrupted: bool,
) -> dict[str, Any]:
    """What draws say of how they were made.

    Args:
        settings: of the run.
        kernel: likewise.
        draws: transitions after warm-up that it was asked for.
        dropped: chains that were dropped; named by the numbers of their streams.
        mode: how the potential was evaluated.
        version: of the package that sampled.
        interrupted: whether draws are missing.
    """
    metadata = {
        "kernel": type(kernel).__name__,
        "seed": settings.seed,
        "chains": len(settings.chain_ids) - len(dropped),
        "warmup": settings.warmup,
        "draws": draws,
        "thin": settings.thin,
        "target_accept": settings.target_accept,
        "evaluation": mode,
        "version": version,
        "interrupted": int(interrupted),
    }
    numbers = sorted({*settings.never_begun, *(settings.chain_ids[chain] for chain in dropped)})
    return metadata | ({"dropped_chains": numbers} if numbers else {})


class _Watch:
    """Writes checkpoints when they are due, and grants requests to stop."""

    def __init__(self, run: Run, request: StopRequest, every: float) -> None:
        self.run, self.request, self.every = run, request, every
        self._due = time.monotonic() + every

    def __call__(self, progress: Progress) -> None:
        if self.request.signal is not None:
            raise StopSampling
        if time.monotonic() >= self._due:
            self.run.save()
            self._due = time.monotonic() + self.every
