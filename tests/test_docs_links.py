"""Relative links of README and pages lead to files of the repository, and each page has its place on the site."""

from __future__ import annotations

import re

import pytest
from pages import DOCS, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]+)")


def broken(page):
    # A page says on GitHub what it says on the site: no link to what is made when the site is built.
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [link for link in LINK.findall(text) if not (page.parent / link).is_file()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_a_broken_link_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("[a](page.md), [b](nowhere.md#part), [c](https://example.org), ![d](images/no.png)")
    assert broken(page) == ["nowhere.md", "images/no.png"]


def test_each_page_is_on_the_site_once():
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), re.DOTALL)
    entries = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert sorted(entries) == sorted([p.stem for p in DOCS.glob("*.md") if p.stem != "index"] + ["reference/index"])
