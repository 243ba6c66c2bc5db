"""The page on migration: its table is what the package has, and documented signatures hold."""

from __future__ import annotations

import importlib
import inspect
import os
import pathlib
import re
import shutil
import subprocess
import sys

import migration_table
import pytest

PAGE = migration_table.PAGE.read_text()


def test_the_table_is_what_the_package_has():
    assert migration_table.with_table(PAGE) == PAGE, "run python tests/migration_table.py"
    names = [(module, name) for module, names in migration_table.contract().items() for name in names]
    assert len(names) == 65
    for module, name in names:
        line = re.search(rf"^\| `hypnettorch\.utils\.{module}\.{name}` \| `(\S+)` \| `(\S+)` \|$", PAGE, re.MULTILINE)
        assert line, name
        path, home = line.groups()
        here, _, attribute = path.rpartition(".")
        assert path == f"hnbayes.utils.{module}.{name}"
        assert getattr(importlib.import_module(here), attribute) is getattr(importlib.import_module(home), name)


def test_an_outdated_table_is_noticed():
    outdated = PAGE.replace("hnbayes.training.gan`", "hnbayes.training.gans`", 1)
    assert outdated != PAGE
    assert migration_table.with_table(outdated) == PAGE


def test_the_command_makes_a_script_run(tmp_path):
    if shutil.which("perl") is None:
        pytest.skip("perl isn't here")
    command = re.search(r"```bash\n(.*?)\n```", PAGE).group(1)
    lines = (
        "from hypnettorch.utils import misc",
        "from hypnettorch.mnets.mlp import MLP",
        "print(misc.str_to_ints('3'), MLP)",
    )
    (tmp_path / "script.py").write_text("\n".join(lines))
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    environment = dict(os.environ, PYTHONPATH=str(pathlib.Path(__file__).parent.parent))
    ran = [sys.executable, "script.py"]
    result = subprocess.run(ran, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "[3] <class 'hnbayes.mnets.mlp.MLP'>", result.stderr


def parameters(signature):
    return inspect.signature(eval(f"lambda {signature[1:-1]}: None", {}))


@pytest.mark.parametrize("module", migration_table.contract())
def test_documented_signatures_hold(module):
    imported = importlib.import_module(f"hnbayes.utils.{module}")
    for name, documented in migration_table.contract()[module].items():
        here = inspect.signature(getattr(imported, name)).parameters
        for parameter in parameters(documented["signature"]).parameters.values():
            assert parameter.name in here, f"{name} lacks {parameter.name}"
            if parameter.default is not inspect.Parameter.empty:
                assert here[parameter.name].default == parameter.default, f"{name}, {parameter.name}"
        for member in documented.get("members", {}):
            assert hasattr(getattr(imported, name), member), f"{name}.{member}"


def test_networks_are_where_the_page_says():
    rows = re.findall(r"^\| `(\w+)` \| `(hnbayes\.(?:mnets|hnets|data)\.\w+)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == 15
    for name, module in rows:
        assert getattr(importlib.import_module(module), name).__module__ == module
