"""`hnbayes diagnose`: whether the draws in a file can be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hnbayes.cli.collecting import diagnosis, evidence_of
from hnbayes.cli.main import DONE, Result
from hnbayes.cli.runs import load, read_recipe

if TYPE_CHECKING:
    import argparse

STOP = 3


def run(args: argparse.Namespace) -> Result:
    """Check the draws.

    Raises:
        InputError: if the file is no posterior.
    """
    known = read_recipe(args.posterior) is not None
    report = diagnosis(args.posterior, evidence_of(load(args.posterior), pictures=False) if known else None)
    code = STOP if args.strict and report.verdict == "stop" else DONE
    return Result(str(report), {"posterior": str(args.posterior), **report.to_dict()}, code)
