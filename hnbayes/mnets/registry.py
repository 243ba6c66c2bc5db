"""Networks by name: `get_mnet_model` builds what a command line describes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from hnbayes.mnets.mnet_interface import MainNetInterface
from hnbayes.mnets.options import named_activation

Shape = Sequence[int] | None


class Config:
    """The options of one network on a command line.

    Args:
        namespace: an argparse.Namespace, or any object with such attributes.
        prefix: what option names begin with; None for nothing.
    """

    def __init__(self, namespace: Any, prefix: str | None = None) -> None:
        self._namespace = namespace
        self._prefix = prefix or ""

    def get(self, name: str, default: Any) -> Any:
        """An option, or the default where the command line doesn't have it."""
        return getattr(self._namespace, self._prefix + name, default)

    def require(self, name: str) -> Any:
        """An option that must be there.

        Raises:
            ValueError: if it isn't.
        """
        if not hasattr(self._namespace, self._prefix + name):
            raise ValueError(f"config must have the option {self._prefix + name}; received {self._namespace!r}.")
        return self.get(name, None)

    def ints(self, name: str, default: Any = "") -> list[int]:
        """An option such as "10,20" as integers; empty text is an empty list.

        Raises:
            ValueError: if it is something else.
        """
        value = self.get(name, default)
        if isinstance(value, int):
            return [value]
        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
        try:
            return [int(part) for part in parts if part != ""]
        except ValueError as error:
            raise ValueError(
                f"the option {self._prefix + name} must be integers such as 10,20; received {value!r}."
            ) from error

    def activation(self, name: str = "net_act", default: str = "relu") -> nn.Module | None:
        """An activation function by its name; None for "linear".

        Raises:
            ValueError: if the name is unknown.
        """
        return named_activation(name, self.get(name, default))

    def batch_norm(self) -> dict[str, bool]:
        """Batch normalisation as constructor arguments."""
        use = not self.get("no_batchnorm", True) or bool(self.get("batchnorm", False))
        return {
            "use_batch_norm": use,
            "bn_track_stats": not self.get("bn_no_running_stats", False),
            "distill_bn_stats": use and bool(self.get("bn_distill_stats", False)),
        }


Builder = Callable[..., MainNetInterface]
AnyBuilder = TypeVar("AnyBuilder", bound=Callable[..., Any])
BUILDERS: dict[str, Builder] = {}


def register(net_type: str) -> Callable[[Builder], Builder]:
    """Make a builder known under a name.

    A builder takes a `Config`, in_shape, out_shape and keyword arguments of the network, which override what it reads
    from the configuration.

    Raises:
        ValueError: if the name is taken.
    """
    return registering(BUILDERS, "network", net_type)


def registering(builders: dict[str, AnyBuilder], what: str, net_type: str) -> Callable[[AnyBuilder], AnyBuilder]:
    """A decorator that enters a builder in a table of builders of networks of a kind."""

    def add(builder: AnyBuilder) -> AnyBuilder:
        if net_type in builders:
            raise ValueError(f"the {what} type {net_type!r} is registered already.")
        builders[net_type] = builder
        return builder

    return add


def get_mnet_model(
    config: Any,
    net_type: str,
    in_shape: Shape,
    out_shape: Shape,
    device: torch.device | str,
    cprefix: str | None = None,
    no_weights: bool = False,
    **mnet_kwargs: Any,
) -> Any:
    """Build a main network from command-line options.

    Args:
        config: the parsed command line, with options as `cli_args.main_net_args` adds them; options that aren't there
            have their defaults.
        net_type: "mlp", "lenet", "resnet", "wrn", "iresnet", "zenke", "bio_conv_net", "chunked_mlp" or "simple_rnn", or
            a name that another network was registered under.
        in_shape: shape of an input.
        out_shape: shape of an output.
        device: where the network goes.
        cprefix: what the options' names begin with.
        no_weights: whether all weights come from outside.
        **mnet_kwargs: further arguments of the network, before those of the command line.

    Returns:
        The network.

    Raises:
        ValueError: if the type is unknown, or options don't fit.

    Example:
        >>> import argparse
        >>> config = argparse.Namespace(mlp_arch="10,10", net_act="tanh")
        >>> net = hnbayes.mnets.get_mnet_model(config, "mlp", [2], [1], "cpu", verbose=False)
        >>> net.param_shapes[0]
        [10, 2]
    """
    if net_type not in BUILDERS:
        raise ValueError(f"net_type must be one of {', '.join(sorted(BUILDERS))}; received {net_type!r}.")
    net: Any = BUILDERS[net_type](Config(config, cprefix), in_shape, out_shape, no_weights=no_weights, **mnet_kwargs)
    return net.to(device)


def flat_size(name: str, shape: Shape) -> int:
    """The number of values of a shape that must be given.

    Raises:
        ValueError: if it isn't.
    """
    if shape is None or len(shape) == 0:
        raise ValueError(f"{name} must be given for this network; received {shape}.")
    return math.prod(int(n) for n in shape)


def image_shape(shape: Shape) -> Sequence[int]:
    """(height, width, channels).

    Raises:
        ValueError: if it is something else.
    """
    if shape is None or len(shape) != 3:
        raise ValueError(f"in_shape must be (height, width, channels) for this network; received {shape}.")
    return shape
