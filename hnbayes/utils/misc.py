"""The documented module `misc`; its deprecated `init_params` warns and forwards."""

from __future__ import annotations

import warnings

from torch import Tensor

from hnbayes.layers import init
from hnbayes.training.plotting import (
    configure_matplotlib_params,
    get_colorbrewer2_colors,
    repair_canvas_and_show_fig,
)
from hnbayes.training.text import get_default_args, list_to_str, str_to_act, str_to_floats, str_to_ints

__all__ = [
    "configure_matplotlib_params",
    "get_colorbrewer2_colors",
    "get_default_args",
    "init_params",
    "list_to_str",
    "repair_canvas_and_show_fig",
    "str_to_act",
    "str_to_floats",
    "str_to_ints",
]


def init_params(weights: Tensor, bias: Tensor | None = None) -> None:
    """Deprecated: `hnbayes.layers.init_params`, which it forwards to.

    Args:
        weights: as there.
        bias: as there.
    """
    warnings.warn("misc.init_params is deprecated; use hnbayes.layers.init_params.", DeprecationWarning, stacklevel=2)
    init.init_params(weights, bias)
