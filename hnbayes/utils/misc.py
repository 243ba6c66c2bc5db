"""The documented module `misc`."""

from __future__ import annotations

import warnings

from torch import Tensor

from hnbayes.layers.init import init_params as _init_params
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
    """The former place of `torch_utils.init_params`, to which it forwards with a `DeprecationWarning`.

    Args:
        weights: see there.
        bias: see there.

    Example:
        >>> import warnings
        >>> from hnbayes.utils.misc import init_params
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", DeprecationWarning)
        ...     init_params(torch.empty(3, 2))
    """
    warnings.warn("misc.init_params has moved: use torch_utils.init_params.", DeprecationWarning, stacklevel=2)
    _init_params(weights, bias)
