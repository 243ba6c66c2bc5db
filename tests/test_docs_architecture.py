"""The map in docs/architecture.md is that of the package."""

from __future__ import annotations

import re

from pages import DOCS, ROOT

PACKAGE = ROOT / "hnbayes"
TABLES = re.split(r"\n\n(?=\| (?:room|file) \|)", (DOCS / "architecture.md").read_text(encoding="utf-8"))
ROOMS, FILES = (re.findall(r"^\| (`.*?) \|", table.split("\n\n")[0], re.MULTILINE) for table in TABLES[1:3])


def test_each_room_is_in_the_map_once():
    named = [name for row in ROOMS for name in re.findall(r"`(.*?)`", row)]
    modules = [path.name for path in PACKAGE.glob("*.py") if path.name not in ("__init__.py", "_version.py")]
    packages = [f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")]
    assert sorted(named) == sorted(modules + packages)


def test_what_the_map_names_is_there():
    for row in FILES:
        first, *others = re.findall(r"`(.*?)`", row)
        room = first.split("/")[0]
        assert (PACKAGE / first).exists(), first
        for name in others:
            assert (PACKAGE / room / name).exists() or list((PACKAGE / room).glob(f"*{name}")), name
