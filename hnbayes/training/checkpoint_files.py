"""One checkpoint as a file: written in one step, described without being unpickled, loaded safely."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import os
import pathlib
import pickle
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hnbayes._checks import describe

# The entry of a checkpoint that holds what this package writes about it.
RECORD = "_ckpt_internal"


@dataclass(frozen=True)
class Record:
    """What a checkpoint file says of itself.

    Attributes:
        path: the file.
        score: the performance it was saved with.
        timestamp: when it was saved, in seconds.
        start: the timestamp of the first checkpoint of its series.
        window: seconds of the windows whose best checkpoint is kept for ever; None where none is.
        permanent: whether an earlier implementation marked it as kept for ever.
    """

    path: str
    score: float
    timestamp: float
    start: float
    window: float | None = None
    permanent: bool = False

    def content(self) -> dict[str, Any]:
        """What goes into the file."""
        return {
            "permanent": self.permanent,
            "score": self.score,
            "ts": self.timestamp,
            "start": self.start,
            "window": self.window,
        }


def names_of_series(name: str) -> str:
    """A regular expression of the names of all files of a series of checkpoints."""
    return rf"{re.escape(name)}(_\d+)?|{re.escape(list_name(name))}"


def list_name(name: str) -> str:
    """The file that lists a series of checkpoints."""
    return f"score_list_{name}.txt"


def read_record(path: str) -> Record | None:
    """What a file says of itself, or None where it is no checkpoint. Nothing in it is executed, no tensor is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            with archive.open(names[0]) as file:
                content = _InertUnpickler(file).load()
        record = content[RECORD]
        timestamp = float(record["ts"])
        window = record.get("window")
        return Record(
            path,
            float(record["score"]),
            timestamp,
            float(record.get("start", timestamp)),
            None if window is None else float(window),
            bool(record.get("permanent", False)),
        )
    except Exception:
        # Whatever goes wrong: a file of another kind, or a damaged one.
        return None


def load_content(path: str, device: torch.device, trusted: bool) -> dict[str, Any]:
    """A checkpoint's content, with its tensors on `device`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint, or holds objects that may not be loaded unless it is trusted.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no checkpoint {path}. get_best_ckpt_path names the best one there is.")
    try:
        if trusted:
            content = torch.load(path, map_location=device, weights_only=False)
        else:
            with safe_types():
                content = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        if trusted:
            raise ValueError(f"{path} is not a checkpoint, or a damaged one: {error}") from error
        raise ValueError(
            f"{path} holds objects that could run code when loaded, so it was not loaded. If you know who wrote it, "
            f"pass trusted=True. {_reason(error)}"
        ) from error
    except (RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{path} is not a checkpoint, or a damaged one: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a checkpoint: it must hold a dict; received {describe(content)}.")
    return content


@contextlib.contextmanager
def safe_types() -> Iterator[None]:
    """Lets NumPy arrays and numbers, paths, and `argparse.Namespace` through torch's safe loading."""
    serialization = torch.serialization
    if hasattr(serialization, "safe_globals"):
        with serialization.safe_globals(_safe_types()):
            yield
    else:  # torch 2.4 has a process-wide list only
        serialization.add_safe_globals(_safe_types())
        yield


def _safe_types() -> list[Any]:
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdFDgGUSOmMV"}
    plain = [argparse.Namespace, type(pathlib.Path()), set, frozenset, slice, range, complex, bytes, bytearray]
    found = [reconstruct, scalar, np.ndarray, np.dtype, *dtypes, codecs.encode, *plain]
    if not _takes_names():
        return found
    # NumPy 1 and 2 keep these functions in modules of different names.
    named = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for function, name in ((reconstruct, "_reconstruct"), (scalar, "scalar"))
    ]
    return [*found, *named]


def _takes_names() -> bool:
    major, minor = torch.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (2, 6)


class _Inert(dict[Any, Any]):
    """Takes the place of every object of a pickle but plain data, and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    add = append


class _InertUnpickler(pickle.Unpickler):
    """Reads the plain data of a pickle: no class or function that it names is imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        return None


def _reason(error: Exception) -> str:
    """The line of torch's long message that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if "Unsupported" in line or "unsupported" in line]
    return lines[0] if lines else str(error)


def numbered_files(folder: str, name: str) -> list[str]:
    """Files `<name>_<number>` of a folder, and `<name>` itself where it is a file."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file()]
    prefix = f"{name}_"
    chosen = (n for n in names if n == name or (n.startswith(prefix) and n[len(prefix) :].isdecimal()))
    return [os.path.join(folder, n) for n in sorted(chosen)]
