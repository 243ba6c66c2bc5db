"""The Python blocks of docs/beyond.md run."""

from __future__ import annotations

from pages import DOCS, run_blocks

PAGE = DOCS / "beyond.md"


def test_python_blocks_run():
    names = run_blocks(PAGE)
    assert names["members"].draws.positions.shape == (5, 1, 66)
    assert names["members"].score(names["X"], names["y"])["rmse"] < 0.4
    assert names["scores"]["rmse"] < 0.2
    assert names["samples"].shape == (120, 100)
    assert names["growth"]
