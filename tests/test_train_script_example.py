"""The training script: its files, what it reports, resuming, and errors."""

from __future__ import annotations

import importlib
import os
import re

import pytest
import torch
from example_runs import EXAMPLES, run_example

pytest.importorskip("sklearn")
pytest.importorskip("tensorboard")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    with torch.random.fork_rng():
        yield importlib.import_module("train_script")


def checkpoints(folder):
    names = os.listdir(folder / "checkpoints")
    return {int(name.removeprefix("net_")): folder / "checkpoints" / name for name in names}


def scalars(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "summary"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {event.step: event.value for event in accumulator.Scalars(tag)}


def test_it_trains_samples_and_writes_its_files(tmp_path):
    options = ("--quick", "--warmup", 30, "--draws", 15, "--out_dir", "run")
    result = run_example("train_script.py", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = re.findall(r"(best checkpoint|posterior) +test accuracy (\S+), log likelihood (\S+)", result.stdout)
    scores = {name: (float(accuracy), float(lppd)) for name, accuracy, lppd in rows}
    assert scores["best checkpoint"][0] > 0.9
    assert scores["posterior"][0] > 0.95
    assert scores["posterior"][1] > scores["best checkpoint"][1]
    assert "Verdict" in result.stdout
    out = tmp_path / "run"
    assert {"logfile.txt", "config.json", "summary", "checkpoints", "posterior.nc"} == set(os.listdir(out))
    assert "log likelihood" in (out / "logfile.txt").read_text()
    losses = scalars(out, "train/loss")
    assert list(losses) == list(range(1, len(losses) + 1))
    assert losses[len(losses)] < 0.5 * losses[1]
    assert len(scalars(out, "posterior/chain_0/acceptance_rate")) == 45
    import hnbayes

    net = hnbayes.mnets.MLP(64, 10, (32,), verbose=False)
    assert hnbayes.Posterior.load(out / "posterior.nc", net).num_draws == 15


@pytest.mark.parametrize(
    "options", [[], ["--use_adam", "--lr", "0.01", "--dropout_rate", "0.3", "--clip_grad_norm", "1"]]
)
def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path, script, options):
    common = [*options, "--epochs", "-1", "--val_iter", "20", "--draws", "0"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    expected = script.main([*common, "--n_iter", "70", "--out_dir", str(whole)])
    script.main([*common, "--n_iter", "40", "--out_dir", str(stopped)])
    at_the_stop = torch.load(checkpoints(stopped)[40], weights_only=False)["state_dict"]
    torch.manual_seed(99)  # nothing may depend on what happened in between
    found = script.main([*common, "--n_iter", "70", "--out_dir", str(stopped), "--resume", str(stopped)])
    assert found == expected
    assert set(checkpoints(stopped)) == set(checkpoints(whole))
    ends = [torch.load(checkpoints(folder)[70], weights_only=False) for folder in (whole, stopped)]
    for name, tensor in ends[0]["state_dict"].items():
        assert torch.equal(tensor, ends[1]["state_dict"][name])
        assert not torch.equal(tensor, at_the_stop[name])
    # What was there is kept; log and TensorBoard of the second part are in a folder of their own.
    assert sorted(os.listdir(tmp_path)) == ["stopped", "stopped_1", "whole"]
    assert list(scalars(tmp_path / "stopped_1", "train/loss")) == list(range(41, 71))
    parts = {**scalars(stopped, "train/loss"), **scalars(tmp_path / "stopped_1", "train/loss")}
    assert parts == scalars(whole, "train/loss")


def test_a_run_that_is_interrupted_between_checkpoints_goes_on(tmp_path, script, monkeypatch):
    common = ["--epochs", "-1", "--n_iter", "60", "--val_iter", "20", "--draws", "0"]
    expected = script.main([*common, "--out_dir", str(tmp_path / "whole")])
    as_it_is = script.batch

    def interrupted(data, iteration, size, seed):
        if iteration == 47:
            raise KeyboardInterrupt
        return as_it_is(data, iteration, size, seed)

    out = tmp_path / "interrupted"
    monkeypatch.setattr(script, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        script.main([*common, "--out_dir", str(out)])
    monkeypatch.setattr(script, "batch", as_it_is)
    assert max(scalars(out, "train/loss")) == 47
    assert max(checkpoints(out)) == 40
    assert script.main([*common, "--out_dir", str(out), "--resume", str(out)]) == expected
    assert min(scalars(tmp_path / "interrupted_1", "train/loss")) == 41


def test_an_epoch_has_each_sample_once(script):
    data = torch.arange(100.0)[:, None], torch.arange(100)
    epochs = [
        [script.batch(data, i, 32, seed)[1] for i in range(first, first + 4)]
        for first, seed in ((0, 1), (4, 1), (0, 2))
    ]
    assert [len(rows) for rows in epochs[0]] == [32, 32, 32, 4]
    orders = [torch.cat(rows) for rows in epochs]
    assert all(torch.equal(order.sort().values, data[1]) for order in orders)
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_another_network_and_another_seed(tmp_path, script):
    common = ["--quick", "--draws", "0", "--epochs", "2", "--net_type", "chunked_mlp"]
    for seed in ("1", "2"):
        script.main([*common, "--random_seed", seed, "--out_dir", str(tmp_path / seed)])
    first, second = (scalars(tmp_path / seed, "train/loss") for seed in ("1", "2"))
    assert list(first) == list(second)
    assert first != second


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--use_adam --use_rmsprop", "--use_adam and --use_rmsprop must not be given together"),
        ("--batch_size 0", "batch_size, val_iter"),
        ("--resume nowhere", "nowhere has none"),
        ("--net_type lenet", "invalid choice"),
    ],
)
def test_bad_options_are_explained(tmp_path, script, capsys, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        script.main(line.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
