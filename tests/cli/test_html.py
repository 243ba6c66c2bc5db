"""The page is one file, escapes names, and shows every check and picture."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from hnbayes.cli.evidence import Evidence, HeldOut, Slice
from hnbayes.cli.html import Picture, page
from hnbayes.cli.pictures import pictures

C, S, N = 2, 60, 12
EVIL = '<script>alert("x")</script>&\'"'
RNG = np.random.default_rng(0)


class Reader(HTMLParser):
    """Tags in order, those not closed, text, and what is fetched from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.fetched = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href") and not value.startswith("data:")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def evidence():
    functions = RNG.normal(size=(C, S, N))
    stats = {"energy": RNG.normal(size=(C, S)), "diverging": np.ones((C, S), bool), "tree_depth": np.full((C, S), 3)}
    y = RNG.normal(size=N)
    log_likelihood = -0.5 * (functions - y) ** 2
    cut = Slice(np.arange(N), functions, functions, EVIL, prior=functions[:1, :5], observed=(y, y))
    return Evidence(
        stats,
        functions,
        log_likelihood,
        held_out=HeldOut(y, log_likelihood, predictive=functions),
        slice=cut,
        target=EVIL,
    )


def test_the_page_is_whole_escapes_names_and_fetches_nothing(evidence):
    report = evidence.report()
    text = page(EVIL, report, {EVIL: EVIL}, [(EVIL, (EVIL,), [(EVIL,)])], pictures(evidence), EVIL)
    read = Reader(text)
    assert read.open == []
    assert read.fetched == []
    assert "script" not in read.tags
    assert "".join(read.text).count(EVIL) >= 7
    assert not re.search(r"url\(|@import|https?://", text.split("</style>")[0])
    for check in report.checks:
        assert check.name in read.text
        assert check.value in read.text
    assert read.tags.count("img") == len(pictures(evidence)) == 9


def test_the_worst_comes_first_and_notes_are_kept():
    evidence = Evidence({"energy": RNG.normal(size=(C, S)), "diverging": np.ones((C, S), bool)})
    text = page("t", evidence.report(), {}, [], [], "")
    assert text.index("badge stop") < text.index("badge ok")
    assert "Not checked: predictions." in text
    assert "Verdict: stop." in text


def test_pictures_are_inline_png_with_their_caption_as_alternative():
    figure = Figure()
    figure.add_subplot()
    text = page("t", Evidence({"energy": RNG.normal(size=(C, S))}).report(), {}, [], [Picture(figure, "a < b")], "")
    assert 'src="data:image/png;base64,iVBORw0KGgo' in text
    assert 'alt="a &lt; b"' in text


def test_classes_are_drawn_as_reliability(evidence):
    chances = np.full((N, 3), 1 / 3)
    rows = HeldOut(np.arange(N) % 3, evidence.log_likelihood, probabilities=chances)
    found = pictures(Evidence({}, held_out=rows))
    assert [picture.caption.split()[0] for picture in found] == ["Reliability", "Predictive"]
    assert pictures(Evidence({})) == []
