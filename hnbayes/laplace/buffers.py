"""Named buffers of a module, in which EWC and SI keep what they know, so that it is part of its state_dict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_finite, check_floating, describe

_OURS = re.compile(r"(?:ewc|si)_.*weights_\d+")


def check_module(name: str, module: nn.Module) -> None:
    """Raise TypeError unless a module is one."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, whose buffers are used; received {describe(module)}.")


def check_params(params: Iterable[Tensor]) -> list[Tensor]:
    """Return parameters as a list of finite floating-point tensors.

    Raises:
        TypeError: if they are not a sequence of such tensors.
        ValueError: if there is none, or one holds NaN or infinity.
    """
    given: Any = params
    if isinstance(given, Tensor) or not isinstance(given, Iterable):
        raise TypeError(f"params must be a list of tensors; received {describe(given)}.")
    tensors: list[Any] = list(given)
    if not tensors:
        raise ValueError("params must hold at least one tensor; received none.")
    for i, p in enumerate(tensors):
        check_floating(f"params[{i}]", p)
        check_finite(f"params[{i}]", p.detach())
    return tensors


def buffer(module: nn.Module, name: str, like: Tensor) -> Tensor | None:
    """A buffer of a module, None if there is no such.

    Raises:
        ValueError: if its shape isn't that of the parameter it belongs to.
    """
    value = module._buffers.get(name)
    if value is not None and value.shape != like.shape:
        raise ValueError(
            f"parameters must keep order and shapes from task to task: buffer {name!r} has shape "
            f"{tuple(value.shape)}, its parameter now {tuple(like.shape)}."
        )
    return value


def write(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Register buffers, in place of those of the same name."""
    for name, value in values.items():
        module.register_buffer(name, value.detach())


def restore_buffers(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Register the buffers of EWC and SI that a state_dict holds and a fresh module lacks.

    After it `module.load_state_dict(state)` loads, strictly: a module that was just made doesn't know them otherwise.

    Args:
        module: of the architecture that was saved.
        state: its state_dict.

    Raises:
        ValueError: if the state_dict names a submodule that the module lacks.

    Example:
        >>> net, X = torch.nn.Linear(2, 3), torch.randn(20, 2)
        >>> hnbayes.laplace.compute_fisher(0, (X, net(X).argmax(-1)), list(net.parameters()), None, net)
        >>> fresh = torch.nn.Linear(2, 3)
        >>> hnbayes.laplace.restore_buffers(fresh, net.state_dict())
        >>> fresh.load_state_dict(net.state_dict())
        <All keys matched successfully>
    """
    check_module("module", module)
    for key, value in state.items():
        path, _, name = key.rpartition(".")
        if not _OURS.fullmatch(name):
            continue
        try:
            owner = module.get_submodule(path)
        except AttributeError as error:
            raise ValueError(f"the state_dict's {key!r} belongs to a missing submodule: {error}") from None
        if name not in owner._buffers:
            device = next((p.device for p in owner.parameters()), value.device)
            owner.register_buffer(name, torch.empty_like(value, device=device))
