"""Lots: what a run that is spread over processes is divided in.

A lot is some of the run's chains: one for up to three chains, two for up to 32, then as many as make 16 lots. It is
evaluated in a batch of its own, by one thread, and has checkpoints of its own. How chains are divided follows from
their number alone, so that a chain's draws are the same, bit for bit, whatever the number of processes that share the
lots among them, before and after a stop. The draws of all lots go to the same files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnbayes._version import __version__
from hnbayes.kernels.arrays import Host, vectors_like
from hnbayes.kernels.kernel import Kernel
from hnbayes.kernels.metrics import DenseMetric, DiagonalMetric, Metric
from hnbayes.params import ParamSpec
from hnbayes.potentials.base import CompileMode
from hnbayes.sampling.array_file import read_arrays, write_arrays
from hnbayes.sampling.draw_files import DrawFiles
from hnbayes.sampling.draws import Draws
from hnbayes.sampling.engine import draws_of, metadata_of
from hnbayes.sampling.mirror import remove_mirror
from hnbayes.sampling.run_folder import LOTS, Arrays, RunFolder, Share, numbers_of_checkpoints, read_start
from hnbayes.sampling.settings import (
    FORMAT,
    Settings,
    kernel_from_record,
    kernel_to_record,
    spec_from_record,
    spec_to_record,
)
from hnbayes.sampling.snapshot import adapted

# More are of no use to the machines that this is for, and each costs an evaluation of its own.
MOST_LOTS = 16
PAIRS_FROM = 4
LOT = "lot-{:02d}"
Lot = tuple[int, ...]


def divide(chains: int) -> tuple[Lot, ...]:
    """The lots of a run of so many chains: neighbours, equally many in each but the last."""
    # Two chains in a batch cost little more than one; fewer lots would leave cores without work.
    size = 1 if chains < PAIRS_FROM else max(2, -(-chains // MOST_LOTS))
    return tuple(tuple(range(first, min(first + size, chains))) for first in range(0, chains, size))


@dataclass(frozen=True)
class Plan:
    """What the lots of a run begin from.

    Attributes:
        positions: where all chains start, (C, D).
        metric: where their metrics start, (C or 1, ...).
        structure: see `Adaptation`.
        step_size: where step sizes start; None searches.
        settings: the options.
        kernel: the kernel.
        compile: see `Potential`.
        spec: of the positions.
        cores: how many processes it was begun with.
        shared: whether the draws of all lots go to the same files, as on one machine, or each lot's to its own folder.
    """

    positions: Tensor
    metric: Host
    structure: Host | None
    step_size: float | None
    settings: Settings
    kernel: Kernel
    compile: CompileMode
    spec: ParamSpec | None
    cores: int
    shared: bool = True

    @property
    def lots(self) -> tuple[Lot, ...]:
        """The chains of each lot."""
        return divide(len(self.positions))

    def share(self, folder: Path, number: int) -> Share | None:
        """The part of the run that a lot is; None if it is kept as a run of its own."""
        if not self.shared:
            return None
        return Share(folder, len(self.positions), self.lots[number])

    def settings_of(self, lot: Lot) -> Settings:
        """The options of a lot."""
        ids = tuple(self.settings.chain_ids[chain] for chain in lot)
        return dataclasses.replace(self.settings, chain_ids=ids, never_begun=(), storage=None)

    def metric_of(self, lot: Lot) -> Metric:
        """Where the metrics of a lot start."""
        kind = DiagonalMetric if self.metric.ndim == 2 else DenseMetric
        rows = self.metric if len(self.metric) < len(self.positions) else self.metric[list(lot)]
        return kind(vectors_like(self.positions), rows.copy())

    def files(self, folder: Path, phase: str, lot: Lot | None = None) -> DrawFiles:
        """What reads the draws of all chains, or of those of a lot that has files of its own."""
        chains, dimension = self.positions.shape
        dtype, stats = self.settings.storage_dtype, self.kernel.stats
        chains = chains if lot is None else len(lot)
        return DrawFiles(str(folder), phase, chains, dimension, dtype, stats, writable=False)

    def none_left(self, draws: Draws) -> bool:
        """Whether all chains were dropped."""
        return len(draws.metadata.get("dropped_chains", ())) == len(self.settings.chain_ids)

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases whose draws are kept."""
        return ("draws", "warmup") if self.settings.save_warmup else ("draws",)

    def write(self, folder: Path) -> None:
        """Write the plan, and empty files for the draws, to the folder of a run that is about to begin."""
        remove_mirror(folder)
        for phase in self.phases if self.shared else ():
            for path in self.files(folder, phase).paths:
                Path(path).write_bytes(b"")
        arrays: Arrays = {"positions": self.positions.detach().numpy(), "metric": self.metric}
        record = {
            "format": FORMAT,
            "version": __version__,
            "settings": self.settings.to_record(),
            "kernel": kernel_to_record(self.kernel),
            "compile": self.compile,
            "step_size": self.step_size,
            "spec": spec_to_record(self.spec),
            "cores": self.cores,
            "shared": self.shared,
        }
        write_arrays(folder / LOTS, arrays | ({} if self.structure is None else {"structure": self.structure}), record)

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan of the run in a folder.

        Raises:
            ValueError: if it is damaged, or of a newer version.
        """
        arrays, record = read_arrays(folder / LOTS)
        if record["format"] > FORMAT:
            raise ValueError(f"{folder} was written by a newer hnbayes. Update it.")
        return cls(
            positions=torch.from_numpy(arrays["positions"]),
            metric=arrays["metric"],
            structure=arrays.get("structure"),
            step_size=record["step_size"],
            settings=Settings.from_record(record["settings"]),
            kernel=kernel_from_record(record["kernel"]),
            compile=record["compile"],
            spec=spec_from_record(record["spec"]),
            cores=int(record["cores"]),
            shared=bool(record["shared"]),
        )


class _Joined:
    """The draws of lots that have files of their own, as if they had the same."""

    def __init__(self, files: Sequence[DrawFiles]) -> None:
        self.files = files
        self.counts = np.concatenate([file.counts for file in files])

    def count_stored(self) -> None:
        """See `DrawFiles`."""
        for file in self.files:
            file.count_stored()
        self.counts = np.concatenate([file.counts for file in self.files])

    def complete(self, kept: Host | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """See `DrawFiles`; the draws are copied."""
        rows = (np.arange(len(self.counts)) if kept is None else kept).tolist()
        shortest = int(self.counts[rows].min())
        parts = [file.complete(np.array([chain])) for file in self.files for chain in range(file.chains)]
        positions = torch.cat([parts[row][0][:, :shortest] for row in rows])
        names = self.files[0].stats
        return positions, {name: torch.cat([parts[row][1][name][:, :shortest] for row in rows]) for name in names}

    def block(self, first: int, last: int, kept: Host) -> tuple[Tensor, dict[str, Tensor]]:
        """See `DrawFiles`."""
        ends = np.cumsum([file.chains for file in self.files])
        parts = []
        for file, end in zip(self.files, ends.tolist(), strict=True):
            own = kept[(kept >= end - file.chains) & (kept < end)] - (end - file.chains)
            if len(own):
                parts.append(file.block(first, last, own))
        stats = {name: torch.cat([part[1][name] for part in parts]) for name in self.files[0].stats}
        return torch.cat([part[0] for part in parts]), stats

    def ragged(self, kept: Host | None = None) -> tuple[Tensor, ...] | None:
        """See `DrawFiles`."""
        rows = range(len(self.counts)) if kept is None else kept.tolist()
        if len({int(self.counts[row]) for row in rows}) == 1:
            return None
        alone = [file.complete(np.array([chain]))[0][0] for file in self.files for chain in range(file.chains)]
        return tuple(alone[row] for row in rows)


def files_of(folder: Path, plan: Plan, phase: str) -> DrawFiles | _Joined:
    """What reads the draws of all chains, which have yet to be counted."""
    if plan.shared:
        return plan.files(folder, phase)
    return _Joined([plan.files(folder / LOT.format(number), phase, lot) for number, lot in enumerate(plan.lots)])


def done_so_far(folder: Path, plan: Plan, numbers: Iterable[int] | None = None) -> int:
    """Transitions of the chains of some lots, or of all, as the newest checkpoints have them."""
    done = 0
    for number in range(len(plan.lots)) if numbers is None else numbers:
        path = folder / LOT.format(number)
        if numbers_of_checkpoints(path):
            done += int(RunFolder(path, "read").newest(lambda arrays, record: arrays["done"]).sum())
    return done


@dataclass
class Reached:
    """How far the lots of a run have come, as their newest checkpoints have it.

    Attributes:
        step_size: of each chain, (C,).
        inverse: their inverse mass matrices, (C, ...).
        dropped: chains that are left out, and why.
        metadata: what draws say of how they were made.
        counts: of each phase, the draws of each chain, (C,).
    """

    step_size: Host
    inverse: Host
    dropped: dict[int, str]
    metadata: dict[str, Any]
    counts: dict[str, Host]


def reached(folder: Path, plan: Plan, lost: Lot = ()) -> Reached:
    """How far a run has come; whether lots go on doesn't matter.

    Args:
        folder: of the run.
        plan: of the run.
        lost: chains that are to be left out as if they had been dropped.
    """
    chains = len(plan.positions)
    step_size = np.full(chains, np.nan)
    shape = (chains, *plan.metric.shape[1:])
    inverse = np.broadcast_to(plan.metric, shape).astype(np.float64)
    dropped = dict.fromkeys(lost, "its process ended")
    counts = {phase: np.zeros(chains, np.int64) for phase in plan.phases}
    draws, mode, seconds, missing = plan.settings.draws, "", 0.0, False
    for number, lot in enumerate(plan.lots):
        path = folder / LOT.format(number)
        if not numbers_of_checkpoints(path):
            missing = True
            continue
        arrays, record = RunFolder(path, "read").newest(lambda arrays, record: (arrays, record))
        rows = list(lot)
        sizes, metrics = adapted(arrays)
        step_size[rows] = sizes
        if metrics.shape[1:] != shape[1:]:  # a scalar metric that adaptation has made a diagonal
            shape = (chains, *metrics.shape[1:])
            inverse = np.broadcast_to(inverse, shape).copy()
        inverse[rows] = metrics
        for phase, found in counts.items():
            found[rows] = arrays[f"{phase}.counts"]
        dropped |= {lot[int(chain)]: str(reason) for chain, reason in record["dropped"]}
        draws, seconds = max(draws, int(record["draws"])), max(seconds, float(record["elapsed"]))
        going_on = np.ones(len(lot), bool)
        going_on[[int(chain) for chain, _ in record["dropped"]]] = False
        missing |= bool((arrays["done"] < plan.settings.warmup + int(record["draws"]))[going_on].any())
        mode = mode or str(read_start(path)[1]["mode"])
    metadata = metadata_of(plan.settings, plan.kernel, draws, dropped, mode, __version__, missing)
    metadata |= {"sampling_time": seconds, "lots": len(plan.lots)}
    return Reached(step_size, inverse, dropped, metadata, counts)


def gather(folder: Path, plan: Plan, lost: Lot = ()) -> Draws:
    """The draws of all lots so far, mapped from the files; for the arguments see `reached`."""
    files = {phase: files_of(folder, plan, phase) for phase in plan.phases}
    for file in files.values():
        file.count_stored()
    so_far = reached(folder, plan, lost)
    return draws_of(
        files["draws"],
        files.get("warmup"),
        so_far.dropped,
        so_far.step_size,
        so_far.inverse,
        plan.spec,
        so_far.metadata,
    )
