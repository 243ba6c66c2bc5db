"""Options of the statistical suite; see docs/verification.md."""

from __future__ import annotations


def pytest_addoption(parser):
    group = parser.getgroup("statistics")
    group.addoption("--statistical-seed", type=int, default=0, help="seed of the statistical tests (default 0)")
    group.addoption(
        "--statistical-out",
        default=None,
        help="folder for the table and figures (default out/verification with -m statistical, else none)",
    )
