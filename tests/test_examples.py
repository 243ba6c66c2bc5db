"""The main example, with the smallest budgets: files, table and errors."""

from __future__ import annotations

import csv
import importlib
import re
import subprocess
import sys

import pytest
from example_runs import EXAMPLES, run_example


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_example("bnn_regression.py", *arguments)


def test_it_beats_ridge_and_writes_its_files(tmp_path):
    xr = pytest.importorskip("xarray")
    result = run("--quick", "--warmup", 30, "--draws", 30, "--hidden", 20, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    rows = re.findall(r"^(.+?) +(\d\.\d{4}) +(-?\d+\.\d{3}) +(\d\.\d{3})$", result.stdout, re.MULTILINE)
    scores = {name.strip(): [float(value) for value in values] for name, *values in rows}
    assert set(scores) == {"BNN (NUTS)", "network alone", "ridge"}
    assert scores["BNN (NUTS)"][0] < 0.75 * scores["ridge"][0]
    assert scores["BNN (NUTS)"][1] < scores["ridge"][1]
    assert "R-hat of predictions" in result.stdout
    for name in ("trace.png", "energy.png", "predictive.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with xr.open_dataset(tmp_path / "posterior.nc", group="posterior") as posterior:
        assert posterior["0.weight"].shape == (4, 30, 20, 5)
        assert posterior["log_noise"].shape == (4, 30)
    with (tmp_path / "summary.csv").open() as file:
        summary = list(csv.DictReader(file))
    assert len(summary) == 301
    assert summary[0]["quantity"] == "noise_sd"
    assert 0 < float(summary[0]["q05"]) < float(summary[0]["mean"]) < float(summary[0]["q95"])


GOOD = "a,b,y\n" + "".join(f"{i},{i * i % 7},{i % 5}\n" for i in range(30))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, [], "there is no file"),
        (GOOD, ["--target", "z"], "there is no column 'z'"),
        (GOOD.replace("3,2,3", "three,2,3"), [], "numbers only"),
        (GOOD.replace("3,2,3", "3,,3"), [], "column 'b' of .* has missing values"),
        ("a,b,y\n" + "".join(f"{i},1,{i % 5}\n" for i in range(30)), [], "column 'b' of .* is constant"),
        ("a,b,y\n1,2,3\n", [], "at least 2 columns and 20 rows"),
        (GOOD, ["--hidden", "many"], "--hidden must be numbers"),
        (GOOD, ["--draws", "1"], "draws at least 10"),
    ],
)
def test_bad_input_is_explained(tmp_path, monkeypatch, capsys, text, options, message):
    path = tmp_path / "table.csv"
    if text is not None:
        path.write_text(text)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", ["bnn_regression", "--data", str(path), *options, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module("bnn_regression").main()
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_the_pyro_example_predicts_and_writes_its_files(tmp_path):
    result = run_example("pyro_bnn.py", "--quick", "--warmup", 40, "--draws", 20, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    error, spread = map(float, re.findall(r"test RMSE (\S+) dB .sd of the target (\S+) dB", result.stdout)[0])
    assert error < 0.6 * spread
    assert "R-hat of predictions" in result.stdout
    for name in ("trace.png", "energy.png", "predictive.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "posterior.nc").stat().st_size > 0
