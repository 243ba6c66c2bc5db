"""Runs the Python blocks of a page of the documentation, in order, in one namespace."""

from __future__ import annotations

import pathlib
import re
import warnings
from typing import Any

import numpy as np
import torch

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
# Runs this short are meant to show the calls, not to converge.
SHORT_RUNS = ".*(diverged|tree depth|E-BFMI|Pareto).*"


def python_blocks(page: pathlib.Path) -> list[str]:
    """The code of each block that is marked as Python."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run_blocks(page: pathlib.Path, ignore: str = SHORT_RUNS) -> dict[str, Any]:
    """The names that a page's blocks leave behind; warnings that don't match `ignore` stay errors."""
    blocks = python_blocks(page)
    assert blocks, f"{page} has no Python blocks"
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - pages may use NumPy's short form
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message=ignore)
        for block in blocks:
            exec(compile(block, str(page), "exec"), names)
    return names
