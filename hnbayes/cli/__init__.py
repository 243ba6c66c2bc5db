"""The command `hnbayes`: sample, diagnose, predict, report."""

from hnbayes.cli.main import main

__all__ = ["main"]
