"""config_logger: a logger for the console and a file."""

from __future__ import annotations

import logging
import os
import sys

from hnbayes._checks import describe

LINE = "%(asctime)s - %(levelname)s - %(message)s"
LINE_WITH_MODULE = "%(asctime)s - %(levelname)s - %(module)s - %(message)s"


def config_logger(
    name: str, log_file: str | os.PathLike[str] | None, file_level: int | str, console_level: int | str
) -> logging.Logger:
    """Set up a logger that writes to the console and to a file; lines of the file also name the module.

    A logger of that name that exists is set up anew, so messages are never written twice.

    Args:
        name: the logger's name.
        log_file: the file, overwritten where it exists; None for the console alone.
        file_level: the least severe messages that go to the file, such as `logging.DEBUG` or "DEBUG".
        console_level: the least severe messages that go to the console.

    Returns:
        The logger.

    Raises:
        TypeError: if the name is no text, or a level neither a number nor a name.
        ValueError: if a level's name is unknown, or the file's folder is missing.

    Example:
        >>> import logging, pathlib
        >>> from hnbayes.utils.logger_config import config_logger
        >>> logger = config_logger("example", "log.txt", logging.DEBUG, logging.WARNING)
        >>> logger.info("step 1")  # to the file, not to the console
        >>> "step 1" in pathlib.Path("log.txt").read_text()
        True
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be text; received {describe(name)}.")
    # The console is that of the call: sys.stdout may have been replaced since the last one.
    console = logging.StreamHandler(sys.stdout)
    console.setLevel(console_level)
    console.setFormatter(logging.Formatter(LINE))
    # Refuses an unknown level before the logger has lost its handlers.
    logging.Handler().setLevel(file_level)
    if log_file is not None:
        folder = os.path.dirname(os.path.abspath(log_file))
        if not os.path.isdir(folder):
            raise ValueError(f"log_file must be in a folder that exists; received {describe(log_file)}. Make {folder}.")

    logger = logging.getLogger(name)
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.addHandler(console)
    if log_file is not None:
        file = logging.FileHandler(log_file, mode="w", encoding="utf-8")
        file.setLevel(file_level)
        file.setFormatter(logging.Formatter(LINE_WITH_MODULE))
        logger.addHandler(file)
    logger.setLevel(min(handler.level for handler in logger.handlers))
    # Otherwise handlers of the root logger would print each message once more.
    logger.propagate = False
    return logger
