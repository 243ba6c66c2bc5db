"""The suite's own tools: p-values are uniform under what they suppose, and the record tells right from wrong."""

from __future__ import annotations

import numpy as np
import pytest
from checks import LEVEL, mean_check, normal_checks, uniform_ranks
from pictures import band
from record import Record


def test_p_values_of_right_numbers_are_uniform():
    """So a check at level a fails with probability a; here at 5%, over 400 data sets."""
    rng = np.random.default_rng(0)
    found = {"mean": [], "square": [], "KS": [], "t": [], "ranks": []}
    for _ in range(400):
        x = rng.standard_normal((200, 1))
        p = normal_checks(x, ("x",))
        for name in ("mean", "square", "KS"):
            found[name].append(p[f"x {name}"])
        found["t"].append(mean_check(x[:30, 0], 0.0))
        found["ranks"].append(uniform_ranks(rng.integers(0, 40, 200), 40))
    for name, values in found.items():
        share = np.mean(np.array(values) < 0.05)
        assert share < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 400), name
        assert share > 0.005, name


def test_p_values_of_wrong_numbers_are_small():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 2))
    assert min(normal_checks(x + 0.15, ("a", "b")).values()) < LEVEL
    assert min(normal_checks(x * 1.1, ("a", "b")).values()) < LEVEL
    assert normal_checks(x @ np.array([[1, 0.2], [0, 0.98]]), ("a", "b"))["pairs"] < LEVEL
    assert normal_checks(np.array([[0.1], [np.nan]]), ("a",)) == {"range": 0.0}
    assert mean_check(x[:, 0] + 0.2, 0.0) < LEVEL
    assert uniform_ranks((40 * rng.beta(1.3, 1.3, 1000)).astype(int), 40) < LEVEL


def test_band_holds_as_often_as_it_says():
    rng = np.random.default_rng(5)
    low, high = band(100, 40)
    at = np.arange(1, 41) / 40
    counts = rng.multinomial(100, np.full(40, 1 / 40), 1000).cumsum(1) / 100 - at
    inside = ((counts >= low - 1e-12) & (counts <= high + 1e-12)).all(1).mean()
    assert 0.92 < inside < 0.985


def test_record_tells_right_from_wrong(tmp_path):
    record = Record(3)
    record.hold("ranks", "good", "p", {"a": 0.3, "b": 0.001})
    with pytest.raises(AssertionError, match="b has p"):
        record.hold("ranks", "bad", "p", {"a": 0.3, "b": 1e-9})
    record.reject("ranks", "mutant", "p", {"a": 0.3, "b": 1e-9})
    with pytest.raises(AssertionError, match="doesn't see"):
        record.reject("ranks", "shy mutant", "p", {"a": 0.3})
    verdicts = {row["sampler"]: row["as_it_should"] for row in record.rows()}
    assert verdicts == {"good": True, "bad": False, "mutant": True, "shy mutant": False}
    record.ranks["good", "p"] = (("a",), np.arange(40)[:, None], 40)
    record.scores.append({"posterior": "p", "parameter": "a", "z": 0.3})
    record.notes += [{"posterior": name, "criterion": "R-hat", "met": name == "p"} for name in ("p", "q")]
    record.efficiency.append({"sampler": "good", "problem": "p", "ess_per_gradient": 0.1})
    record.write(tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"summary.txt", "summary.csv", "checks.json", "ranks.png", "scores.png", "efficiency.png"}
    told = (tmp_path / "summary.txt").read_text()
    assert "seed 3" in told
    assert "references with R-hat: 1 of 2; not q" in told
