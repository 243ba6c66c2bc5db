"""Which weights share a scale, and what the scale is called."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from hnbayes._checks import describe
from hnbayes.priors.prior import Shape

Per = Literal["layer", "all", "parameter"]
PER = ("layer", "all", "parameter")


def group_name(parameter: str, per: Per, name: str) -> str:
    """What is shared with a parameter is called `<name>` for "all", `<layer>.<name>`, or `<parameter>_<name>`."""
    if per == "parameter":
        return f"{parameter}_{name}"
    layer = parameter.rpartition(".")[0] if per == "layer" else ""
    return f"{layer}.{name}" if layer else name


def check_name(name: object) -> None:
    """Raise ValueError unless a scale's name is an identifier."""
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"name must be an identifier; received {describe(name)}.")


def before(values: Tensor, shape: Shape) -> Tensor:
    """Values (*batch,) with a dimension of 1 for each of `shape`, so that they multiply tensors (*batch, *shape)."""
    return values.reshape(tuple(values.shape) + (1,) * len(shape))
