"""The Python blocks of docs/resume.md run, and its list of files is that of a run."""

from __future__ import annotations

import re

from pages import DOCS, run_blocks

PAGE = DOCS / "resume.md"


def test_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_blocks(PAGE)
    assert names["so_far"].num_draws == 80
    assert names["idata"].posterior["0.weight"].shape == (4, 80, 8, 1)
    assert names["draws"].positions.shape == (4, 50, 10)

    table = re.findall(r"^\| (`.*?`) \|", PAGE.read_text(), re.MULTILINE)
    told = {name for row in table for name in re.findall(r"`(.*?)`", row)}
    paths = [path for folder in ("run", "stored") for path in (tmp_path / folder).iterdir()]
    found = {re.sub(r"(?<=checkpoint-)\d+", "...", path.name) for path in paths}
    assert found == told
