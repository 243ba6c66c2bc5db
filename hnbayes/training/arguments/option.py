"""`Option`, one row of a table of command-line options, and the builder that adds rows to a parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hnbayes._checks import check_choice, describe

if TYPE_CHECKING:
    Group = argparse._ArgumentGroup
else:
    Group = object

# What stands for a value in a help text.
PLACEHOLDERS = {int: "N", float: "X", str: "TEXT"}


@dataclass(frozen=True)
class Option:
    """One option of a command line.

    Attributes:
        name: its name without dashes and prefix, which is also the attribute of the parsed namespace.
        kind: bool for a flag, which is False unless given; else the type of its value.
        help: what it does; the default is added by the builder.
        default: its value where it isn't given. Functions that let their caller choose it replace it.
        choices: the values it may have; None for any.
        placeholder: what stands for the value in the help text; None for one that fits the kind.
    """

    name: str
    kind: type
    help: str
    default: Any = None
    choices: tuple[str | int, ...] | None = None
    placeholder: str | None = None

    def add_to(self, group: Any, prefix: str = "") -> None:
        """Add the option to a group, as `--<prefix><name>`.

        Raises:
            ValueError: if the parser has an option of that name, or the default is none of the choices.
        """
        name = prefix + self.name
        settings: dict[str, Any] = {"dest": name, "help": self.help}
        if self.kind is bool:
            settings["action"] = "store_true"
        else:
            if self.choices is not None:
                check_choice(f"the default of {name}", self.default, self.choices)
            shown = "none" if self.default == "" else "%(default)s"
            settings |= {"type": self.kind, "default": self.default, "choices": self.choices}
            settings["help"] = f"{self.help.removesuffix('.')} (default: {shown})."
            if self.choices is None:
                settings["metavar"] = self.placeholder or PLACEHOLDERS[self.kind]
        try:
            group.add_argument(f"--{name}", **settings)
        except argparse.ArgumentError as error:
            raise ValueError(
                f"the parser must not have an option --{name} yet; it has one. Tell networks apart by a prefix."
            ) from error


def choose(
    table: Iterable[Option], show: Mapping[str, bool] | None = None, defaults: Mapping[str, Any] | None = None
) -> list[Option]:
    """The rows of a table that are to be shown, with the caller's defaults.

    Args:
        table: the rows.
        show: name -> whether it is shown; those that aren't named are.
        defaults: name -> default; those that aren't named keep the table's.
    """
    show, defaults = show or {}, defaults or {}
    return [
        replace(option, default=defaults.get(option.name, option.default))
        for option in table
        if show.get(option.name, True)
    ]


def add_group(parser: argparse.ArgumentParser, title: str, options: Sequence[Option], prefix: str = "") -> Group:
    """Add a group of options to a parser.

    Args:
        parser: the parser.
        title: the group's, in the help text.
        options: the group's options, in their order.
        prefix: what their names begin with.

    Returns:
        The group.

    Raises:
        TypeError: if `parser` is no parser.
        ValueError: if the parser has an option of a name already, or a default is none of its option's choices.
    """
    if not isinstance(parser, argparse.ArgumentParser):
        raise TypeError(f"parser must be an argparse.ArgumentParser; received {describe(parser)}.")
    group = parser.add_argument_group(title)
    for option in options:
        option.add_to(group, prefix)
    return group


def group_title(what: str, called: str | None) -> str:
    """The title of a network's group of options, with the name that tells it from others of its kind."""
    return what if called is None else f"{what}: {called}"


def check_prefix(prefix: str | None) -> str:
    """A prefix of option names as text; None means none.

    Raises:
        TypeError: if it is no text.
        ValueError: if no name could begin with it.
    """
    if prefix is None:
        return ""
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be text such as 'gen_', or None; received {describe(prefix)}.")
    if prefix and not prefix.isidentifier():
        raise ValueError(
            f"prefix must be letters, digits and underscores, such as 'gen_'; received {describe(prefix)}."
        )
    return prefix


def check_allowed(allowed: Sequence[str], known: Iterable[str]) -> list[str]:
    """The network types that a caller allows, each once.

    Raises:
        TypeError: if they are no list.
        ValueError: if there are none, or one is unknown.
    """
    if isinstance(allowed, str) or not isinstance(allowed, Sequence):
        raise TypeError(f"allowed_nets must be a list of names; received {describe(allowed)}.")
    if not allowed:
        raise ValueError(f"allowed_nets must name at least one of {', '.join(known)}; received none.")
    known = tuple(known)
    return list(dict.fromkeys(check_choice("each of allowed_nets", name, known) for name in allowed))
