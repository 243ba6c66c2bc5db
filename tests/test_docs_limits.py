"""What docs/limits.md repeats of other pages is what these say."""

from __future__ import annotations

import re

from pages import DOCS, ROOT


def text(name):
    return re.sub(r"\s+", " ", (DOCS / name).read_text(encoding="utf-8"))


def test_missed_targets_are_those_of_the_table():
    table = (DOCS / "performance.md").read_text(encoding="utf-8").split("## Targets")[1].split("##")[0]
    rows = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("|")][2:]
    verdicts = [row[-1].strip() for row in rows]
    missed = [row[1] for row in rows if row[-1].strip() == "missed"]
    assert all(verdict.startswith(("met", "missed")) for verdict in verdicts)
    assert f"**{len(missed)} of {len(rows)} targets are missed**" in text("limits.md")
    for measured in missed:
        assert re.search(r"[\d.]+", measured)[0] in text("limits.md")


def test_figures_of_tasks_are_those_of_the_table():
    table = (DOCS / "continual.md").read_text(encoding="utf-8")
    cells = {row.split("|")[1].strip(): re.findall(r"([\d.]+) \+-", row) for row in table.splitlines() if "+-" in row}
    best = [cells[name] for name in cells if "chosen" in name]
    low, high = (f(round(float(row[2])) for row in best) for f in (min, max))
    assert f"reach {low} to {high}%, beside {round(float(cells['joint'][2]))}% with all data" in text("limits.md")
    low, high = (f(round(float(row[0])) for row in best) for f in (min, max))
    assert f"they reach {low} to {high}%" in text("limits.md")
    for page in ("limits.md", "explanation.md"):
        assert cells["EWC, strength 1"][0] in text(page)
        assert cells["EWC, chosen strength"][0] in text(page)


def test_agreement_of_chains_is_that_of_the_readme():
    readme = re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    found = re.search(r"R-hat of predictions up to ([\d.]+) and ([\d.]+)\)", readme).groups()
    assert f"is up to {found[0]} and {found[1]}" in text("limits.md")
    assert f"up to {found[0]} on `yacht` and {found[1]} on `airfoil`" in text("explanation.md")
