"""Files that others may have written: refused where reading them would run code or read other files."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

# Codecs of zarr that change numbers and text only. Not among them: pickle, which runs what it is told to.
CODECS = frozenset(
    {
        *("bytes", "transpose", "sharding_indexed", "crc32c", "blosc", "gzip", "zstd", "vlen-utf8", "vlen-bytes"),
        *("zlib", "lz4", "bz2", "lzma", "shuffle", "delta", "fixedscaleoffset", "bitround", "quantize", "astype"),
        *("packbits", "adler32", "fletcher32", "crc32"),
    }
)


class UntrustedFileError(ValueError):
    """A file asks for more than to be read."""


def refuse_unsafe(path: pathlib.Path) -> None:
    """Check a netCDF file or a zarr folder before it is opened.

    A file of neither kind passes: whoever opens it says what it is.

    Args:
        path: of the file or folder.

    Raises:
        UntrustedFileError: if it refers to other files, or names a codec that isn't known to be harmless.
    """
    if path.is_dir():
        _check_zarr(path)
    else:
        _check_hdf5(path)


def _check_hdf5(path: pathlib.Path) -> None:
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError:
        return
    with file:
        for name, value, link in _objects(file):
            elsewhere = isinstance(link, h5py.ExternalLink)
            if isinstance(value, h5py.Dataset):
                elsewhere = value.external is not None or value.is_virtual
            if elsewhere:
                raise UntrustedFileError(
                    f"{path} must hold all its data itself; its {name!r} refers to another file. Don't use it unless "
                    "you know who wrote it; then save it anew without links."
                )


def _objects(file: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, object and link of everything in an HDF5 file; links to other files aren't followed."""
    import h5py

    seen, left = set(), [file]
    while left:
        group = left.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                yield f"{group.name}/{name}", None, link
                continue
            value = group[name]
            yield value.name, value, link
            address = h5py.h5o.get_info(value.id).addr
            if isinstance(value, h5py.Group) and address not in seen:
                seen.add(address)
                left.append(value)


def _check_zarr(path: pathlib.Path) -> None:
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            found = pathlib.Path(folder, name)
            if found.is_symlink():
                raise UntrustedFileError(
                    f"{path} must hold all its data itself; {found} is a link. Copy what it names."
                )
            if name in (".zarray", ".zmetadata", "zarr.json") and (unknown := sorted(_codecs(found) - CODECS)):
                raise UntrustedFileError(
                    f"{path} must be compressed by known means only; {found} names {unknown[0]!r}, which may run code. "
                    "Don't use it unless you know who wrote it."
                )


def _codecs(path: pathlib.Path) -> set[str]:
    """The names of all codecs in a zarr folder's description of an array."""
    try:
        left: list[Any] = [json.loads(path.read_text())]
    except ValueError:
        return {"(unreadable)"}
    found = set()
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        if isinstance(value, dict):
            left += value.values()
            for key in ("compressor", "filters", "codecs", "index_codecs"):
                named = value.get(key) or []
                for codec in named if isinstance(named, list) else [named]:
                    name = codec.get("id", codec.get("name")) if isinstance(codec, dict) else codec
                    found.add(str(name).removeprefix("numcodecs."))
    return found
