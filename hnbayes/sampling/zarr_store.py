"""Zarr store: groups of arrays in a folder that grow along their draws, for readers that look at any time.

The format is version 2 of zarr's (https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html), which zarr 2 and 3 read,
with the names of dimensions as xarray keeps them. It is JSON and plain numbers, written here without zarr, whose own
way to append tells readers of new rows before these are there. Nothing of a store is ever read back but to compare it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hnbayes._files import remove_abandoned, written_in_one_step
from hnbayes.kernels.arrays import Host

if TYPE_CHECKING:
    import xarray as xr

GROUP = {"zarr_format": 2}
CONSOLIDATED = ".zmetadata"
# Of xarray: the names of an array's dimensions.
DIMENSIONS = "_ARRAY_DIMENSIONS"
DRAW = "draw"


class ZarrStore:
    """A folder that holds groups of arrays.

    Args:
        path: of the folder, made when it is first written to.
        rows: draws in a chunk.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows = path, rows

    def write_chunk(self, group: str, number: int, data: xr.Dataset) -> None:
        """Write one chunk of all arrays of a group that grow; a chunk that is the same already is left alone.

        Args:
            group: its name.
            number: of the chunk.
            data: the chunk's draws, at most as many as a chunk has.
        """
        for name, variable in data.variables.items():
            if DRAW in variable.dims:
                key = ".".join(str(number) if dim == DRAW else "0" for dim in variable.dims)
                self._write(group, f"{name}/{key}", _content(variable, self.rows))

    def set_sizes(self, groups: Mapping[str, tuple[xr.Dataset, int]]) -> None:
        """Say of which draws the store consists, when their chunks are there; a reader sees them from now on.

        Args:
            groups: name -> a dataset of any draws, whose names, dimensions, labels, types and attributes count, and
                the number of draws.
        """
        whole: dict[str, Any] = {".zgroup": GROUP, ".zattrs": {}}
        for group, (data, draws) in groups.items():
            entries: dict[str, Any] = {".zgroup": GROUP, ".zattrs": data.attrs}
            for name, variable in data.variables.items():
                entries[f"{name}/.zarray"] = _array(variable, draws, self.rows)
                entries[f"{name}/.zattrs"] = {DIMENSIONS: list(variable.dims)}
                if DRAW not in variable.dims:
                    self._write(group, f"{name}/" + ".".join("0" for _ in variable.dims), _content(variable))
            for name, entry in entries.items():
                self._write(group, name, _json(entry))
            # Once this one file is replaced, all arrays of the group have grown.
            self._write(group, CONSOLIDATED, _consolidated(entries))
            whole |= {f"{group}/{name}": entry for name, entry in entries.items()}
        for name in (".zgroup", ".zattrs"):
            self._write("", name, _json(whole[name]))
        self._write("", CONSOLIDATED, _consolidated(whole))

    def _write(self, group: str, name: str, content: bytes) -> None:
        """Write a file that is there whole or not at all."""
        path = self.path / group / name
        for folder in (self.path, self.path / group, path.parent):
            if folder.is_symlink():
                raise ValueError(f"{self.path} must be a folder of its own; {folder} is a link. Remove it.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size == len(content) and path.read_bytes() == content:
                return
        with written_in_one_step(path, durable=False) as file:
            file.write(content)

    def tidy(self) -> None:
        """Remove what writers that were killed have left half-written, an hour later."""
        for folder, _, _ in os.walk(self.path):
            remove_abandoned(folder, r"[0-9.]+|\.z[a-z]+")


def check_names(names: Mapping[Any, Any]) -> None:
    """Raise ValueError if a name can't be that of an array, which has a folder of its name."""
    for name in map(str, names):
        if not name or name[0] == "." or any(sign in name for sign in "/\\\0"):
            raise ValueError(
                f"storage='zarr' needs names of parameters that folders may have; received {name!r}. Rename it, or "
                "leave storage out."
            )


def _array(variable: xr.Variable, draws: int, rows: int) -> dict[str, Any]:
    """What the format says of an array."""
    sizes = dict(zip(variable.dims, variable.shape, strict=True))
    shape = [draws if dim == DRAW else size for dim, size in sizes.items()]
    chunks = [rows if dim == DRAW else max(size, 1) for dim, size in sizes.items()]
    return {
        "zarr_format": 2,
        "shape": shape,
        "chunks": chunks,
        "dtype": variable.dtype.newbyteorder("<").str,
        "compressor": None,  # the last digits of weights are noise
        "filters": None,
        "fill_value": None,  # any value would be taken for a missing one
        "order": "C",
    }


def _content(variable: xr.Variable, rows: int | None = None) -> bytes:
    """An array's numbers; a chunk that isn't full has zeros behind its draws."""
    values: Host = variable.values
    if rows is not None and (missing := rows - variable.sizes[DRAW]):
        values = np.pad(values, [(0, missing if dim == DRAW else 0) for dim in variable.dims])
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _consolidated(entries: Mapping[str, Any]) -> bytes:
    return _json({"zarr_consolidated_format": 1, "metadata": entries})


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
