"""Formulas as MathML, written when the site is built: they need no script, and so no network to read them."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)

# A function's name before its argument, where TeX sets a thin space; not where it is the base of an index.
_APPLIED = re.compile(r"(?<!<msub>)(?<!<msup>)(<mi>(?:cos|exp|log)</mi>)(?=<m(?:i|n|sub|sup|frac)\b)")


def to_mathml(latex: str, display: str) -> str:
    """A formula as MathML.

    Args:
        latex: the formula.
        display: "inline" or "block".

    Raises:
        ValueError: if it holds a command that is not known.
    """
    markup = convert(latex, display=display)
    if "\\" in markup:
        raise ValueError(f"a formula holds a command that is not known: {latex}")
    return _APPLIED.sub(r'\1<mspace width="0.17em" />', markup)


def _visit(self: Any, node: nodes.Element) -> None:
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    try:
        markup = to_mathml(node.astext(), display)
    except Exception as error:  # the converter raises many kinds, each on what LaTeX would refuse too
        logger.warning("%s", error, location=node)
        markup = self.encode(node.astext())
    self.body.append(markup)
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Offer the renderer to `html_math_renderer`."""
    app.add_html_math_renderer("mathml", inline_renderers=(_visit, None), block_renderers=(_visit, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
