"""Draws on the disk: appended while a run goes on, read as memory-mapped arrays at any time.

Row s of a phase's two files holds draw s of every chain, positions in one and statistics in the other. Chains are
desynchronised, so one may be some rows ahead of another; each place is written once. A record of the statistics begins
with a mark that its draw is there, which is written after the draw.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnbayes.kernels.arrays import Host
from hnbayes.sampling.array_file import DamagedFileError

MARK = "stored"
# Bytes of draws that a check of the files looks at at once.
BLOCK = 2**24


class DrawFiles:
    """One phase of a run on the disk, filled chain by chain; takes the place of a `Recorder`.

    Memory doesn't grow with the number of draws: what is kept is in the files, and in what the operating system caches
    of them.

    Args:
        folder: where the files are.
        phase: "draws" or "warmup": how the files' names begin.
        chains: C.
        dimension: D.
        dtype: of the positions in the file.
        stats: name -> NumPy dtype.
        writable: whether draws will be stored.
        members: the chains that are stored by this object, M of the C, where several processes share the files, each
            with chains of its own; None is all. What is stored, counted and checked are these, numbered from 0; what
            is read are all chains.

    Attributes:
        counts: draws of each chain, (M,).
        checksums: CRC-32 of each chain's positions and of its statistics so far, (2, M).
    """

    def __init__(
        self,
        folder: str,
        phase: str,
        chains: int,
        dimension: int,
        dtype: Any,
        stats: Mapping[str, Any],
        writable: bool = True,
        members: Sequence[int] | None = None,
    ) -> None:
        self.paths = tuple(os.path.join(folder, f"{phase}.{kind}") for kind in ("positions", "stats"))
        self.chains, self.dimension, self.stats = chains, dimension, tuple(stats)
        self.dtype = np.dtype(dtype)
        self.record = np.dtype([(MARK, np.bool_), *stats.items()], align=True)
        self.shared = members is not None
        self.members = np.arange(chains) if members is None else np.array(members, np.int64)
        self.counts = np.zeros(len(self.members), np.int64)
        self.checksums = np.zeros((2, len(self.members)), np.uint32)
        self._sizes = (self.dtype.itemsize * dimension, self.record.itemsize)
        # Unbuffered: what is stored can be read, and outlives the process, at once.
        self._files = tuple(_opened(path) for path in self.paths) if writable else ()

    def store(self, chains: Host, positions: Host, info: Mapping[str, Host]) -> None:
        """Keep a draw (R, D) of some chains and what was reported of it.

        Raises:
            OSError: if the disk is full, or can't be written to; all draws before this one stay readable.
        """
        records = np.zeros(len(chains), self.record)
        records[MARK] = True
        for name in self.stats:
            records[name] = info[name]
        parts = (np.ascontiguousarray(positions, self.dtype), records)
        slots = (self.counts[chains] * self.chains + self.members[chains]).tolist()
        for file, path, size, values in zip(self._files, self.paths, self._sizes, parts, strict=True):
            first = 0
            for last in range(1, len(slots) + 1):
                # Neighbours in the file go in one call.
                if last == len(slots) or slots[last] != slots[last - 1] + 1:
                    _write(file, path, slots[first] * size, values[first:last])
                    first = last
        for row, chain in enumerate(chains.tolist()):
            for kind, values in enumerate(parts):
                self.checksums[kind, chain] = zlib.crc32(values[row].tobytes(), int(self.checksums[kind, chain]))
        # Last, so that an interrupt leaves no half-written draw among those that count.
        self.counts[chains] += 1

    def flush(self) -> None:
        """Wait until the disk has all that was stored."""
        for file in self._files:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Store no more; what was returned stays readable."""
        for file in self._files:
            file.close()
        self._files = ()

    def count_stored(self) -> None:
        """Set the counts to what the files hold, as a reader of a run that goes on must."""
        records = self._mapped(1)
        rows = -(-len(records) // self.chains)
        marks = np.zeros(rows * self.chains, bool)
        marks[: len(records)] = records[MARK]
        missing = ~marks.reshape(rows, self.chains)
        first = np.where(missing.any(0), missing.argmax(0) if rows else 0, rows)
        self.counts = first.astype(np.int64)

    def go_back(self, counts: Host, checksums: Host) -> None:
        """Go back to an earlier moment; draws after it are dropped.

        Args:
            counts: draws of each chain at that moment, (C,).
            checksums: of these draws, (2, C).

        Raises:
            DamagedFileError: if these draws aren't in the files as they were written.
        """
        self.check(counts, checksums)
        # The files aren't cut: a reader may have mapped them. To take the marks away is enough.
        self._unmark(counts)
        self.counts, self.checksums = counts.copy(), checksums.copy()

    def _unmark(self, counts: Host) -> None:
        """Take away the marks of all draws after the first ones of each chain."""
        size = self._sizes[1]
        marks = self._mapped(1)[MARK]
        for chain, count in zip(self.members.tolist(), counts.tolist(), strict=True):
            of_chain = marks[count * self.chains + chain :: self.chains]
            for row in np.flatnonzero(of_chain).tolist():
                slot = (count + row) * self.chains + chain
                _write(self._files[1], self.paths[1], slot * size, np.zeros(1, self.record))

    def clear(self) -> None:
        """Begin anew, whatever is in the files."""
        if self.shared:
            self._unmark(np.zeros_like(self.counts))
        else:
            for file in self._files:
                file.truncate(0)
        self.counts[:] = 0
        self.checksums[:] = 0

    def check(self, counts: Host, checksums: Host) -> None:
        """Raise DamagedFileError unless the files hold these draws as they were written."""
        for path, size, expected in zip(self.paths, self._sizes, checksums, strict=True):
            last = np.where(counts > 0, (counts - 1) * self.chains + self.members + 1, 0).max()
            if os.path.getsize(path) < int(last) * size:
                raise DamagedFileError(f"{path} is damaged: it is shorter than it was.")
            found = _checksums(path, size, counts, self.chains, self.members)
            if (found != expected).any():
                chain = int(np.flatnonzero(found != expected)[0])
                raise DamagedFileError(
                    f"{path} is damaged: the {counts[chain]} draws of chain {self.members[chain]} don't have the "
                    "checksum they had."
                )

    def complete(self, kept: Host | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Positions (C, S, D) and statistics (C, S) of as many draws as every chain has, mapped from the files.

        Args:
            kept: numbers of the chains to look at, whose draws are then copied; None looks at all.
        """
        shortest = int(self.counts.min() if kept is None else self.counts[kept].min())
        positions, records = self._mapped(0), self._mapped(1)
        if kept is None:
            positions = positions[: shortest * self.chains * self.dimension]
            if positions.size < shortest * self.chains * self.dimension:
                raise DamagedFileError(f"{self.paths[0]} is damaged: it ends before draw {shortest}.")
            positions = positions.reshape(shortest, self.chains, self.dimension).transpose(1, 0, 2)
            records = records[: shortest * self.chains].reshape(shortest, self.chains).T
        else:
            positions = np.stack([self._of_chain(positions, c, shortest, self.dimension) for c in kept.tolist()])
            records = np.stack([self._of_chain(records, c, shortest, 1)[:, 0] for c in kept.tolist()])
        return torch.from_numpy(positions), {name: torch.from_numpy(records[name]) for name in self.stats}

    def block(self, first: int, last: int, kept: Host) -> tuple[Tensor, dict[str, Tensor]]:
        """Some draws of some chains, which must have them: positions (K, last - first, D) and statistics, copied."""
        positions, records = self._mapped(0), self._mapped(1)
        if len(positions) < last * self.chains * self.dimension or len(records) < last * self.chains:
            raise DamagedFileError(f"{self.paths[0]} or {self.paths[1]} is damaged: it ends before draw {last}.")
        width = self.chains * self.dimension
        rows = positions[first * width : last * width].reshape(-1, self.chains, self.dimension)
        told = records[first * self.chains : last * self.chains].reshape(-1, self.chains)
        stats = {name: torch.from_numpy(told[name][:, kept].T.copy()) for name in self.stats}
        return torch.from_numpy(rows[:, kept].transpose(1, 0, 2).copy()), stats

    def ragged(self, kept: Host | None = None) -> tuple[Tensor, ...] | None:
        """Every draw of each chain, if they have not equally many."""
        chains = range(self.chains) if kept is None else kept.tolist()
        counts = [int(self.counts[chain]) for chain in chains]
        if len(set(counts)) == 1:
            return None
        values = self._mapped(0)
        return tuple(
            torch.from_numpy(self._of_chain(values, chain, count, self.dimension))
            for chain, count in zip(chains, counts, strict=True)
        )

    def _of_chain(self, values: Host, chain: int, count: int, width: int) -> Host:
        """A chain's draws (count, width) among the numbers or records of a file."""
        strides = (self.chains * width * values.itemsize, values.itemsize)
        if not count:
            return np.empty((0, width), values.dtype)
        if ((count - 1) * self.chains + chain + 1) * width > values.size:
            raise DamagedFileError(f"{self.paths[0]} is damaged: it ends before draw {count} of chain {chain}.")
        return np.lib.stride_tricks.as_strided(values[chain * width :], (count, width), strides)

    def _mapped(self, kind: int) -> Host:
        """All whole numbers, or records, of a file; to change them changes a copy in memory."""
        dtype = (self.dtype, self.record)[kind]
        path = self.paths[kind]
        # A run that has just begun may have no files yet.
        count = os.path.getsize(path) // dtype.itemsize if os.path.exists(path) else 0
        if count == 0:
            return np.empty(0, dtype)
        return np.asarray(np.memmap(path, dtype, "c", shape=(count,)))


def _opened(path: str) -> Any:
    return open(path, "r+b" if os.path.exists(path) else "x+b", buffering=0)


def _checksums(path: str, size: int, counts: Host, chains: int, members: Host) -> Host:
    """CRC-32 of the first draws in a file of each member, (M,), read block by block."""
    found = [0] * len(counts)
    rows = max(1, BLOCK // (size * chains))
    with open(path, "rb") as file:
        for begin in range(0, int(counts.max()), rows):
            content = file.read(rows * chains * size)
            # The last row may be there for some of the chains only.
            content += bytes(-len(content) % (size * chains))
            block = np.frombuffer(content, np.uint8).reshape(-1, chains, size)
            for place, (chain, count) in enumerate(zip(members.tolist(), counts.tolist(), strict=True)):
                found[place] = zlib.crc32(block[: max(count - begin, 0), chain].tobytes(), found[place])
    return np.array(found, np.uint32)


def _write(file: Any, path: str, offset: int, values: Host) -> None:
    content = memoryview(values.tobytes())
    try:
        file.seek(offset)
        while content:
            content = content[file.write(content) :]
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}: a draw can't be written. All before it can be read, and the run can be resumed once "
            "there is room",
            path,
        ) from error
