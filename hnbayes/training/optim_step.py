"""The change that an optimiser would make to its parameters, without making it.

The step is taken by the optimiser's own `step`, on copies of its parameters, gradients and state. So it is the step of
the optimiser that is installed, with all of its options, whatever the optimiser.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from hnbayes._checks import check_positive, describe

# Attributes of an optimiser that a copy must not share or inherit: what is copied by hand, what a scheduler wraps, and
# hooks, which may do anything.
_OWN = {"param_groups", "state", "step"}


def sgd_step(optimizer: SGD, detach_dp: bool = True) -> list[Tensor]:
    """The change that `torch.optim.SGD.step` would make, with momentum, dampening, Nesterov and weight decay.

    Args:
        optimizer: whose parameters have gradients.
        detach_dp: whether the result is cut off from the graph of the gradients (which there is if `backward` was
            called with `create_graph=True`).

    Returns:
        One tensor a parameter, in the order of the parameter groups; zeros for those without gradient.

    Raises:
        TypeError: if the optimiser is of another class.
        ValueError: if no parameter has a gradient.

    Example:
        >>> from hnbayes.utils.optim_step import sgd_step
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
        >>> optimizer = torch.optim.SGD([w], lr=0.25)
        >>> w.square().sum().backward()
        >>> sgd_step(optimizer)[0]
        tensor([-0.5000,  0.5000])
    """
    return _step_of(optimizer, (SGD,), detach_dp)


def adam_step(optimizer: Adam, detach_dp: bool = True) -> list[Tensor]:
    """The change that `torch.optim.Adam.step` would make, or that of `AdamW`; see `sgd_step`.

    Example:
        >>> from hnbayes.utils.optim_step import adam_step
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
        >>> optimizer = torch.optim.Adam([w], lr=0.5)
        >>> w.square().sum().backward()
        >>> adam_step(optimizer)[0].round(decimals=3)  # Adam's first step has the learning rate's size
        tensor([-0.5000,  0.5000])
    """
    return _step_of(optimizer, (Adam, AdamW), detach_dp)


def rmsprop_step(optimizer: RMSprop, detach_dp: bool = True) -> list[Tensor]:
    """The change that `torch.optim.RMSprop.step` would make, centred or not; see `sgd_step`.

    Example:
        >>> from hnbayes.utils.optim_step import rmsprop_step
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
        >>> optimizer = torch.optim.RMSprop([w], lr=0.5, alpha=0.0)
        >>> w.square().sum().backward()
        >>> rmsprop_step(optimizer)[0].round(decimals=3)
        tensor([-0.5000,  0.5000])
    """
    return _step_of(optimizer, (RMSprop,), detach_dp)


def calc_delta_theta(
    optimizer: Optimizer, use_sgd_change: bool, lr: float | None = None, detach_dt: bool = True
) -> list[Tensor]:
    """The change of the parameters that a step of this optimiser would make, for any optimiser without closure.

    Args:
        optimizer: whose parameters have gradients: call this between `backward` and `step`.
        use_sgd_change: give the step of plain gradient descent, `-lr * gradient`, instead of the optimiser's own.
        lr: the learning rate of that plain step.
        detach_dt: whether the result is cut off from the graph of the gradients (which there is if `backward` was
            called with `create_graph=True`).

    Returns:
        One tensor a parameter, in the order of the parameter groups; zeros for those without gradient.

    Raises:
        TypeError: if `optimizer` is no `torch.optim.Optimizer`.
        ValueError: if no parameter has a gradient, `lr` is missing, or the optimiser's step can't be taken on copies.

    Example:
        >>> from hnbayes.utils.optim_step import calc_delta_theta
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
        >>> optimizer = torch.optim.Adam([w], lr=0.5)
        >>> w.square().sum().backward()
        >>> calc_delta_theta(optimizer, use_sgd_change=True, lr=0.25)[0]
        tensor([-0.5000,  0.5000])
        >>> w.data  # as it was
        tensor([ 1., -1.])
    """
    params = _params_with_gradients(optimizer)
    if not use_sgd_change:
        return _look_ahead(optimizer, detach_dt)
    if lr is None:
        raise ValueError("lr must be the learning rate of the plain step if use_sgd_change is True; received None.")
    rate = check_positive("lr", lr)
    steps = [torch.zeros_like(p) if p.grad is None else -rate * p.grad for p in params]
    return [step.detach() for step in steps] if detach_dt else steps


def _step_of(optimizer: Optimizer, classes: tuple[type, ...], detach: bool) -> list[Tensor]:
    if not isinstance(optimizer, classes):
        names = " or ".join(f"torch.optim.{cls.__name__}" for cls in classes)
        raise TypeError(
            f"optimizer must be a {names}; received {describe(optimizer)}. calc_delta_theta takes any optimiser."
        )
    return _look_ahead(optimizer, detach)


def _look_ahead(optimizer: Optimizer, detach: bool) -> list[Tensor]:
    params = _params_with_gradients(optimizer)
    copies = {p: _copy_of(p, detach) for p in params}
    shadow = _shadow(optimizer, copies, differentiable=not detach)
    try:
        shadow.step()
    except (TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"the step of {type(optimizer).__name__} can't be looked at in advance: {type(error).__name__}: {error}. "
            "Needed is an optimiser whose step() takes no closure"
            + (" and is differentiable." if not detach else ". use_sgd_change=True gives a plain step instead.")
        ) from error
    if detach:
        return [copies[p].detach() - p.detach() for p in params]
    return [copies[p] - p if p.grad is not None else torch.zeros_like(p) for p in params]


def _params_with_gradients(optimizer: Optimizer) -> list[Tensor]:
    """All parameters of an optimiser, if one of them at least has a gradient."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer; received {describe(optimizer)}.")
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if all(p.grad is None for p in params):
        raise ValueError(
            f"at least one of the optimiser's {len(params)} parameters must have a gradient; received none. "
            "Call backward() on the loss before."
        )
    return params


def _copy_of(p: Tensor, detach: bool) -> Tensor:
    """A parameter's copy with its gradient; with the graph of both unless `detach`."""
    if p.grad is None or detach:
        new = p.detach().clone().requires_grad_(p.requires_grad)
        new.grad = None if p.grad is None else p.grad.detach().clone()
        return new
    new = p.clone()
    new.grad = p.grad
    return new


def _shadow(optimizer: Optimizer, copies: dict[Tensor, Tensor], *, differentiable: bool) -> Optimizer:
    """An optimiser of the same class, options and state that works on the copies."""
    cls = type(optimizer)
    shadow = cls.__new__(cls)
    for name, value in vars(optimizer).items():
        if name.endswith("_hooks"):
            shadow.__dict__[name] = OrderedDict()
        elif name not in _OWN:
            shadow.__dict__[name] = copy.deepcopy(value)
    shadow.param_groups = [
        {**_copied(group, {"params"}), "params": [copies[p] for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    # Looked up only where there is an entry: reading a missing one of this defaultdict would create it.
    shadow.state = defaultdict(dict, {copies[p]: _copied(optimizer.state[p]) for p in copies if p in optimizer.state})
    if differentiable:
        _make_differentiable(shadow)
    return shadow


def _make_differentiable(shadow: Optimizer) -> None:
    """Set an optimiser's options, and a fresh state, so that its step is differentiable and exact."""
    for options in [shadow.defaults, *shadow.param_groups]:
        if "differentiable" not in options:
            raise ValueError(
                f"{type(shadow).__name__} has no differentiable step; received a request for one. Detach the change."
            )
        # The fused and multi-tensor variants of a step can't be differentiated.
        options.update(differentiable=True, foreach=False)
        if options.get("fused"):
            options["fused"] = False
    for group in list(shadow.param_groups):
        fresh = [p for p in group["params"] if not shadow.state.get(p)]
        if isinstance(shadow, (Adam, AdamW)):
            names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
            for p in fresh:
                shadow.state[p] = {"step": torch.zeros(()), **{name: torch.zeros_like(p.detach()) for name in names}}
        elif isinstance(shadow, SGD) and group["momentum"]:
            # SGD starts a momentum with the gradient cut off from its graph, and undampened.
            group["params"] = [p for p in group["params"] if shadow.state.get(p)]
            shadow.param_groups.append({**group, "params": fresh, "dampening": 0})
            for p in fresh:
                shadow.state[p] = {"momentum_buffer": torch.zeros_like(p.detach())}
    # A step counter is a float32 tensor, from which a differentiable step computes bias corrections with no more than
    # its six digits; other steps compute them from a Python number.
    for state in shadow.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].double()


def _copied(options: Mapping[str, Any], but: Collection[str] = ()) -> dict[str, Any]:
    """Copies of values that share nothing with the originals, and no graph."""
    return {
        key: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for key, value in options.items()
        if key not in but
    }
