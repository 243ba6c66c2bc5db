"""Imports point down, and `import hnbayes` stays light."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "hnbayes"

# What each room may import from; a room not named here may be imported by anything above it only.
ALLOWED = {
    "_version": set(),
    "_checks": set(),
    "_files": set(),
    "_untrusted": set(),
    "_distributions": {"_checks"},
    "params": {"_checks"},
    "rng": {"_checks"},
    "potentials": {"_checks", "params"},
    "kernels": {"_checks", "params", "rng", "potentials"},
    "inference_data": {"_checks", "_version", "params"},
    "diagnostics": {"inference_data"},
    "sampling": {"_checks", "_files", "_version", "params", "rng", "potentials", "kernels", "inference_data"}
    | {"diagnostics"},
    "distributed": {"_checks", "params", "potentials", "sampling"},
    "laplace": {"_checks", "params", "rng"},
    "likelihoods": {"_checks", "_distributions"},
    "priors": {"_checks", "_distributions", "params", "rng", "laplace", "potentials"},
    "posterior": {"_checks", "_untrusted", "_distributions", "_version", "params", "rng", "potentials", "kernels"}
    | {"sampling", "likelihoods", "priors", "inference_data", "laplace", "diagnostics"},
    "minibatch": {"_checks", "_version", "rng", "sampling", "posterior"},
    "sklearn": {"_checks", "kernels", "likelihoods", "posterior"},
    "plots": {"diagnostics"},
    "cli": {"_version", "_untrusted", "inference_data", "diagnostics", "plots", "priors", "posterior", "sampling"},
    "pyro": {"_checks", "_version", "params", "rng", "potentials", "kernels", "sampling", "inference_data"}
    | {"_distributions", "laplace", "likelihoods", "priors"},
    "layers": {"_checks"},
    "data": {"_checks"},
    "mnets": {"_checks", "params", "layers"},
    "hnets": {"_checks", "params", "layers", "mnets"},
    "training": {"_checks", "_files", "params", "rng", "layers", "data", "mnets", "hnets"},
    "utils": {"params", "potentials", "kernels", "sampling", "inference_data", "laplace", "layers", "training"}
    | {"data", "mnets", "hnets", "_checks"},
}
ONLY_IN = {"pyro": {"pyro"}, "arviz": {"inference_data", "diagnostics", "plots"}}


def room(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: pathlib.Path) -> set[str]:
    """Modules that a file imports, those for type checkers only left out."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = room(path)
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("hnbayes.")}
    assert here in ALLOWED, f"say in ALLOWED what {here} may import"
    assert inside - {here} <= ALLOWED[here]
    outside = {name.split(".")[0] for name in imports(path)}
    for library, rooms in ONLY_IN.items():
        assert library not in outside or here in rooms, f"only {rooms} may import {library}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_small_rooms_without_asserts(path):
    text = path.read_text()
    assert text.count("\n") <= 500
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(text))), "users get a ValueError"


def test_import_leaves_heavy_libraries_alone():
    heavy = "arviz", "pyro", "matplotlib", "xarray", "tensorboard", "pandas", "sklearn"
    code = f"import sys, hnbayes; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_rule_can_fail(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text("from hnbayes.sampling import Draws\nimport arviz as az\n")
    assert imports(file) == {"hnbayes.sampling", "arviz"}
