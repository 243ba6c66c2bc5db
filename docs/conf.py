"""The site: `sphinx-build -W --keep-going docs out/site`."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

DOCS = pathlib.Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

from docstrings import to_rst  # noqa: E402 - both are found by the lines above
from reference_pages import write_pages  # noqa: E402

import hnbayes  # noqa: E402

project = "hnbayes"
author = "The hnbayes developers"
copyright = "The hnbayes developers"
release = version = hnbayes.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["images"]

html_theme = "furo"
html_title = f"hnbayes {release}"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # docstrings say what arguments are, with their shapes
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# In docstrings and tables of the reference `name` is code, as it is in Markdown.
default_role = "code"
rst_prolog = ".. |colon| replace:: :"


def _docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines)
    if what in ("property", "attribute", "data") and lines:
        # To napoleon what stands before a colon is a type here.
        lines[0] = lines[0].replace(": ", "\\ |colon| ")


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Whether to leave a member out: those that scikit-learn writes for its estimators link to its own pages."""
    return True if str(getattr(obj, "__module__", "")).startswith("sklearn.") else None


def setup(app: Any) -> None:
    """Write the pages of the reference before they are read; docstrings become reStructuredText before napoleon."""
    app.connect("builder-inited", lambda app: write_pages(DOCS / "reference"))
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _docstring, priority=100)
