"""Mirror: the draws of a run as a zarr store beside its files, chunk by chunk, while the run goes on.

The run's own files are what it is resumed from; the mirror is made of them, for xarray and ArviZ. It may be behind
them, or ahead of the checkpoint at which a run goes on: when a process first looks at it, all its chunks are compared
with the files, and written anew where they differ.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hnbayes.inference_data import sampled_groups
from hnbayes.kernels.arrays import Host
from hnbayes.kernels.kernel import Kernel
from hnbayes.params import ParamSpec
from hnbayes.sampling.arguments import MIRROR
from hnbayes.sampling.draws import Draws, remaining
from hnbayes.sampling.settings import Settings
from hnbayes.sampling.zarr_store import ZarrStore, check_names

if TYPE_CHECKING:
    import xarray as xr

# A chunk has at most so many draws, so many bytes, and this share of the draws that the run was asked for.
ROWS = 1000
BYTES = 2**23
SHARE = 10


class Stored(Protocol):
    """The draws of a phase in files; see `DrawFiles`."""

    @property
    def counts(self) -> Host:
        """Draws of each chain, (C,)."""

    def block(self, first: int, last: int, kept: Host) -> tuple[Tensor, dict[str, Tensor]]:
        """Some draws of some chains."""


class Mirror:
    """The draws of a run in a zarr store, in the groups, names and dimensions of `hnbayes.to_inference_data`.

    Args:
        folder: of the run.
        settings: of the run.
        kernel: likewise.
        spec: of the positions; None makes them one variable, `position`.
        chains: C.
        dimension: D.

    Raises:
        ValueError: if a parameter has a name that an array can't have.
    """

    def __init__(
        self, folder: Path, settings: Settings, kernel: Kernel, spec: ParamSpec | None, chains: int, dimension: int
    ) -> None:
        self.spec, self.chains = spec, chains
        self._position = np.zeros((1, dimension), settings.storage_dtype)
        self._stats = {name: np.zeros(1, kind) for name, kind in kernel.stats.items()}
        in_chunk = BYTES // max(chains * self._position.nbytes, 1)
        share = -(-(settings.draws // settings.thin) // SHARE)
        self.store = ZarrStore(folder / MIRROR, max(1, min(ROWS, in_chunk, share)))
        for data in self._blank(np.arange(chains), {}).values():
            check_names(data.variables)
        # Draws of each phase that the store has; none is known to be right before it was compared.
        self._written: dict[str, int] = {}
        self._kept: Host | None = None

    def bring_to(
        self, phases: Mapping[str, Stored], dropped: Collection[int], metadata: Mapping[str, Any], whole: bool
    ) -> None:
        """Write the draws that are in the files and not in the store; drop those that are not in the files.

        Args:
            phases: what the names of the groups begin with ("", "warmup_") -> the draws.
            dropped: chains that are left out. When it becomes more, all chunks are written anew.
            metadata: what the attributes say; see `hnbayes.sampling.engine.metadata_of`.
            whole: whether draws are written that don't fill a chunk, as at the end of a run.

        Raises:
            OSError: if the disk is full, or can't be written to; what the store had stays readable.
            DamagedFileError: if the files have been cut short.
        """
        try:
            self._bring_to(phases, remaining(self.chains, dropped), metadata, whole)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: draws can't be written to {self.store.path}. All before them can be read there, "
                "and all so far by hnbayes.read_draws; the run can be resumed once there is room",
                error.filename,
            ) from error

    def _bring_to(self, phases: Mapping[str, Stored], kept: Host, metadata: Mapping[str, Any], whole: bool) -> None:
        if self._kept is None:
            self.store.tidy()
        elif len(kept) < len(self._kept):
            # Chunks of fewer chains take the place of those that a reader may know: it must see none meanwhile.
            self._written = {}
            self._set_sizes(dict.fromkeys(phases, 0), kept, metadata)
        self._kept = kept
        sizes = {}
        for prefix, stored in phases.items():
            before, rows = self._written.get(prefix, 0), self.store.rows
            sizes[prefix] = available = int(stored.counts[kept].min())
            if not whole:
                sizes[prefix] = max(available // rows * rows, min(before, available))
            for first in range(before // rows * rows, sizes[prefix], rows):
                last = min(first + rows, sizes[prefix])
                positions, stats = stored.block(first, last, kept)
                for name, data in self._groups(positions, stats, metadata).items():
                    labelled = data.assign_coords(draw=np.arange(first, last))
                    self.store.write_chunk(prefix + name, first // rows, labelled)
        if whole or sizes != self._written:
            self._set_sizes(sizes, kept, metadata)
        self._written = sizes

    def _set_sizes(self, sizes: Mapping[str, int], kept: Host, metadata: Mapping[str, Any]) -> None:
        blank = self._blank(kept, metadata)
        self.store.set_sizes(
            {prefix + name: (data, size) for prefix, size in sizes.items() for name, data in blank.items()}
        )

    def _blank(self, kept: Host, metadata: Mapping[str, Any]) -> dict[str, xr.Dataset]:
        """Groups of one draw a chain, for what they say of all draws."""
        stats = {name: torch.from_numpy(np.stack([zero] * len(kept))) for name, zero in self._stats.items()}
        return self._groups(torch.from_numpy(np.stack([self._position] * len(kept))), stats, metadata)

    def _groups(
        self, positions: Tensor, stats: dict[str, Tensor], metadata: Mapping[str, Any]
    ) -> dict[str, xr.Dataset]:
        empty = torch.empty(0)  # step sizes and metrics, which aren't mirrored
        return sampled_groups(Draws(positions, stats, empty, empty, spec=self.spec, metadata=dict(metadata)))


def remove_mirror(folder: Path) -> None:
    """Remove what a run has left that was killed before its first checkpoint."""
    if (folder / MIRROR).exists():
        shutil.rmtree(folder / MIRROR)
