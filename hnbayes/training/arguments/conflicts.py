"""check_invalid_argument_usage: options that contradict each other, and options that have no effect."""

from __future__ import annotations

import warnings
from collections import defaultdict
from typing import Any

from hnbayes._checks import describe
from hnbayes.mnets.registry import Config
from hnbayes.training.arguments import continual, data, gan, hypernetworks, initialisation, miscellaneous, optimisation
from hnbayes.training.arguments.network_options import (
    OWN_OPTIONS,
    RECURRENT_ACTIVATIONS,
    SHARED_OPTIONS,
    WITHOUT_EFFECT,
)

TABLES = (
    continual.OPTIONS,
    data.DATA_OPTIONS,
    data.EVALUATION_OPTIONS,
    gan.OPTIONS,
    initialisation.OPTIONS,
    miscellaneous.OPTIONS,
    optimisation.OPTIONS,
    SHARED_OPTIONS,
    *OWN_OPTIONS.values(),
    [option for option, _ in hypernetworks.OWN_OPTIONS],
)
# Longest first: `no_batchnorm` is no `batchnorm` with the prefix "no_".
KNOWN = sorted(
    {option.name for table in TABLES for option in table} | {"net_type", "hnet_type", *hypernetworks.SHARED_NAMES},
    key=len,
    reverse=True,
)
# Options of batch normalisation that exclude each other: running statistics can't be absent, distilled or stored for
# each task at once.
STATISTICS = ("bn_no_running_stats", "bn_distill_stats", "bn_no_stats_checkpointing")


def check_invalid_argument_usage(args: Any) -> None:
    """Check parsed options for contradictions; those of networks with a prefix are checked on their own.

    Errors: several optimisers; gradients clipped by value and by norm; `split_head_cl3` outside scenario 3;
    `batchnorm` and `no_batchnorm`; two of `bn_no_running_stats`, `bn_distill_stats` and `bn_no_stats_checkpointing`; an
    activation that `SimpleRNN` doesn't have. Options that the chosen network doesn't heed give a warning.

    Args:
        args: the parsed command line.

    Raises:
        TypeError: if `args` is no namespace.
        ValueError: at the first contradiction.

    Example:
        >>> import argparse
        >>> from hnbayes.training.arguments import check_invalid_argument_usage, train_args
        >>> parser = argparse.ArgumentParser()
        >>> group = train_args(parser, show_use_adam=True)
        >>> check_invalid_argument_usage(parser.parse_args(["--use_adam"]))
    """
    if not hasattr(args, "__dict__"):
        raise TypeError(f"args must be a namespace, as parse_args returns; received {describe(args)}.")
    for prefix, options in by_prefix(vars(args)).items():
        _check_training(prefix, options)
        _check_scenario(prefix, options)
        _check_batch_norm(prefix, options, Config(args, prefix))
        _check_network(prefix, options)


def by_prefix(attributes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Options by their prefix and their name without it: {"gen_": {"net_act": "relu"}}. Unknown ones are left out."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for attribute, value in attributes.items():
        name = next((known for known in KNOWN if attribute.endswith(known)), None)
        if name is None:
            continue
        prefix = attribute.removesuffix(name)
        if name in hypernetworks.SHARED_NAMES:
            # An option that hypernetworks share with main networks: the same contradictions.
            prefix += hypernetworks.SHARED_PREFIX
            name = name.removeprefix(hypernetworks.SHARED_PREFIX)
        found[prefix][name] = value
    return dict(found)


def _refuse(prefix: str, first: str, second: str, why: str) -> None:
    raise ValueError(f"--{prefix}{first} and --{prefix}{second} must not be given together: {why}. Leave one out.")


def _check_training(prefix: str, options: dict[str, Any]) -> None:
    chosen = [name for name in optimisation.OPTIMISERS if options.get(name)]
    if len(chosen) > 1:
        _refuse(prefix, chosen[0], chosen[1], "there is one optimiser")
    if all(options.get(name) not in (None, -1) for name in ("clip_grad_value", "clip_grad_norm")):
        _refuse(prefix, "clip_grad_value", "clip_grad_norm", "gradients are clipped in one way")


def _check_scenario(prefix: str, options: dict[str, Any]) -> None:
    if options.get("split_head_cl3") and options.get("cl_scenario", 3) != 3:
        raise ValueError(
            f"--{prefix}split_head_cl3 must be given in scenario 3 only; received --{prefix}cl_scenario="
            f"{options['cl_scenario']}. Leave it out, or choose scenario 3."
        )


def _check_batch_norm(prefix: str, options: dict[str, Any], config: Config) -> None:
    if options.get("batchnorm") and options.get("no_batchnorm"):
        _refuse(prefix, "batchnorm", "no_batchnorm", "the network either has batch normalisation or hasn't")
    given = [name for name in STATISTICS if options.get(name)]
    if len(given) > 1:
        _refuse(prefix, given[0], given[1], "running statistics can be treated in one way only")
    decided = "batchnorm" in options or "no_batchnorm" in options
    if given and decided and not config.batch_norm()["use_batch_norm"]:
        _warn(prefix, given[0], "without batch normalisation")


def _check_network(prefix: str, options: dict[str, Any]) -> None:
    net_type = options.get("net_type")
    if net_type is None and "srnn_rec_layers" in options:
        net_type = "simple_rnn"  # the only one allowed: with others there would be a net_type
    activation = options.get("net_act")
    if net_type == "simple_rnn" and activation is not None and activation not in RECURRENT_ACTIVATIONS:
        raise ValueError(
            f"--{prefix}net_act must be one of {', '.join(RECURRENT_ACTIVATIONS)} for a simple_rnn; "
            f"received {describe(activation)}."
        )
    given = {
        "net_act": activation not in (None, "relu"),
        "dropout_rate": options.get("dropout_rate") not in (None, -1),
        "no_bias": bool(options.get("no_bias")),
        "specnorm": bool(options.get("specnorm")),
        "batchnorm": bool(options.get("batchnorm")),
    }
    for name in WITHOUT_EFFECT.get(str(net_type), ()):
        if given[name]:
            _warn(prefix, name, f"on a network of type {net_type}")


def _warn(prefix: str, name: str, where: str) -> None:
    warnings.warn(f"--{prefix}{name} has no effect {where}.", UserWarning, stacklevel=4)
