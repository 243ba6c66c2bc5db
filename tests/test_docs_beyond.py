"""The Python blocks of docs/beyond.md run."""

from __future__ import annotations

import pathlib
import re
import warnings

import torch

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "beyond.md"


def test_python_blocks_run():
    torch.manual_seed(0)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        # Runs this short are meant to show the calls, not to converge.
        warnings.filterwarnings("ignore", category=UserWarning, message=".*(diverged|tree depth|E-BFMI).*")
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), names)
    assert names["members"].draws.positions.shape == (5, 1, 66)
    assert names["members"].score(names["X"], names["y"])["rmse"] < 0.4
    assert names["scores"]["rmse"] < 0.2
    assert names["samples"].shape == (120, 100)
    assert names["growth"]
