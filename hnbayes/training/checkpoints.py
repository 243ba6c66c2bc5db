"""Checkpoints of networks in training: save the newest, keep the best, load one."""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_count, check_positive, describe
from hnbayes._files import remove_abandoned, written_in_one_step
from hnbayes.training.checkpoint_files import (
    RECORD,
    Record,
    list_name,
    load_content,
    names_of_series,
    numbered_files,
    read_record,
)

PathLike = str | os.PathLike[str]


def save_checkpoint(
    ckpt_dict: Mapping[str, Any],
    file_path: PathLike,
    performance_score: float,
    train_iter: int | None = None,
    max_ckpts_to_keep: int = 5,
    keep_cktp_every: float | None = 2,
    timestamp: float | None = None,
) -> None:
    """Save a checkpoint as `<file_path>_<train_iter>`, then delete those that are no longer to be kept.

    Kept are this one, the `max_ckpts_to_keep - 1` others with the highest scores, and the best of every
    `keep_cktp_every` hours since the first checkpoint, for ever; the best so far of the hours that are not over is kept
    too, even as one more than `max_ckpts_to_keep`. The file is written under another name, flushed to the
    disk and renamed, and nothing is deleted before that: a process that is killed at any moment leaves what was saved
    before. Several processes may save to one `file_path`.

    Args:
        ckpt_dict: what to save, by name: `"state_dict"`, the network's, and anything else; best the iteration. It is
            not changed. Text, numbers, tensors, NumPy arrays and numbers, `argparse.Namespace` and containers of them
            can be loaded safely; other objects only as trusted.
        file_path: folder and name of the series; the folder is made if missing. The same for all checkpoints of a run.
        performance_score: the higher, the better.
        train_iter: the iteration. None saves as `<file_path>`, over what was there, and deletes nothing.
        max_ckpts_to_keep: at least 1.
        keep_cktp_every: hours; None keeps none for ever.
        timestamp: seconds since 1970; None takes the present.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if there is no `"state_dict"`, the score is NaN, or a number is out of range.

    Example:
        >>> import os
        >>> from hnbayes.utils.torch_ckpts import save_checkpoint
        >>> for step, score in [(1, 0.9), (2, 0.5), (3, 0.7)]:
        ...     state = {"state_dict": torch.nn.Linear(1, 1).state_dict()}
        ...     save_checkpoint(state, "ckpts/net", score, train_iter=step, max_ckpts_to_keep=2, keep_cktp_every=None)
        >>> sorted(os.listdir("ckpts"))
        ['net_1', 'net_3']
    """
    path, folder, name = _series(file_path)
    if not isinstance(ckpt_dict, Mapping):
        raise TypeError(f"ckpt_dict must be a dict; received {describe(ckpt_dict)}.")
    if "state_dict" not in ckpt_dict:
        raise ValueError(f"ckpt_dict must have an entry 'state_dict'; received {', '.join(map(str, ckpt_dict))}.")
    score = _score(performance_score)
    limit = check_count("max_ckpts_to_keep", max_ckpts_to_keep)
    if keep_cktp_every is not None:
        keep_cktp_every = check_positive("keep_cktp_every", keep_cktp_every)
    now = time.time() if timestamp is None else check_positive("timestamp", timestamp)
    if train_iter is not None:
        path = f"{path}_{check_count('train_iter', train_iter, 0)}"

    os.makedirs(folder, exist_ok=True)
    others = [record for record in _records(folder, name) if record.path != path]
    record = Record(
        path,
        score,
        now,
        start=min([now, *(other.start for other in others)]),
        window=None if keep_cktp_every is None else 3600 * keep_cktp_every,
    )
    with written_in_one_step(path) as file:
        torch.save({**ckpt_dict, RECORD: record.content()}, file)

    if train_iter is not None:
        kept = {record.path} | _permanent([*others, record]) | {os.path.join(folder, name)}
        rest = sorted((other for other in others if other.path not in kept), key=_rank, reverse=True)
        # The best so far of a window that is not over may become permanent, so it can't go yet.
        candidates = _best_of_windows([*others, record], over=False)
        for outdated in (other for other in rest[limit - 1 :] if other.path not in candidates):
            with contextlib.suppress(FileNotFoundError):
                os.remove(outdated.path)
    remove_abandoned(folder, names_of_series(name))
    if os.path.exists(_list_path(folder, name)):
        make_ckpt_list(file_path)


def load_checkpoint(
    ckpt_path: PathLike,
    net: nn.Module,
    device: torch.device | str | int | None = None,
    ret_performance_score: bool = False,
    *,
    trusted: bool = False,
) -> Any:
    """Load a checkpoint and put its `"state_dict"` into a network.

    Args:
        ckpt_path: the file, such as `get_best_ckpt_path` names it.
        net: the network; its parameters stay on their devices.
        device: where the checkpoint's tensors are loaded to; None for the CPU.
        ret_performance_score: also return the score it was saved with.
        trusted: load objects of any kind. They can run any code, so only for files whose origin you know.

    Returns:
        The saved dict; where asked for, the score as well (None where the file has none).

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if the network is no module, or the device of a wrong kind.
        ValueError: if the file is no checkpoint, holds objects that need `trusted=True`, or doesn't fit the network, or
            there is no such device.

    Example:
        >>> from hnbayes.utils.torch_ckpts import load_checkpoint, save_checkpoint
        >>> net, fresh = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        >>> save_checkpoint({"state_dict": net.state_dict(), "step": 10}, "ckpts/net", 0.9, train_iter=10)
        >>> load_checkpoint("ckpts/net_10", fresh)["step"]
        10
        >>> torch.equal(net.weight, fresh.weight)
        True
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module; received {describe(net)}.")
    path = os.fspath(ckpt_path)
    content = load_content(path, _device(device), trusted)
    record = content.pop(RECORD, {})
    if "state_dict" not in content:
        raise ValueError(f"{path} must have an entry 'state_dict'; it has {', '.join(map(str, content))}.")
    try:
        net.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"the checkpoint {path} doesn't fit the network: {error}") from error
    return (content, record.get("score")) if ret_performance_score else content


def make_ckpt_list(file_path: PathLike) -> str:
    """Write a list of all checkpoints of a series and their scores, best first, for people to read.

    Args:
        file_path: as given to `save_checkpoint`. The list is `score_list_<name>.txt` in its folder; once there, it is
            renewed by each `save_checkpoint`.

    Returns:
        The list's path.

    Raises:
        FileNotFoundError: if there are no checkpoints.

    Example:
        >>> from hnbayes.utils.torch_ckpts import make_ckpt_list, save_checkpoint
        >>> save_checkpoint({"state_dict": torch.nn.Linear(1, 1).state_dict()}, "ckpts/net", 0.9, train_iter=1)
        >>> import os
        >>> os.path.basename(make_ckpt_list("ckpts/net"))
        'score_list_net.txt'
    """
    _, folder, name = _series(file_path)
    path = _list_path(folder, name)
    while True:
        records = _existing(file_path)
        with written_in_one_step(path) as file:
            for record in records:
                file.write(f"{record.score!r}\t{os.path.basename(record.path)}\n".encode())
        # Another process may have saved meanwhile: whoever writes last looks once more.
        if _existing(file_path) == records:
            return path


def get_best_ckpt_path(file_path: PathLike) -> str:
    """The checkpoint with the highest score among those on the disk; of several, the newest.

    Args:
        file_path: as given to `save_checkpoint`.

    Returns:
        Its path, for `load_checkpoint`.

    Raises:
        FileNotFoundError: if there are no checkpoints.

    Example:
        >>> from hnbayes.utils.torch_ckpts import get_best_ckpt_path, save_checkpoint
        >>> for step, score in [(1, 0.5), (2, 0.9), (3, 0.7)]:
        ...     save_checkpoint({"state_dict": torch.nn.Linear(1, 1).state_dict()}, "ckpts/net", score, train_iter=step)
        >>> get_best_ckpt_path("ckpts/net")[-5:]
        'net_2'
    """
    return _existing(file_path)[0].path


def _existing(file_path: PathLike) -> list[Record]:
    """Records of a series, best first, at least one."""
    path, folder, name = _series(file_path)
    records = sorted(_records(folder, name), key=_rank, reverse=True) if os.path.isdir(folder) else []
    if not records:
        raise FileNotFoundError(f"there are no checkpoints {path}_<iteration>. save_checkpoint makes them.")
    return records


def _records(folder: str, name: str) -> list[Record]:
    return [record for path in numbered_files(folder, name) if (record := read_record(path)) is not None]


def _permanent(records: Sequence[Record]) -> set[str]:
    """Paths of those kept for ever: the best of each window that is over.

    This is a function of what is on the disk, so nothing has to be marked: the best of a window isn't deleted, and
    stays the best of what is left of it.
    """
    return _best_of_windows(records, over=True) | {record.path for record in records if record.permanent}


def _best_of_windows(records: Sequence[Record], over: bool) -> set[str]:
    """Paths of the best of each window that is over, or of those that are not."""
    newest = max(record.timestamp for record in records)
    start = min(record.start for record in records)
    windows = defaultdict(list)
    for record in records:
        if record.window is not None:
            at = math.floor((record.timestamp - start) / record.window)
            if (newest >= start + (at + 1) * record.window) == over:
                windows[record.window, at].append(record)
    return {max(group, key=_rank).path for group in windows.values()}


def _rank(record: Record) -> tuple[float, float, str]:
    return record.score, record.timestamp, record.path


def _series(file_path: PathLike) -> tuple[str, str, str]:
    """A series' path, folder and name."""
    path = os.fspath(file_path)
    if not isinstance(path, str):
        raise TypeError(f"file_path must be text or a path; received {describe(file_path)}.")
    folder, name = os.path.split(path)
    if not name:
        raise ValueError(f"file_path must end in a name for the checkpoints; received {describe(path)}.")
    folder = folder or os.curdir
    return os.path.join(folder, name), folder, name


def _device(device: torch.device | str | int | None) -> torch.device:
    """A device that tensors can be put on."""
    try:
        found = torch.device("cpu" if device is None else device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device must be one that torch has here; received {describe(device)}. None loads to the CPU."
        ) from error
    return found


def _list_path(folder: str, name: str) -> str:
    return os.path.join(folder, list_name(name))


def _score(value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"performance_score must be a number; received {describe(value)}.")
    if math.isnan(value):
        raise ValueError("performance_score must not be NaN: it could not be compared with others.")
    return float(value)
