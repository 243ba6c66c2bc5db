"""Options of how networks are initialised."""

from __future__ import annotations

import argparse

from hnbayes.training.arguments.option import Group, Option, add_group, choose

OPTIONS = (
    Option("custom_network_init", bool, "Initialise networks by the script's own rule, not by that of their layers."),
    Option("normal_init", bool, "Draw all weights from a normal distribution of mean 0."),
    Option("std_normal_init", float, "Standard deviation that `normal_init` draws with.", default=0.02),
    Option("std_normal_temb", float, "Standard deviation of new task embeddings.", default=1.0),
    Option("std_normal_emb", float, "Standard deviation of new chunk embeddings.", default=1.0),
    Option(
        "hyper_fan_init",
        bool,
        "Initialise the hypernetwork so that the weights it makes have the variance that those of the main network "
        "should start with.",
    ),
)


def init_args(
    parser: argparse.ArgumentParser,
    custom_option: bool = True,
    show_normal_init: bool = True,
    show_hyper_fan_init: bool = False,
) -> Group:
    """Add the options of initialisation; `std_normal_temb` and `std_normal_emb` are always among them.

    Args:
        parser: the parser.
        custom_option: offer `custom_network_init`.
        show_normal_init: offer `normal_init` and `std_normal_init`.
        show_hyper_fan_init: offer `hyper_fan_init`.

    Returns:
        The group, to which more options can be added.

    Raises:
        TypeError: if `parser` is no parser.
        ValueError: if it has an option of these names.

    Example:
        >>> import argparse
        >>> from hnbayes.training.arguments import init_args
        >>> parser = argparse.ArgumentParser()
        >>> group = init_args(parser)
        >>> parser.parse_args(["--normal_init"]).normal_init
        True
    """
    show = {
        "custom_network_init": custom_option,
        "normal_init": show_normal_init,
        "std_normal_init": show_normal_init,
        "hyper_fan_init": show_hyper_fan_init,
    }
    return add_group(parser, "Initialisation", choose(OPTIONS, show))
