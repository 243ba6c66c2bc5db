"""Every Python block of the README runs, in order, in one namespace."""

from __future__ import annotations

import pathlib
import re
import warnings

import torch

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_python_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    torch.manual_seed(0)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        # Runs this short are meant to show the calls, not to converge.
        warnings.filterwarnings("ignore", category=UserWarning, message=".*(diverged|tree depth|E-BFMI).*")
        for block in blocks:
            exec(compile(block, str(README), "exec"), names)
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


def test_blocks_of_the_page_on_pyro_run():
    page = README.parent / "docs" / "pyro.md"
    names: dict[str, object] = {}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            exec(compile(block, str(page), "exec"), names)
    assert names["functions"].shape == (2, 30, 30, 1)
    assert "prior_predictive" in names["idata"].groups()
