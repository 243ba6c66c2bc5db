"""The gallery: its script draws every picture of hnbayes.plots, and its page shows them all."""

from __future__ import annotations

import importlib
import re
import sys
import warnings

import matplotlib.pyplot as plt
from matplotlib.image import imread
from pages import DOCS, ROOT, SHORT_RUNS, run_blocks

from hnbayes import plots

PAGE = DOCS / "gallery.md"


def test_the_script_draws_every_picture(tmp_path, monkeypatch):
    plt.close("all")  # what tests before it have left open
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    gallery = importlib.import_module("gallery")
    del sys.modules["gallery"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message=SHORT_RUNS)
        paths = gallery.pictures(tmp_path / "new", draws=12)
    assert sorted(path.stem for path in paths) == sorted(plots.__all__)
    for path in paths:
        image = imread(path)
        assert image.shape[:2] == (288, 432)
        assert image.std() > 0.02  # something is drawn
    assert not plt.get_fignums()


def test_the_page_shows_every_picture():
    text = PAGE.read_text(encoding="utf-8")
    shown = re.findall(r"!\[.{20,}?\]\((images/gallery/(\w+)\.png)\)", text)
    assert sorted(name for _, name in shown) == sorted(plots.__all__)
    for path, name in shown:
        assert (DOCS / path).stat().st_size < 60_000
        assert f"plots.{name}(" in text
    assert len(list((DOCS / "images" / "gallery").iterdir())) == len(shown)


def test_python_blocks_run():
    names = run_blocks(PAGE)
    assert len(names["axs"]) == 2
    assert names["functions"].shape == names["data"].shape == (2, 50, 60)
    plt.close("all")
