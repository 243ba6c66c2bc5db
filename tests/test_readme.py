"""Every Python block of the README runs, in order, in one namespace."""

from __future__ import annotations

import re

import torch
from pages import DOCS, ROOT, run_blocks

README = ROOT / "README.md"


def test_python_blocks_run():
    names = run_blocks(README)
    error = abs(names["bands"]["mean"].values.squeeze() - torch.sin(2 * names["X"]).squeeze().numpy()).max()
    assert error < 0.3
    assert 0.5 < names["scores"]["coverage"] <= 1
    assert names["weights"].shape == (4, 100, 16, 1)
    assert names["idata"].posterior["position"].shape == (4, 200, 4)
    assert names["mcmc"].get_samples(group_by_chain=True)["eta"].shape == (4, 100, 8)


def test_columns_named_in_the_commands_exist():
    path, column = re.search(r"hnbayes sample (\S+) --target (\S+)", README.read_text()).groups()
    assert column in (README.parent / path).read_text().splitlines()[0].split(",")


def test_images_exist():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README.read_text()):
        assert (README.parent / path).stat().st_size < 150_000


def test_blocks_of_the_page_on_pyro_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_blocks(DOCS / "pyro.md", ignore=".*")
    assert names["functions"].shape == (2, 30, 30, 1)
    assert "prior_predictive" in names["idata"].groups()
