"""Runs the examples as a user does, each in a process of its own."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from pages import ROOT

EXAMPLES = ROOT / "examples"
ENVIRONMENT = dict(os.environ, PYTHONPATH=str(ROOT))


def command_of(name: str, *arguments: object) -> list[str]:
    """The command line of the example in a file of this name."""
    return [sys.executable, str(EXAMPLES / name), *map(str, arguments)]


def run_example(name: str, *arguments: object, cwd: pathlib.Path | None = None) -> subprocess.CompletedProcess[str]:
    """The exit status and all that an example prints."""
    return subprocess.run(
        command_of(name, *arguments), capture_output=True, text=True, env=ENVIRONMENT, timeout=300, cwd=cwd
    )
