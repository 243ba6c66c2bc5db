r"""Docstrings as reStructuredText: they are written for a terminal, with `code` and \(formulas\) in plain text."""

from __future__ import annotations

import re

# What must reach the page as it is: examples, up to the next empty line; code; and formulas, which may go over several
# lines.
_KEPT = re.compile(r"(^ *>>> .*?(?=\n\s*\n|\Z)|``.+?``|`[^`]+`|\\\(.+?\\\)|\\\[.+?\\\])", re.DOTALL | re.MULTILINE)
_MARKUP = re.compile(r"([*|]|(?<=\w)_(?!\w))")


def to_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring with formulas as the role `math`, and what would be markup by chance escaped."""
    pieces = _KEPT.split("\n".join(lines))
    return "".join(_kept(p) if i % 2 else _MARKUP.sub(r"\\\1", p) for i, p in enumerate(pieces)).split("\n")


def _kept(piece: str) -> str:
    if not piece.startswith("\\"):
        return piece
    # A line that begins with a role is a line of its own to napoleon's sections: indentation stays as it was.
    return f":math:`{piece[2:-2].strip()}`"
