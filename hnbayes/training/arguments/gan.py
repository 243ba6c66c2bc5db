"""Options of generators, and of generator and discriminator together."""

from __future__ import annotations

import argparse
import warnings

from hnbayes._checks import describe
from hnbayes.training.arguments.network_options import OWN_OPTIONS, shared_options
from hnbayes.training.arguments.option import Group, Option, add_group, choose

OPTIONS = (
    Option("latent_dim", int, "Size of the noise that a generator starts from."),
    Option("latent_std", float, "Standard deviation of that noise.", default=1.0),
)
# The two networks of a GAN: what their options' names begin with.
PREFIXES = ("gen_", "dis_")


def generator_args(agroup: Group, dlatent_dim: int = 3) -> None:
    """Add the options of a generator to a group of options.

    Args:
        agroup: the group, such as `main_net_args` returns, or a parser.
        dlatent_dim: default of `latent_dim`.

    Raises:
        TypeError: if `agroup` takes no options.
        ValueError: if it has an option of these names.

    Example:
        >>> import argparse
        >>> from hnbayes.training.arguments import generator_args
        >>> parser = argparse.ArgumentParser()
        >>> generator_args(parser.add_argument_group("generator"), dlatent_dim=2)
        >>> parser.parse_args([]).latent_dim
        2
    """
    if not hasattr(agroup, "add_argument"):
        raise TypeError(f"agroup must be a group of options, as main_net_args returns; received {describe(agroup)}.")
    for option in choose(OPTIONS, defaults={"latent_dim": dlatent_dim}):
        option.add_to(agroup)


def gan_args(parser: argparse.ArgumentParser) -> Group:
    """Add the options of a generator (`gen_...`) and a discriminator (`dis_...`), both MLPs, and of the latent noise.

    Deprecated: `main_net_args` with a prefix, and `generator_args`, do the same for any network.

    Args:
        parser: the parser.

    Returns:
        The group, to which more options can be added.

    Raises:
        TypeError: if `parser` is no parser.
        ValueError: if it has an option of these names.

    Example:
        >>> import argparse, warnings
        >>> from hnbayes.training.arguments import gan_args
        >>> parser = argparse.ArgumentParser()
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", DeprecationWarning)
        ...     group = gan_args(parser)
        >>> parser.parse_args(["--latent_dim", "5"]).latent_dim
        5
    """
    warnings.warn(
        "gan_args is deprecated: use main_net_args with a prefix for each network, and generator_args.",
        DeprecationWarning,
        stacklevel=2,
    )
    group = add_group(parser, "Generator and discriminator", [])
    options = [*choose(OWN_OPTIONS["mlp"], defaults={"mlp_arch": "100,100"}), *shared_options()]
    for prefix in PREFIXES:
        for option in options:
            option.add_to(group, prefix)
    generator_args(group)
    return group
