"""`hnbayes sample --checkpoint` and `--resume`: the same posterior as without a stop, exit codes, messages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hnbayes.cli import main
from hnbayes.sampling.engine import Run

RNG = np.random.default_rng(0)
X1 = RNG.uniform(-3, 3, 60)
TABLE = pd.DataFrame({"x1": X1, "x2": RNG.normal(size=60), "y": np.sin(X1) + 0.1 * RNG.normal(size=60)})
SMALL = ["--hidden", "3", "--chains", "2", "--warmup", "40", "--draws", "30", "--max-tree-depth", "4", "--quiet"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "t.csv"
    TABLE.to_csv(path, index=False)
    return path


def positions(folder):
    with xr.open_dataset(folder / "posterior.nc", group="unconstrained_posterior", engine="h5netcdf") as data:
        return data["position"].values


def stop_by(monkeypatch, name, after):
    """As if a signal had come after some draws."""
    real = Run.go

    def go(run, calls, show_progress, every=0.0):
        def stop(event):
            if event.done.max() > after:
                os.kill(os.getpid(), getattr(signal, name))
                monkeypatch.setattr(Run, "go", real)
                calls_made.append(1)

        calls_made = []
        return real(run, [lambda event: None if calls_made else stop(event)], show_progress, every)

    monkeypatch.setattr(Run, "go", go)


@pytest.mark.parametrize(("name", "code"), [pytest.param("SIGINT", 130, marks=pytest.mark.slow), ("SIGTERM", 143)])
def test_stopped_and_resumed(name, code, table, tmp_path, monkeypatch, capsys):
    assert main(["sample", str(table), "--target", "y", "--out", str(tmp_path / "whole"), *SMALL]) == 0
    run = tmp_path / "a run"
    stop_by(monkeypatch, name, 50)
    capsys.readouterr()
    command = ["sample", str(table), "--target", "y", "--checkpoint", str(run), *SMALL, "--json"]
    assert main(command) == code
    told = json.loads(capsys.readouterr().out)
    assert told == {"stopped_by": name, "resume": f"hnbayes sample --resume '{run}'"}
    assert not (run / "posterior.nc").exists()
    assert main(["sample", "--resume", str(run), "--quiet"]) == 0
    np.testing.assert_array_equal(positions(run), positions(tmp_path / "whole"))
    scores = [json.loads((folder / "scores.json").read_text())["scores"] for folder in (run, tmp_path / "whole")]
    assert scores[0] == scores[1]
    assert main(["sample", "--resume", str(run), "--draws", "45", "--out", str(tmp_path / "more"), "--quiet"]) == 0
    assert positions(tmp_path / "more").shape[1] == 45


def test_cores(table, tmp_path):
    """Over two processes and over one; with a number that resuming doesn't take from the command that began."""
    run = tmp_path / "run"
    command = ["sample", str(table), "--target", "y", *SMALL]
    assert main([*command, "--cores", "2", "--checkpoint", str(run)]) == 0
    assert main([*command, "--cores", "1", "--out", str(tmp_path / "one")]) == 0
    np.testing.assert_array_equal(positions(run), positions(tmp_path / "one"))
    assert main(["sample", "--resume", str(run), "--cores", "1", "--out", str(tmp_path / "again"), "--quiet"]) == 0
    np.testing.assert_array_equal(positions(tmp_path / "again"), positions(run))
    with pytest.raises(SystemExit):
        main([*command, "--cores", "0"])


def test_storage(table, tmp_path, capsys):
    """The draws as zarr, of a run that is complete and of one that is made longer."""
    pytest.importorskip("zarr")
    run = tmp_path / "run"
    command = ["sample", str(table), "--target", "y", *SMALL, "--storage", "zarr"]
    assert main([*command, "--checkpoint", str(run)]) == 0
    for draws in (30, 45):
        with xr.open_zarr(run / "posterior.zarr", group="posterior", chunks=None) as data:
            flat = [data[name].values.reshape(2, draws, -1) for name in data.data_vars]
            np.testing.assert_array_equal(np.concatenate(flat, -1), positions(run))
        assert main(["sample", "--resume", str(run), "--draws", "45", "--quiet"]) == 0
    capsys.readouterr()
    again = ["sample", "--resume", str(run), "--storage", "zarr"]
    for arguments, message in [(command, "--storage needs --checkpoint"), (again, "received storage too")]:
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_what_cant_be_resumed(table, tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main(["sample", str(table), "--target", "y", "--checkpoint", run, *SMALL]) == 0
    for arguments, message in [
        (["--resume", run, "--seed", "3"], "received seed too"),
        (["--resume", run, str(table)], "received table too"),
        (["--resume", str(tmp_path / "none")], "holds no run"),
        ([], "a table and --target are needed"),
        ([str(table), "--target", "y", "--checkpoint", run], "holds a run"),
        (["--resume", run, "--draws", "20"], "at least the 30"),
    ]:
        capsys.readouterr()
        assert main(["sample", *arguments, "--quiet"]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "run" / "run.recipe").write_bytes(b"something else")
    assert main(["sample", "--resume", run, "--quiet"]) == 2


def test_a_terminated_process_leaves_a_run_to_resume(table, tmp_path):
    run = tmp_path / "run"
    code = "import sys; from hnbayes.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "sample", table, "--target", "y", "--checkpoint", run]
    process = subprocess.Popen([*command, "--draws", "100000", "--hidden", "3"], stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not list(run.glob("checkpoint-*")):
        time.sleep(0.05)
    time.sleep(0.3)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert f"hnbayes sample --resume {run}" in out
