"""One self-contained HTML page: no scripts, no fonts, no pictures from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hnbayes.diagnostics import Report

# Words carry the verdicts; colours only repeat them. Dark text on light tints: contrast above 7 to 1.
STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 70rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #ccc; padding-bottom: .25rem; }
p { margin: .4rem 0; max-width: 46rem; }
.lead { padding: .75rem 1rem; border-left: .4rem solid; }
.ok { background: #e3f1ec; border-color: #009e73; }
.look { background: #fdf1da; border-color: #e69f00; }
.stop { background: #fbe5da; border-color: #d55e00; }
.badge { display: inline-block; min-width: 3.2rem; text-align: center; padding: 0 .4rem; border-radius: .25rem;
  border: 1px solid; font-weight: 600; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid #e4e4e4; }
th, td { overflow-wrap: normal; }
td:last-child { overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.25rem; }
figure { margin: 0; }
figure img { width: 100%; height: auto; }
figcaption { font-size: .9rem; color: #444; }
footer { margin-top: 2rem; font-size: .85rem; color: #555; }
@media (max-width: 40rem) {
  table.checks thead { display: none; }
  table.checks tr { display: block; padding: .5rem 0; border-bottom: 1px solid #ccc; }
  table.checks td { display: block; border: 0; padding: .1rem 0; }
}
@media print { .pictures figure { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Picture:
    """A picture with what it shows.

    Attributes:
        figure: of matplotlib.
        caption: what is to be seen, and how it would look if all were well; also for those who can't see it.
    """

    figure: Figure
    caption: str


def page(
    title: str,
    report: Report,
    facts: Mapping[str, str],
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]],
    pictures: Sequence[Picture],
    footer: str,
) -> str:
    """The page.

    Args:
        title: heading.
        report: the checks.
        facts: what was run: label -> value.
        tables: heading, names of columns, rows of text.
        pictures: in order.
        footer: what made the page.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>",
        f"<h1>{escape(title)}</h1>",
        _headline(report),
        "<h2>Checks</h2>",
        _checks(report),
    ]
    parts += [f"<p>Not checked: {escape(note)}</p>" for note in report.notes]
    for heading, names, rows in tables:
        parts += [f"<h2>{escape(heading)}</h2>", _table(names, rows)]
    if pictures:
        parts += ["<h2>Pictures</h2>", '<div class="pictures">', *map(_picture, pictures), "</div>"]
    parts += ["<h2>The run</h2>", _table((), [list(fact) for fact in facts.items()])]
    parts.append(f"</main><footer>{escape(footer)}</footer></body></html>")
    return "\n".join(parts) + "\n"


def _headline(report: Report) -> str:
    said = {
        "ok": "Every check that could be made is passed: what these draws say can be used.",
        "look": "The draws can be used, with the reservations below.",
        "stop": "Don't rely on these draws yet: see below what to try.",
    }
    verdict = report.verdict
    return f'<p class="lead {verdict}"><strong>Verdict: {verdict}.</strong> {said[verdict]}</p>'


def _checks(report: Report) -> str:
    rows = []
    for check in sorted(report.checks, key=lambda c: ("stop", "look", "ok").index(c.verdict)):
        advice = f"<br><strong>Try:</strong> {escape(check.advice)}" if check.advice else ""
        rows.append(
            f'<tr><td><span class="badge {check.verdict}">{check.verdict}</span></td><td><strong>{escape(check.name)}'
            f"</strong></td><td>{escape(check.value)}</td><td>{escape(_sentence(check.why))}{advice}</td></tr>"
        )
    head = "<thead><tr><th>verdict</th><th>check</th><th>found</th><th>what it means</th></tr></thead>"
    return f'<table class="checks">{head}<tbody>{"".join(rows)}</tbody></table>'


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if names else ''}<tbody>{body}</tbody></table>"


def _cell(text: Any) -> str:
    return f"<td>{escape(str(text))}</td>"


def _picture(picture: Picture) -> str:
    buffer = io.BytesIO()
    picture.figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    caption = escape(picture.caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )
