"""The pages of the reference, one for each public module, made from `__all__` when the site is built."""

from __future__ import annotations

import importlib
import inspect
import pathlib
from types import ModuleType
from typing import Any

from tests.public_api import homes, public_modules


def write_pages(folder: pathlib.Path) -> None:
    """Write `<module>.rst` for each public module, and `index.rst`; leave alone what hasn't changed."""
    modules = [importlib.import_module(name) for name in public_modules()]
    home = homes()
    pages = {module.__name__: page(module, home) for module in modules}
    pages["index"] = index(modules)
    folder.mkdir(exist_ok=True)
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in folder.glob("*.rst"):
        if path.stem not in pages:
            path.unlink()


def page(module: ModuleType, home: dict[int, str]) -> str:
    """One module: what it is, links to what is described elsewhere, and the rest."""
    here, elsewhere = [], []
    for name in sorted(module.__all__, key=str.lower):
        value = getattr(module, name)
        full = f"{module.__name__}.{name}"
        if isinstance(value, ModuleType):
            elsewhere.append(f"- :doc:`{name} <{value.__name__}>`")
        elif not _described(value):
            elsewhere.append(f"- ``{name}``")
        elif home[id(value)] == full:
            here += ["", f".. auto{'class' if inspect.isclass(value) else 'function'}:: {full}"]
        else:
            elsewhere.append(f"- :obj:`{name} <{home[id(value)]}>`")
    title = module.__name__
    links = ["", "Described elsewhere:" if here else "All of it is described elsewhere:", "", *elsewhere]
    lines = [title, "=" * len(title), "", f".. automodule:: {title}", "   :no-members:", *(links if elsewhere else ())]
    return "\n".join([*lines, *here]) + "\n"


def index(modules: list[ModuleType]) -> str:
    """The table of all modules."""
    lines = [
        "Reference",
        "=========",
        "",
        "Every public name, module by module. Sizes of tensors are written as (chains, draws, ...) or by letters that "
        "the text explains. Examples run in the tests; they presume ``import torch``, ``import numpy as np`` and "
        "``import hnbayes``.",
        "",
        ".. list-table::",
        "   :widths: 30 70",
        "",
    ]
    for module in modules:
        summary = (module.__doc__ or "").split("\n")[0]
        lines += [f"   * - :doc:`{module.__name__}`", f"     - {summary}"]
    names = [f"   {module.__name__}" for module in modules]
    return "\n".join([*lines, "", ".. toctree::", "   :hidden:", "", *names]) + "\n"


def _described(value: Any) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value)
