"""Docstrings' examples run, and every public class and function has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import warnings

import numpy as np
import pytest
import torch
from pages import SHORT_RUNS

import hnbayes
from tests.public_api import homes, public_modules

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules() -> list[str]:
    return ["hnbayes", *(entry.name for entry in pkgutil.walk_packages(hnbayes.__path__, "hnbayes."))]


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in modules() for test in finder.find(importlib.import_module(name), name)]
    return [test for test in found if test.examples]


EXAMPLES = examples()


@pytest.mark.parametrize("test", EXAMPLES, ids=[test.name for test in EXAMPLES])
def test_example(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - examples may use NumPy's short form
    test.globs = {"torch": torch, "np": np, "hnbayes": hnbayes}
    out: list[str] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message=SHORT_RUNS)
        failed, tried = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=out.append)
    assert tried
    assert not failed, "".join(out)


def test_every_public_name_has_an_example():
    home = homes()
    public = {home[id(v)]: v for name in public_modules() for v in vars(importlib.import_module(name)).values()
              if id(v) in home}  # fmt: skip
    run = {test.docstring for test in EXAMPLES}
    missing = {
        name
        for name, value in public.items()
        if not (inspect.isclass(value) and issubclass(value, BaseException)) and value.__doc__ not in run
    }
    assert not missing
