"""The public names of the package, with their signatures, as `tests/public_api.txt` holds them.

    python -m tests.public_api     # renews the file; look at what changed before you commit it

Annotations are left out: their text differs between versions of Python.
"""

from __future__ import annotations

import importlib
import inspect
import pathlib
import pkgutil
from typing import Any

import hnbayes

STORED = pathlib.Path(__file__).parent / "public_api.txt"


def public_modules() -> list[str]:
    """The modules that say in `__all__` what is public of them, those with a leading underscore left out."""
    found = [hnbayes.__name__]
    for entry in pkgutil.walk_packages(hnbayes.__path__, "hnbayes."):
        if "._" not in entry.name and hasattr(importlib.import_module(entry.name), "__all__"):
            found.append(entry.name)
    return sorted(found)


def homes() -> dict[int, str]:
    """The id of each public class and function -> the name that stands for it where several modules have it.

    Packages come first, then `hnbayes` itself, then the documented modules of `hnbayes.utils`.
    """
    home: dict[int, str] = {}
    for name in sorted(public_modules(), key=_rank):
        module = importlib.import_module(name)
        for public in module.__all__:
            if inspect.isclass(value := getattr(module, public)) or inspect.isroutine(value):
                home.setdefault(id(value), f"{name}.{public}")
    return home


def _rank(name: str) -> tuple[bool, bool, str]:
    return (name.startswith("hnbayes.utils."), name == "hnbayes", name)


def listing() -> str:
    """Module by module, each public name with its kind and signature; for classes their public methods too.

    What is public in several modules is written out once.
    """
    lines, home = [], homes()
    for name in public_modules():
        module = importlib.import_module(name)
        lines.append(name)
        for public in sorted(module.__all__):
            value = getattr(module, public)
            full = home.get(id(value), f"{name}.{public}")
            found = described(public, value) if full == f"{name}.{public}" else [f"{public} = {full}"]
            lines += [f"    {line}" for line in found]
    return "\n".join(lines) + "\n"


def described(name: str, value: Any) -> list[str]:
    """The lines of one name."""
    if inspect.isclass(value) and issubclass(value, BaseException):
        return [f"exception {name}"]
    if inspect.isclass(value):
        return [f"class {name}{signature(value)}", *(f"    {line}" for line in members(value))]
    if callable(value):
        return [f"{name}{signature(value)}"]
    return [f"module {name}" if inspect.ismodule(value) else name]


def members(cls: type) -> list[str]:
    """Public methods and properties of a class, with those of base classes of this package."""
    found: dict[str, str] = {}
    for base in cls.__mro__:
        if not base.__module__.startswith("hnbayes"):
            continue
        for name, value in vars(base).items():
            if name.startswith("_") or name in found:
                continue
            if isinstance(value, property):
                found[name] = name
            elif isinstance(value, (staticmethod, classmethod)) or inspect.isfunction(value):
                found[name] = f"{name}{signature(getattr(cls, name))}"
    return [found[name] for name in sorted(found)]


def signature(value: Any) -> str:
    """Parameters with their defaults, without annotations; "(...)" where Python can't tell."""
    try:
        found = inspect.signature(value)
    except ValueError:
        return "(...)"
    bare = [p.replace(annotation=p.empty, default=_default(p.default)) for p in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=found.empty))


class _Text:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _default(value: Any) -> Any:
    """A default whose text holds no address and no version: functions and classes by their names."""
    if callable(value) and value is not inspect.Parameter.empty:
        return _Text(getattr(value, "__qualname__", type(value).__name__))
    return value


if __name__ == "__main__":
    STORED.write_text(listing(), encoding="utf-8")
