"""The Python blocks of docs/diagnostics.md run, and its limits are those of the code."""

from __future__ import annotations

import pathlib
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from hnbayes.diagnostics import checks

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "diagnostics.md"


def test_python_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the page uses NumPy's short form
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        # Runs this short are meant to show the calls, not to converge.
        warnings.filterwarnings("ignore", category=UserWarning, message=".*(diverged|tree depth|E-BFMI|Pareto).*")
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
    assert names["report"].verdict in ("ok", "look", "stop")
    assert names["elpd"].n_data_points == 40
    low, high = names["ax"].get_xlim()
    assert low < -3
    assert high > 3
    plt.close("all")


@pytest.mark.parametrize(
    ("row", "limits"),
    [
        ("chains agree", checks.RHAT),
        ("each chain has settled", checks.WITHIN_RHAT),
        ("superchains agree", checks.RHAT),
        ("effective draws", checks.ESS),
        ("predictive density", checks.STILL_RISING),
        ("energy", (checks.LOW_BFMI, checks.VERY_LOW_BFMI)),
        ("Monte Carlo error", [100 * share for share in checks.RELATIVE_MCSE]),
        ("ReLU units", [100 * share for share in checks.DEAD_SHARE]),
    ],
)
def test_limits_are_those_of_the_code(row, limits):
    (line,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {row} |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    found = [float(re.search(r"[\d.]+", cells[i])[0]) for i in (2, 3)]
    assert found == pytest.approx(list(limits))
