"""From text to values and back: lists of numbers, activation functions; the defaults of a function."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import nn

from hnbayes._checks import describe
from hnbayes.mnets.options import named_activation

Number = TypeVar("Number", int, float)


def str_to_ints(str_arg: str | int) -> list[int]:
    """The integers of a comma-separated text; one number, also as a number, gives a list of one.

    Args:
        str_arg: such as "10,20"; empty text gives an empty list.

    Returns:
        The integers.

    Raises:
        TypeError: if it is neither text nor an integer.
        ValueError: if an entry is no integer.

    Example:
        >>> from hnbayes.utils.misc import str_to_ints
        >>> str_to_ints("10,20"), str_to_ints("")
        ([10, 20], [])
    """
    return _numbers(str_arg, int, numbers.Integral, "integers")


def str_to_floats(str_arg: str | float) -> list[float]:
    """The numbers of a comma-separated text; one number, also as a number, gives a list of one.

    Args:
        str_arg: such as "0.1,1e-3"; empty text gives an empty list.

    Returns:
        The numbers.

    Raises:
        TypeError: if it is neither text nor a number.
        ValueError: if an entry is no number.

    Example:
        >>> from hnbayes.utils.misc import str_to_floats
        >>> str_to_floats("0.1,1e-3")
        [0.1, 0.001]
    """
    return _numbers(str_arg, float, numbers.Real, "numbers")


def _numbers(text: Any, convert: Callable[[Any], Number], single: type, kind: str) -> list[Number]:
    if isinstance(text, single) and not isinstance(text, bool):
        return [convert(text)]
    if not isinstance(text, str):
        raise TypeError(f"expected comma-separated {kind}; received {describe(text)}.")
    if not text.strip():
        return []
    try:
        return [convert(entry) for entry in text.split(",")]
    except ValueError as error:
        raise ValueError(f"expected comma-separated {kind}, such as '1,2'; received {describe(text)}.") from error


def list_to_str(list_arg: Iterable[Any], delim: str = " ") -> str:
    """The entries of a list as text.

    Args:
        list_arg: any entries, often numbers.
        delim: what goes between two of them.

    Returns:
        The text.

    Example:
        >>> from hnbayes.utils.misc import list_to_str
        >>> list_to_str([10, 20], delim=",")
        '10,20'
    """
    return delim.join(map(str, list_arg))


def str_to_act(act_str: str) -> nn.Module | None:
    """The activation function that a command line names.

    Args:
        act_str: "linear", "sigmoid", "relu", "elu" or "tanh".

    Returns:
        A new module; None for "linear".

    Raises:
        ValueError: for another name.

    Example:
        >>> from hnbayes.utils.misc import str_to_act
        >>> str_to_act("tanh")
        Tanh()
    """
    return named_activation("act_str", act_str)


def get_default_args(func: Callable[..., Any]) -> dict[str, Any]:
    """The default values of a function's parameters.

    Args:
        func: any function, method or class.

    Returns:
        Parameter name -> default, for those that have one.

    Raises:
        TypeError: if it can't be called.
        ValueError: if its signature can't be read (some built-in functions).

    Example:
        >>> from hnbayes.utils.misc import get_default_args
        >>> get_default_args(torch.nn.Dropout)
        {'p': 0.5, 'inplace': False}
    """
    parameters = inspect.signature(func).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
