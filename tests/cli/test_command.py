"""The command from end to end: its files, numbers, exit codes and messages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.special import logsumexp
from scipy.stats import norm

from hnbayes.cli import main
from hnbayes.cli.runs import RECIPE

RNG = np.random.default_rng(0)
N = 60
X1, X2 = RNG.uniform(-3, 3, N), RNG.uniform(0, 100, N)
TABLE = pd.DataFrame({"x1": X1, "x2": X2, "y": 200 + 50 * np.sin(X1) + 0.2 * X2 + 3 * RNG.normal(size=N)})
CLASSES = TABLE.assign(y=np.where(X1 + 0.3 * RNG.normal(size=N) > 0, "up", np.where(X1 < -1.5, "far", "down")))
COUNTS = TABLE.assign(y=RNG.poisson(np.exp(0.5 + 0.4 * X1)))
SMALL = ["--hidden", "4", "--chains", "2", "--warmup", "40", "--draws", "30", "--max-tree-depth", "4", "--quiet"]


def sampled(folder, table, *options):
    table.to_csv(folder / "t.csv", index=False)
    assert main(["sample", str(folder / "t.csv"), "--target", "y", "--out", str(folder / "out"), *SMALL, *options]) == 0
    return folder / "out" / "posterior.nc"


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    return sampled(tmp_path_factory.mktemp("regression"), TABLE)


@pytest.fixture(scope="module")
def classification(tmp_path_factory):
    return sampled(tmp_path_factory.mktemp("classification"), CLASSES, "--activation", "relu", "--prior", "normal:1")


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    return sampled(tmp_path_factory.mktemp("counts"), COUNTS, "--task", "counts", "--prior", "hierarchical")


def run(capsys, *arguments):
    """Exit code, JSON if it is, and errors."""
    capsys.readouterr()
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def by_hand(path, table):
    """What the draws in the file say of a table's rows, in plain NumPy: outputs in the target's unit and noise."""
    recipe = json.loads(xr.open_dataset(path, engine="h5netcdf").attrs[RECIPE])
    posterior = xr.open_dataset(path, group="posterior", engine="h5netcdf")
    weights = {str(k): v.values.reshape(-1, *v.shape[2:]).astype(float) for k, v in posterior.data_vars.items()}
    inputs = (table[recipe["columns"]].to_numpy() - recipe["centre"]) / recipe["scale"]
    activate = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}[recipe["activation"]]
    hidden = activate(np.einsum("nd,mhd->mnh", inputs, weights["0.weight"]) + weights["0.bias"][:, None])
    outputs = np.einsum("mnh,mkh->mnk", hidden, weights["2.weight"]) + weights["2.bias"][:, None]
    return recipe, outputs, weights


# Sampling and predicting


def test_regression_predictions_are_those_of_the_draws(regression, tmp_path, capsys):
    new = TABLE.sample(frac=1, random_state=1)[["x2", "y", "x1"]]
    new.to_csv(tmp_path / "new.csv", index=False)
    output = tmp_path / "deeper" / "p.csv"
    code, out, _ = run(capsys, "predict", regression, tmp_path / "new.csv", "-o", output, "--json")
    assert code == 0
    found = pd.read_csv(output)
    recipe, outputs, weights = by_hand(regression, new)
    scale, centre = recipe["target_scale"], recipe["target_centre"]
    means, sigma = outputs[..., 0] * scale + centre, weights["sigma"][:, None] * scale
    np.testing.assert_allclose(found["y_mean"], means.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found["y_sd_weights"], means.std(0), rtol=1e-3)
    np.testing.assert_allclose(found["y_sd_noise"], np.sqrt((sigma**2).mean()), rtol=1e-3)
    np.testing.assert_allclose(found["y_sd"] ** 2, found["y_sd_noise"] ** 2 + found["y_sd_weights"] ** 2, rtol=1e-4)
    for name, level in (("low", 0.05), ("median", 0.5), ("high", 0.95)):
        below = norm.cdf(found[f"y_{name}"].to_numpy(), means, sigma).mean(0)
        np.testing.assert_allclose(below, level, atol=1e-3)
    scores = json.loads(out)["scores"]
    y = new["y"].to_numpy()
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean((means.mean(0) - y) ** 2)), rel=1e-4)
    density = logsumexp(norm.logpdf(y, means, sigma), axis=0) - np.log(len(means))
    assert scores["lppd"] == pytest.approx(density.mean(), rel=1e-4)
    assert scores["coverage"] == pytest.approx(np.mean((found["y_low"] <= y) & (y <= found["y_high"])))


def test_scaling_is_that_of_the_training_rows_and_scores_of_the_others(regression):
    recipe, outputs, _ = by_hand(regression, TABLE)
    saved = json.loads((regression.parent / "scores.json").read_text())
    held_out = xr.open_dataset(regression, group="predictions_constant_data", engine="h5netcdf")
    rows = held_out["X"].values[:, 0] * recipe["scale"][0] + recipe["centre"][0]
    test = np.array([np.abs(TABLE["x1"] - row).argmin() for row in rows])
    assert len(set(test)) == 12
    train = np.setdiff1d(np.arange(N), test)
    np.testing.assert_allclose(recipe["centre"], TABLE[["x1", "x2"]].to_numpy()[train].mean(0))
    np.testing.assert_allclose(recipe["target_scale"], TABLE["y"].to_numpy()[train].std())
    predicted = outputs[..., 0].mean(0) * recipe["target_scale"] + recipe["target_centre"]
    expected = np.sqrt(np.mean((predicted - TABLE["y"])[test] ** 2))
    assert saved["scores"]["rmse"] == pytest.approx(expected, rel=1e-4)


def test_classes_are_predicted_by_name(classification, tmp_path, capsys):
    CLASSES.drop(columns="y").to_csv(tmp_path / "new.tsv", sep="\t", index=False)
    code, out, _ = run(capsys, "predict", classification, tmp_path / "new.tsv", "-o", tmp_path / "p.tsv")
    assert code == 0
    assert out.startswith("60 predictions in")
    found = pd.read_csv(tmp_path / "p.tsv", sep="\t")
    _, outputs, _ = by_hand(classification, CLASSES)
    chances = np.exp(outputs - logsumexp(outputs, axis=2, keepdims=True)).mean(0)
    names = ["down", "far", "up"]
    np.testing.assert_allclose(found[[f"p({name})" for name in names]], chances, atol=1e-5)
    assert found["y"].tolist() == [names[i] for i in chances.argmax(1)]
    assert (found["y"] == CLASSES["y"]).mean() > 0.6


def test_counts_are_predicted_in_their_own_unit(counts, tmp_path, capsys):
    COUNTS.to_csv(tmp_path / "new.csv", index=False)
    assert run(capsys, "predict", counts, tmp_path / "new.csv", "-o", tmp_path / "p.csv")[0] == 0
    found = pd.read_csv(tmp_path / "p.csv")
    _, outputs, _ = by_hand(counts, COUNTS)
    np.testing.assert_allclose(found["y_mean"], np.exp(outputs[..., 0]).mean(0), rtol=1e-4)


def test_the_same_seed_gives_the_same_draws(regression, tmp_path):
    again = sampled(tmp_path, TABLE)
    first, second = (xr.open_dataset(p, group="posterior", engine="h5netcdf") for p in (regression, again))
    xr.testing.assert_equal(first, second)
    assert [path.name for path in sorted(again.parent.iterdir())] == ["posterior.nc", "scores.json"]


def test_the_file_holds_no_pickle_and_arviz_opens_it(regression):
    import arviz as az

    data = regression.read_bytes()
    assert b"__reduce__" not in data
    assert b"ctorch" not in data
    idata = az.from_netcdf(str(regression))
    assert {"posterior", "sample_stats", "log_likelihood", "predictions_constant_data"} <= set(idata.groups())


# Diagnosing and reporting


@pytest.mark.parametrize("kind", ["regression", "classification", "counts"])
def test_diagnose_and_report(kind, request, tmp_path, capsys):
    path = request.getfixturevalue(kind)
    code, out, _ = run(capsys, "diagnose", path, "--json")
    diagnosis = json.loads(out)
    assert code == 0
    names = [check["name"] for check in diagnosis["checks"]]
    assert "predictions: chains agree" in names
    assert ("ReLU units" in names) == (kind == "classification")
    assert diagnosis["notes"] == []
    saved = json.loads((path.parent / "scores.json").read_text())
    assert saved["diagnosis"]["checks"] == diagnosis["checks"]
    assert run(capsys, "report", path, "-o", tmp_path / "r.html")[0] == 0
    page = (tmp_path / "r.html").read_text()
    assert page.count("<img") == {"regression": 9, "classification": 6, "counts": 9}[kind]
    assert f"Verdict: {diagnosis['verdict']}." in page


def test_strict_turns_stop_into_a_code(regression, capsys):
    # So few draws can't be enough.
    assert run(capsys, "diagnose", regression, "--strict", "--quiet")[:2] == (3, "")


def test_files_of_others_are_diagnosed_by_their_groups(tmp_path, capsys):
    import arviz as az

    stats = {"diverging": np.zeros((4, 50), bool), "energy": RNG.normal(size=(4, 50))}
    densities = RNG.normal(size=(4, 50, 6))
    idata = az.from_dict(posterior={"w": RNG.normal(size=(4, 50))}, sample_stats=stats, log_likelihood={"y": densities})
    idata.to_netcdf(str(tmp_path / "o.nc"))
    code, out, _ = run(capsys, "diagnose", tmp_path / "o.nc")
    assert code == 0
    assert "divergences" in out
    assert "Not checked: predictions." in out
    assert run(capsys, "report", tmp_path / "o.nc")[0] == 0
    assert "Posterior in o.nc" in (tmp_path / "report.html").read_text()
    code, _, err = run(capsys, "predict", tmp_path / "o.nc", tmp_path / "x.csv", "-o", tmp_path / "p.csv")
    assert code == 2
    assert "was not written by `hnbayes sample`" in err


# Input that can't be used: code 2, one message, no traceback


def refused(capsys, *arguments):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (TABLE, ["--target", "z"], "no column 'z'"),
        (TABLE.assign(x1=np.where(X1 > 2, np.nan, X1)), [], "missing values"),
        (TABLE.assign(x1=1), [], "constant columns"),
        (TABLE.assign(x1="a"), [], "columns of text"),
        (TABLE.head(5), [], "at least 5 rows"),
        (TABLE.assign(y=-1.5 * X1), ["--task", "counts"], "whole numbers"),
        (TABLE, ["--likelihood", "categorical"], "can't be sampled"),
        (CLASSES, ["--likelihood", "gaussian"], "can't be sampled"),
    ],
)
def test_tables_that_can_not_be_sampled(table, options, message, tmp_path, capsys):
    table.to_csv(tmp_path / "t.csv", index=False)
    arguments = ["sample", tmp_path / "t.csv", "--target", "y", "--out", tmp_path / "out", *SMALL, *options]
    assert message in refused(capsys, *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["diagnose", "report", "predict"])
@pytest.mark.parametrize("content", [None, b"", b"not a posterior", "table"])
def test_what_is_no_posterior(command, content, tmp_path, capsys):
    path = tmp_path / "posterior.nc"
    if content == "table":
        xr.Dataset({"a": ("x", np.zeros(3))}).to_netcdf(path, engine="h5netcdf")
    elif content is not None:
        path.write_bytes(content)
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    more = [tmp_path / "t.csv", "-o", tmp_path / "p.csv"] if command == "predict" else []
    err = refused(capsys, command, path, *more)
    assert ("there is no file" if content is None else "is no posterior") in err


@pytest.mark.parametrize("command", ["diagnose", "report", "predict"])
def test_draws_of_another_network(command, regression, tmp_path, capsys):
    path = tmp_path / "posterior.nc"
    shutil.copy(regression, path)
    recipe = json.loads(xr.open_dataset(path, engine="h5netcdf").attrs[RECIPE])
    root = xr.Dataset(attrs={RECIPE: json.dumps(recipe | {"hidden": [9]})})
    root.to_netcdf(path, mode="a", engine="h5netcdf")
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    more = [tmp_path / "t.csv", "-o", tmp_path / "p.csv"] if command == "predict" else []
    assert "not of the network that it describes" in refused(capsys, command, path, *more)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE[["x1", "y"]], "missing: x2"),
        (CLASSES.assign(y="sideways"), "not sampled with: sideways"),
        (CLASSES.assign(x1=np.where(X1 > 0, np.nan, X1)), "missing values"),
        (CLASSES.assign(x2="far"), "columns of text"),
    ],
)
def test_tables_that_can_not_be_predicted(table, message, classification, tmp_path, capsys):
    table.to_csv(tmp_path / "t.csv", index=False)
    err = refused(capsys, "predict", classification, tmp_path / "t.csv", "-o", tmp_path / "p.csv")
    assert message in err
    assert not (tmp_path / "p.csv").exists()


def test_outputs_that_can_not_be_written(regression, tmp_path, capsys):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    assert "must end in .csv" in refused(capsys, "predict", regression, tmp_path / "t.csv", "-o", tmp_path / "p.xls")
    (tmp_path / "file").write_text("")
    err = refused(capsys, "report", regression, "-o", tmp_path / "file" / "r.html")
    assert "file" in err


@pytest.mark.parametrize(
    "options",
    [["--hidden", "5,a"], ["--prior", "flat"], ["--prior", "normal:-1"], ["--chains", "0"], ["--test-share", "1"]],
)
def test_options_that_can_not_be_used(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["sample", "t.csv", "--target", "y", *options])
    assert stopped.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_help_has_examples(capsys):
    for command in ([], ["sample"], ["diagnose"], ["predict"], ["report"]):
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--help"])
        assert stopped.value.code == 0
        assert "examples:\n  hnbayes" in capsys.readouterr().out


def test_the_callers_random_numbers_are_left_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    sampled(tmp_path, TABLE, "--warmup", "10", "--draws", "10")
    assert torch.equal(before, torch.random.get_rng_state())


def test_as_a_process(regression):
    code = "import sys; from hnbayes.cli import main; sys.exit(main())"
    arguments = [sys.executable, "-c", code, "diagnose"]
    good = subprocess.run([*arguments, str(regression)], capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("Verdict: ")
    bad = subprocess.run([*arguments, "nothing.nc"], capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "hnbayes diagnose: there is no file nothing.nc. Check the path.\n"


@pytest.mark.parametrize("arguments", [["diagnose"], ["diagnose", "--json"], ["--help"]])
def test_a_reader_that_stops_reading_is_no_error(regression, arguments):
    file = [] if "--help" in arguments else [str(regression)]
    program = "import sys; from hnbayes.cli import main; sys.exit(main())"
    reading, writing = os.pipe()
    os.close(reading)  # before anything is written: `head` may be gone by then too
    try:
        command = [sys.executable, "-c", program, *arguments, *file]
        # Without buffers argparse itself would swallow what it can't write.
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, env=buffered)
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")
