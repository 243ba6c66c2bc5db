"""`hnbayes report`: one self-contained HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hnbayes._version import __version__
from hnbayes.cli.collecting import collect, diagnosis
from hnbayes.cli.evidence import Evidence
from hnbayes.cli.html import page
from hnbayes.cli.main import Result
from hnbayes.cli.pictures import pictures
from hnbayes.cli.runs import read_groups
from hnbayes.cli.sampling import MEANINGS

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def run(args: argparse.Namespace) -> Result:
    """Write the page.

    Raises:
        InputError: if the file is no posterior.
    """
    output = args.output or args.posterior.with_name("report.html")
    evidence = collect(args.posterior)
    report = diagnosis(args.posterior, evidence)
    shown = evidence if evidence is not None else _of_groups(args.posterior)
    title = f"Posterior of {shown.target}" if shown.target else f"Posterior in {args.posterior.name}"
    rows = [(name, f"{value:.4g}", MEANINGS.get(name, "")) for name, value in shown.scores.items()]
    tables = [("Scores on held-out rows", ("score", "value", "meaning"), rows)] if rows else []
    text = page(title, report, shown.facts, tables, pictures(shown), f"Made by hnbayes {__version__}.")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    data = {"report": str(output), "verdict": report.verdict}
    return Result(f"verdict: {report.verdict}; the page is {output}", data)


def _of_groups(path: Path) -> Evidence:
    """What can be drawn of a file that doesn't describe its network."""
    groups = read_groups(path)
    posterior, stats = groups["posterior"], groups.get("sample_stats")
    chains, draws = (posterior.sizes.get(name, 0) for name in ("chain", "draw"))
    variables = ", ".join(str(name) for name in posterior.data_vars)
    return Evidence(
        stats={} if stats is None else {str(name): stats[name].values for name in stats.data_vars},
        facts={"draws": f"{chains} chains of {draws}", "variables": variables},
    )
