"""What is public exists, is described, and is what `tests/public_api.txt` says."""

from __future__ import annotations

import difflib
import importlib
import inspect
import types

import pytest

from tests.public_api import STORED, described, listing, public_modules


@pytest.mark.parametrize("name", public_modules())
def test_public_names_exist_and_are_described(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert undescribed(value) == [], f"{name}.{public}"


def undescribed(value):
    """What has no docstring of its own: the object, or one of its public methods and properties."""
    missing = [] if vars(value).get("__doc__", getattr(value, "__doc__", None)) else [value.__qualname__]
    if inspect.isclass(value):
        for name, member in vars(value).items():
            if not name.startswith("_") and isinstance(
                member, (types.FunctionType, property, classmethod, staticmethod)
            ):
                missing += [] if member.__doc__ else [f"{value.__qualname__}.{name}"]
    return missing


def test_every_package_says_what_is_public():
    """A package without `__all__` would be missing from the list, and from the reference."""
    import hnbayes

    packages = {f"hnbayes.{path.parent.name}" for path in STORED.parent.parent.glob("hnbayes/*/__init__.py")}
    holders = {"hnbayes.utils", "hnbayes.training"}  # their modules are public instead, under hnbayes.utils
    assert packages - holders <= set(public_modules())
    assert hnbayes.__name__ in public_modules()


def test_public_api_is_the_stored_one():
    stored, found = STORED.read_text(encoding="utf-8"), listing()
    changes = "\n".join(difflib.unified_diff(stored.splitlines(), found.splitlines(), "stored", "found", lineterm=""))
    assert not changes, f"{changes}\n\nIf this is meant: python -m tests.public_api, and a line in CHANGELOG.md."


def test_a_changed_default_and_a_missing_docstring_are_seen():
    class Before:
        """It."""

        def method(self, a: int = 1, *, key: str = "x") -> None:
            """It does."""

    class After:
        """It."""

        def method(self, a: float = 2, *, key: str = "x") -> None:
            pass

    Before.__module__ = After.__module__ = "hnbayes.trial"
    assert described("C", Before)[1:] == ["    method(self, a=1, *, key='x')"]
    assert described("C", Before) != described("C", After)
    assert undescribed(Before) == []
    assert [name.split(".")[-1] for name in undescribed(After)] == ["method"]
