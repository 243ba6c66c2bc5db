"""The site: docstrings become reStructuredText as they should, every public name has its place, and it builds."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest
from pages import DOCS, ROOT

from tests.public_api import homes, public_modules

sys.path.insert(0, str(DOCS))
docstrings, reference_pages = (importlib.import_module(name) for name in ("docstrings", "reference_pages"))
sys.path.remove(str(DOCS))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("of shape (*batch, N)", r"of shape (\*batch, N)"),
        ("p(y | x), and `a * b | c`", r"p(y \| x), and `a * b | c`"),
        (r"a scale \(\sigma_i > 0\), fixed", r"a scale :math:`\sigma_i > 0`, fixed"),
        ("init_params and xavier_fan_in_ of w", r"init_params and xavier_fan_in\_ of w"),
        ("**options: as for `f(**x)`", r"\*\*options: as for `f(**x)`"),
    ],
)
def test_docstrings_keep_their_meaning(before, after):
    assert docstrings.to_rst([before]) == [after]


def test_formulas_may_go_over_lines():
    given = [r"is \(a +", r"    b\).", "", "c * d"]
    assert docstrings.to_rst(given) == ["is :math:`a +", "    b`.", "", r"c \* d"]


def test_examples_stay_as_they_are():
    given = ["Draws (C, S, *shape).", "", "Example:", "    >>> f(*x, **y)  # `p_` | q", "    [a_, *b]", "", "a * b"]
    assert docstrings.to_rst(given) == [r"Draws (C, S, \*shape).", *given[1:-1], r"a \* b"]


def test_formulas_become_mathml():
    pytest.importorskip("latex2mathml")
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(DOCS))
    to_mathml = importlib.import_module("mathml").to_mathml
    sys.path.remove(str(DOCS))
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><msub><mi>b</mi><mi>i</mi></msub></mrow></mfrac>" in to_mathml(
        r"\frac{a}{b_i}", "inline"
    )
    assert 'display="block"' in to_mathml("a", "block")
    assert '<mi>log</mi><mspace width="0.17em" /><mi>p</mi>' in to_mathml(r"\log p", "inline")
    assert "<msub><mi>log</mi><mn>2</mn></msub>" in to_mathml(r"\log_2 p", "inline")
    with pytest.raises(ValueError, match="not known"):
        to_mathml(r"\nosuchcommand a", "inline")


def test_every_public_name_is_described_once():
    home = homes()
    pages = {name: reference_pages.page(importlib.import_module(name), home) for name in public_modules()}
    directive = re.compile(r"^\.\. auto(?:class|function):: (\S+)", re.MULTILINE)
    written = [full for text in pages.values() for full in directive.findall(text)]
    assert sorted(written) == sorted(home.values())
    for name, text in pages.items():
        for public in importlib.import_module(name).__all__:
            assert re.search(rf"(:: {name}\.{public}$|- (:obj:|:doc:)?`+{public}[ `])", text, re.M), f"{name}.{public}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    pytest.importorskip("latex2mathml")
    command = f"-m sphinx -q -W --keep-going -d {tmp_path / 'trees'} {DOCS} {tmp_path / 'site'}"
    result = subprocess.run([sys.executable, *command.split()], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "site" / "reference" / "hnbayes.posterior.html").read_text(encoding="utf-8")
    assert 'id="hnbayes.posterior.sample"' in page
