"""setup_environment: folders, logger, seeds, deterministic mode, device, TensorBoard."""

from __future__ import annotations

import argparse
import json
import logging
import os
import pathlib
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from hnbayes.training.environment import make_fresh_folder
from hnbayes.utils.cli_args import miscellaneous_args
from hnbayes.utils.sim_utils import setup_environment

tensorboard = pytest.importorskip("tensorboard")


@pytest.fixture(autouse=True)
def _leave_torch_as_it_was(monkeypatch):
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is restored
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    yield
    cudnn.deterministic, cudnn.benchmark = before[:2]
    torch.use_deterministic_algorithms(before[2])
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    random.setstate(state[2])


def config(folder: pathlib.Path, *line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    miscellaneous_args(parser, dout_dir=str(folder))
    return parser.parse_args(line)


def run(args: argparse.Namespace, **options: str):
    """Set up and close again; the device, the logger and what was in the folder."""
    device, writer, logger = setup_environment(args, **options)
    writer.add_scalar("loss", 0.5, 3)
    writer.close()
    logger.info("a message")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    return device, logger


def events(folder: str | os.PathLike[str]):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(os.path.join(folder, "summary"))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars("loss")]


def test_a_run_has_its_folder(tmp_path, capsys):
    args = config(tmp_path / "above" / "run", "--loglevel_info", "--random_seed", "7")
    device, logger = run(args, logger_name="mine")
    folder = tmp_path / "above" / "run"
    assert args.out_dir == str(folder)
    assert sorted(os.listdir(folder)) == ["config.json", "logfile.txt", "summary"]
    assert logger.name.startswith("mine_")
    log = (folder / "logfile.txt").read_text()
    assert "a message" in log
    assert "DEBUG" in log
    shown = capsys.readouterr().out
    assert "a message" in shown
    assert "DEBUG" not in shown
    assert json.loads((folder / "config.json").read_text()) == vars(args)
    assert events(folder) == [(3, 0.5)]
    assert isinstance(device, torch.device)
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_an_existing_folder_is_kept_and_a_fresh_one_made_beside_it(tmp_path, monkeypatch):
    def prompt(*_):
        raise AssertionError("asked the user")

    monkeypatch.setattr("builtins.input", prompt)
    wanted = tmp_path / "run"
    wanted.mkdir()
    (wanted / "precious").write_text("work of a week")
    made = []
    for _ in range(3):
        args = config(wanted)
        run(args)
        made.append(args.out_dir)
    assert made == [f"{wanted}_1", f"{wanted}_2", f"{wanted}_3"]
    assert os.listdir(wanted) == ["precious"]
    assert (wanted / "precious").read_text() == "work of a week"
    assert "exists and is kept" in (pathlib.Path(made[0]) / "logfile.txt").read_text()
    assert all(events(folder) == [(3, 0.5)] for folder in made)


def test_a_file_of_that_name_is_kept_too(tmp_path):
    (tmp_path / "run").write_text("a file")
    assert make_fresh_folder(str(tmp_path / "run") + os.sep) == str(tmp_path / "run_1")
    assert (tmp_path / "run").read_text() == "a file"


def test_processes_that_want_the_same_folder_get_one_each(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make_fresh_folder, [str(tmp_path / "run")] * 40))
    assert len(set(made)) == 40
    assert sorted(os.listdir(tmp_path)) == sorted(os.path.basename(path) for path in made)


def draw() -> tuple[float, float, float]:
    return torch.rand(1).item(), float(np.random.rand()), random.random()  # noqa: NPY002


def test_the_seed_decides_all_generators(tmp_path):
    drawn = {}
    for seed in ("3", "3", "4"):
        run(config(tmp_path / "run", "--random_seed", seed))
        drawn.setdefault(seed, []).append(draw())
    assert drawn["3"][0] == drawn["3"][1]
    assert all(a != b for a, b in zip(drawn["3"][0], drawn["4"][0], strict=True))


def test_deterministic_mode(tmp_path):
    run(config(tmp_path / "run"))
    assert not torch.are_deterministic_algorithms_enabled()
    run(config(tmp_path / "run", "--deterministic_run"))
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize(
    ("options", "there", "expected"),
    [
        ({"no_cuda": False}, True, "cuda"),
        ({"no_cuda": True}, True, "cpu"),
        ({"no_cuda": False}, False, "cpu"),
        ({"use_cuda": True}, True, "cuda"),
        ({"use_cuda": False}, True, "cpu"),
        ({"use_cuda": True}, False, "cpu"),
        ({}, True, "cuda"),
    ],
)
def test_device(tmp_path, monkeypatch, options, there, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    args = argparse.Namespace(out_dir=str(tmp_path / "run"), **options)
    device, _ = run(args)
    assert device.type == expected
    log = (tmp_path / "run" / "logfile.txt").read_text()
    assert ("torch finds none" in log) == (options.get("use_cuda", False) and not there)


def test_options_that_are_not_there_have_their_defaults(tmp_path):
    _, logger = run(argparse.Namespace(out_dir=str(tmp_path / "run")))
    first = draw()
    run(argparse.Namespace(out_dir=str(tmp_path / "run"), random_seed=42))
    assert draw() == first
    assert logger.level == logging.DEBUG


def test_bad_input_makes_no_folder(tmp_path, monkeypatch):
    folder = str(tmp_path / "run")
    for args, error, message in (
        (argparse.Namespace(), ValueError, "option out_dir"),
        (argparse.Namespace(out_dir=3), TypeError, "out_dir must be the path"),
        (argparse.Namespace(out_dir=""), TypeError, "out_dir must be the path"),
        (argparse.Namespace(out_dir=folder, random_seed="1"), TypeError, "random_seed must be an integer"),
        (argparse.Namespace(out_dir=folder, random_seed=-1), ValueError, "random_seed must be at least 0"),
    ):
        with pytest.raises(error, match=message):
            setup_environment(args)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"hnbayes\[tensorboard\]"):
        setup_environment(argparse.Namespace(out_dir=folder))
    assert os.listdir(tmp_path) == []
