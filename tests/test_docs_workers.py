"""The Python blocks of docs/workers.md run; those for torchrun are compiled, and their names exist."""

from __future__ import annotations

import re

from pages import DOCS, run_blocks

import hnbayes

PAGE = DOCS / "workers.md"


def test_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_blocks(PAGE)
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
