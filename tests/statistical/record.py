"""What the checks of a run have found: a table as text, CSV and JSON, and the figures."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from checks import LEVEL, MAX_CHECKS
from numpy.typing import NDArray


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        test: which kind of test.
        sampler: the row of the table, or the mutant.
        what: the problem.
        quantity: what was checked.
        p: its p-value; for criteria without one, 1 if met and 0 if not.
        mutant: whether it has to be rejected (the test as a whole, not each quantity).
    """

    test: str
    sampler: str
    what: str
    quantity: str
    p: float
    mutant: bool


@dataclass
class Record:
    """The checks of a run.

    Attributes:
        seed: of the run.
        checks: in order.
        ranks: (sampler, problem) -> names, ranks, possible.
        scores: of posteriors: rows of name, parameter, z.
        efficiency: rows of sampler, problem, ESS per gradient.
        notes: criteria without a level, of posteriors: name, criterion, whether it is met.
        began: time.
    """

    seed: int
    checks: list[Check] = field(default_factory=list)
    ranks: dict[tuple[str, str], tuple[tuple[str, ...], NDArray[np.int64], int]] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    efficiency: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    began: float = 0.0

    def add(self, test: str, sampler: str, what: str, p_values: Mapping[str, float], mutant: bool = False) -> None:
        """Keeps p-values by quantity."""
        self.checks += [Check(test, sampler, what, name, float(p), mutant) for name, p in p_values.items()]

    def hold(self, test: str, sampler: str, what: str, p_values: Mapping[str, float]) -> None:
        """Keeps the p-values of a right sampler; raises AssertionError if one is below the level."""
        self.add(test, sampler, what, p_values)
        worst = min(p_values, key=lambda name: p_values[name])
        right = sum(not check.mutant for check in self.checks)
        assert right <= MAX_CHECKS, f"{right} checks; raise MAX_CHECKS, which lowers the level of each"
        assert p_values[worst] >= LEVEL, f"{test} of {sampler} on {what}: {worst} has p = {p_values[worst]:.1e}"

    def reject(self, test: str, mutant: str, what: str, p_values: Mapping[str, float]) -> None:
        """Keeps the p-values of a mutant; raises AssertionError unless one is below the level."""
        self.add(test, mutant, what, p_values, mutant=True)
        worst = min(p_values, key=lambda name: p_values[name])
        assert p_values[worst] < LEVEL, f"{test} doesn't see {mutant} on {what}: {worst} has p = {p_values[worst]:.1e}"

    def rows(self) -> list[dict[str, Any]]:
        """One row for each test, sampler and problem."""
        groups: dict[tuple[str, str, str, bool], list[Check]] = {}
        for check in self.checks:
            groups.setdefault((check.test, check.sampler, check.what, check.mutant), []).append(check)
        rows = []
        for (test, sampler, what, mutant), checks in groups.items():
            worst = min(checks, key=lambda check: check.p)
            rejected = worst.p < LEVEL
            row = {"test": test, "sampler": sampler, "problem": what, "kind": "mutant" if mutant else "sampler"}
            row |= {"checks": len(checks), "smallest_p": worst.p, "of": worst.quantity}
            rows.append(row | {"as_it_should": rejected == mutant})
        return rows

    def summary(self) -> str:
        """A line for each kind of test."""
        rows = self.rows()
        lines = [f"{'test':<28}{'samplers':>9}{'checks':>8}{'smallest p':>12}{'mutants':>9}{'rejected':>9}"]
        for test in dict.fromkeys(row["test"] for row in rows):
            right = [row for row in rows if row["test"] == test and row["kind"] == "sampler"]
            mutants = [row for row in rows if row["test"] == test and row["kind"] == "mutant"]
            least = min((row["smallest_p"] for row in right), default=1.0)
            lines.append(
                f"{test:<28}{len(right):>9}{sum(row['checks'] for row in right):>8}{least:>12.1e}{len(mutants):>9}"
                f"{sum(row['as_it_should'] for row in mutants):>9}"
            )
        for criterion in dict.fromkeys(note["criterion"] for note in self.notes):
            missed = [note["posterior"] for note in self.notes if note["criterion"] == criterion and not note["met"]]
            asked = sum(note["criterion"] == criterion for note in self.notes)
            lines.append(
                f"references with {criterion}: {asked - len(missed)} of {asked}; not {', '.join(missed) or '-'}"
            )
        right = sum(not check.mutant for check in self.checks)
        minutes = (time.time() - self.began) / 60
        lines.append(
            f"seed {self.seed}, {right} checks of at most {MAX_CHECKS}, level of each {LEVEL:.1e}, "
            f"{minutes:.1f} minutes"
        )
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Writes summary.txt, summary.csv, checks.json, ranks.npz and the figures."""
        from pictures import draw_all

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.txt").write_text(self.summary() + "\n")
        rows = self.rows()
        with (folder / "summary.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        content = {"seed": self.seed, "level": LEVEL, "checks": [asdict(check) for check in self.checks]}
        content |= {"scores": self.scores, "efficiency": self.efficiency, "notes": self.notes}
        (folder / "checks.json").write_text(json.dumps(content, indent=1))
        draw_all(self, folder)
