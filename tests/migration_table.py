"""The table of docs/migration.md: where each documented name lives.

    python tests/migration_table.py     # writes it into the page

`tests/data/contract.json` holds the documented names and signatures.
"""

from __future__ import annotations

import importlib
import json
import pathlib

CONTRACT = pathlib.Path(__file__).parent / "data" / "contract.json"
PAGE = pathlib.Path(__file__).parent.parent / "docs" / "migration.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def contract() -> dict[str, dict[str, dict]]:
    """Documented module -> name -> what is documented of it."""
    return json.loads(CONTRACT.read_text())


def table() -> str:
    """One line a name: its documented path, and the module that it lives in."""
    lines = ["| before | now | lives in |", "|---|---|---|"]
    for module, names in contract().items():
        imported = importlib.import_module(f"hnbayes.utils.{module}")
        for name in names:
            home = getattr(imported, name).__module__
            lines.append(f"| `hypnettorch.utils.{module}.{name}` | `hnbayes.utils.{module}.{name}` | `{home}` |")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """The page with its table renewed."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
