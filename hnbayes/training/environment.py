"""setup_environment: output folder, logger, seeds, device and TensorBoard writer of a training script."""

from __future__ import annotations

import json
import logging
import os
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hnbayes._checks import check_count, describe
from hnbayes.mnets.registry import Config
from hnbayes.training.loggers import config_logger

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_FILE = "logfile.txt"
# The options that the run was started with.
OPTIONS_FILE = "config.json"
# Folder of what TensorBoard shows.
SUMMARY = "summary"


def setup_environment(
    config: Any, logger_name: str = "hnet_sim_logger"
) -> tuple[torch.device, SummaryWriter, logging.Logger]:
    """Prepare a run, from options as `miscellaneous_args` adds them.

    - The output folder `config.out_dir` is made. One that exists is kept as it is, and a fresh one is made beside it,
      `<out_dir>_1` and so on: `config.out_dir` is set to the folder that was made.
    - The folder gets `logfile.txt`, which the logger writes to, `config.json` with the options, and `summary` with what
      goes to TensorBoard.
    - Python's, NumPy's and torch's generators are seeded with `config.random_seed`.
    - With `config.deterministic_run`, torch computes on deterministic ways where it has them, and warns elsewhere.
    - The device is a GPU where there is one, unless `config.no_cuda` is set, or `config.use_cuda` is there but not set.

    Args:
        config: the parsed command line. Options that aren't there have their defaults, except `out_dir`.
        logger_name: what the logger's name begins with; the present time follows.

    Returns:
        Device, TensorBoard writer, logger. The writer is to be closed at the end.

    Raises:
        ImportError: if TensorBoard isn't installed.
        TypeError: if the seed is no integer, or `out_dir` no path.
        ValueError: if there is no option `out_dir`, or the seed is negative.

    Example:
        >>> import argparse
        >>> from hnbayes.utils.sim_utils import setup_environment
        >>> config = argparse.Namespace(out_dir="run", random_seed=0, no_cuda=True, loglevel_info=True)
        >>> device, writer, logger = setup_environment(config)
        >>> writer.close()
        >>> device
        device(type='cpu')
    """
    options = Config(config)
    out_dir = options.require("out_dir")
    if not isinstance(out_dir, (str, os.PathLike)) or not os.fspath(out_dir):
        raise TypeError(f"config.out_dir must be the path of a folder; received {describe(out_dir)}.")
    seed = check_count("config.random_seed", options.get("random_seed", 42), 0)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError('setup_environment needs TensorBoard: pip install "hnbayes[tensorboard]".') from error

    wanted = os.fspath(out_dir)
    config.out_dir = made = make_fresh_folder(wanted)
    logger = config_logger(
        f"{logger_name}_{time.time_ns()}",
        os.path.join(made, LOG_FILE),
        logging.DEBUG,
        logging.INFO if options.get("loglevel_info", False) else logging.DEBUG,
    )
    if made != wanted:
        logger.warning("%s exists and is kept: this run writes to %s.", wanted, made)
    logger.debug("Output folder: %s", made)
    with open(os.path.join(made, OPTIONS_FILE), "w", encoding="utf-8") as file:
        json.dump(vars(config), file, indent=2, sort_keys=True, default=str)

    seed_everything(seed)
    if options.get("deterministic_run", False):
        compute_deterministically()
    device = choose_device(options)
    logger.debug("Device: %s; seed: %d", device, seed)
    if options.get("use_cuda", False) and device.type == "cpu":
        logger.warning("A GPU was asked for by use_cuda, but torch finds none: computing on the CPU.")
    return device, SummaryWriter(log_dir=os.path.join(made, SUMMARY)), logger


def make_fresh_folder(path: str) -> str:
    """Make a folder, or one beside it where there is something of that name: `<path>_1`, `<path>_2`, ...

    Several processes that ask for the same folder at once get one each.

    Args:
        path: the folder; those above it are made too.

    Returns:
        The path of the folder that was made.
    """
    path = path.rstrip(os.sep) or path
    os.makedirs(os.path.dirname(path) or os.curdir, exist_ok=True)
    candidate, number = path, 0
    while True:
        try:
            os.mkdir(candidate)
            return candidate
        except FileExistsError:
            number += 1
            candidate = f"{path}_{number}"


def seed_everything(seed: int) -> None:
    """Seed the generators that a script may use without naming one: Python's, NumPy's and torch's, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - scripts and libraries use the global generator
    torch.manual_seed(seed)


def compute_deterministically() -> None:
    """Let torch compute the same numbers from the same seed, as far as it has deterministic ways."""
    # cuBLAS is deterministic with such a workspace only; it reads this when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def choose_device(options: Config) -> torch.device:
    """The GPU where there is one and it is wanted, else the CPU."""
    wanted = options.get("use_cuda", True) and not options.get("no_cuda", False)
    return torch.device("cuda" if wanted and torch.cuda.is_available() else "cpu")
