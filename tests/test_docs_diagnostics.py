"""The Python blocks of docs/diagnostics.md run, and its limits are those of the code."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import pytest
from pages import DOCS, run_blocks

from hnbayes.diagnostics import checks

PAGE = DOCS / "diagnostics.md"


def test_python_blocks_run():
    names = run_blocks(PAGE)
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
