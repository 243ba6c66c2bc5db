"""From the command line to an exit code."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hnbayes.cli.arguments import parser
from hnbayes.cli.errors import InputError

# Imported when they are called, so that --help and wrong arguments are answered quickly.
COMMANDS = {"sample": "sampling", "diagnose": "diagnosing", "predict": "predicting", "report": "reporting"}
DONE, BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 0, 2, 130, 141


@dataclass(frozen=True)
class Result:
    """What a command has to say.

    Attributes:
        text: for people.
        data: for programs, as JSON.
        code: the exit code.
    """

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    code: int = DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments; those of the process if not given.

    Returns:
        The exit code: 0 done, 2 input that can't be used, 3 a verdict of "stop" under --strict, 130 interrupted, 141
        whoever reads the output has stopped reading, as `head` does.

    Example:
        >>> from hnbayes.cli import main
        >>> columns = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 4.0]])
        >>> np.savetxt("data.csv", columns, delimiter=",", header="x,y", comments="")
        >>> main(["sample", "data.csv", "--target", "z", "--out", "run"])  # there is no such column
        2
    """
    try:
        try:
            return _main(argv)
        finally:
            # Now, while its failure can be answered; after --help too, which leaves by an exception.
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at exit, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    command = importlib.import_module(f"hnbayes.cli.{COMMANDS[args.command]}")
    try:
        result: Result = command.run(args)
    except InputError as error:
        print(f"hnbayes {args.command}: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, a folder that can't be written to
        print(f"hnbayes {args.command}: {error.strerror or error}: {error.filename}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"hnbayes {args.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    if args.json:
        print(json.dumps(result.data, indent=2, allow_nan=False))
    elif not args.quiet:
        print(result.text)
    return result.code
