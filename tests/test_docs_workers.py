"""The Python blocks of docs/workers.md run; those for torchrun are compiled, and their names exist."""

from __future__ import annotations

import pathlib
import re
import warnings

import torch

import hnbayes

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "workers.md"


def test_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        # Runs this short are meant to show the calls, not to converge.
        warnings.filterwarnings("ignore", category=UserWarning, message=".*(diverged|tree depth|E-BFMI).*")
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), names)
    assert names["so_far"].num_draws == 50
    assert names["post"].draws.metadata["cores"] == 2


def test_blocks_for_torchrun_name_what_exists():
    blocks = re.findall(r"```python no-run\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        compile(block, str(PAGE), "exec")
        for path in re.findall(r"hnbayes\.([a-z_.A-Z]+)", block):
            found = hnbayes
            for part in path.split("."):
                found = getattr(found, part)
