"""Choices that several networks share: batch normalisation and context modulation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from hnbayes._checks import check_choice, check_positive

# By their names on a command line.
ACTIVATIONS: dict[str, type[nn.Module] | None] = {
    "linear": None,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True)
class BatchNormOptions:
    """Whether there is batch normalisation, whether it tracks statistics, and whether these are to be distilled."""

    use: bool = False
    track: bool = True
    distill: bool = False

    def __post_init__(self) -> None:
        if self.distill and not (self.use and self.track):
            raise ValueError(
                "distill_bn_stats=True needs use_batch_norm=True and bn_track_stats=True; received "
                f"use_batch_norm={self.use} and bn_track_stats={self.track}."
            )


@dataclass(frozen=True)
class ContextModOptions:
    """Where context modulation is applied and whose its weights are; see `MLP` for the meaning of each option."""

    use: bool = False
    inputs: bool = False
    not_last: bool = False
    no_weights: bool = False
    post_activation: bool = False
    gain_offset: bool = False
    gain_softplus: bool = False
    pixel_wise: bool = False

    NAMES = {  # noqa: RUF012 - a constant table
        "use_context_mod": "use",
        "context_mod_inputs": "inputs",
        "no_last_layer_context_mod": "not_last",
        "context_mod_no_weights": "no_weights",
        "context_mod_post_activation": "post_activation",
        "context_mod_gain_offset": "gain_offset",
        "context_mod_gain_softplus": "gain_softplus",
        "context_mod_apply_pixel_wise": "pixel_wise",
    }

    @classmethod
    def from_kwargs(cls, network: str, kwargs: Mapping[str, Any]) -> ContextModOptions:
        """Read the options from keyword arguments by their documented names.

        Raises:
            TypeError: if there is one that `network` doesn't take.
        """
        unknown = sorted(set(kwargs) - set(cls.NAMES))
        if unknown:
            raise TypeError(
                f"{network} takes no argument {', '.join(unknown)}; besides its own it takes {list(cls.NAMES)}."
            )
        return cls(**{cls.NAMES[name]: bool(value) for name, value in kwargs.items()})

    def map_shape(self, channels: int, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of gains and shifts of feature maps of this height and width."""
        return (channels, *size) if self.pixel_wise else (channels, 1, 1)


def named_activation(option: str, name: str) -> nn.Module | None:
    """A new activation function by its name; None for "linear".

    Args:
        option: what gave the name, for the error.
        name: one of `ACTIVATIONS`.

    Raises:
        ValueError: if the name is unknown.
    """
    made = ACTIVATIONS[check_choice(option, name, tuple(ACTIVATIONS))]
    return None if made is None else made()


def check_dropout(rate: float) -> float:
    """The dropout rate as a probability; -1 means none.

    Raises:
        ValueError: if it is neither -1 nor in 0..1 (1 excluded).
    """
    if rate in (-1, 0):
        return 0.0
    rate = check_positive("dropout_rate", rate)
    if rate >= 1:
        raise ValueError(f"dropout_rate must be -1 or lie in 0..1, below 1; received {rate}.")
    return rate
