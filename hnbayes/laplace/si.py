r"""Synaptic intelligence (Zenke, Poole and Ganguli 2017, https://arxiv.org/abs/1703.04200).

While a task is trained, \(\omega_i \leftarrow \omega_i - g_i \, \Delta\theta_i\) adds up what each parameter has taken
off the loss. After it, importances grow by \(\max(0, \omega_i / (\Delta_i^2 + \epsilon))\), where \(\Delta_i\) is the
parameter's whole way during the task (van de Ven and Tolias 2019, https://arxiv.org/abs/1904.07734, A.2.3).

All of it is kept in four buffers a parameter, which exist from the first call of `si_pre_optim_step` on, so that a
state_dict has the same keys at any time. NaN in all elements says that there is nothing in a buffer yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hnbayes._checks import check_finite, check_positive, describe
from hnbayes.laplace.buffers import buffer, check_module, check_params, write


def si_pre_optim_step(
    net: nn.Module, params: Sequence[Tensor], params_name: str | None = None, no_pre_step_ckpt: bool = False
) -> None:
    """Keep the parameters as they are before an optimiser's step; at the first call, also as those SI starts from.

    Args:
        net: the module that keeps the buffers.
        params: the parameters; those that require no gradient are passed over. Their order identifies them later.
        params_name: a name for this group of parameters, if there are several groups.
        no_pre_step_ckpt: don't keep them: `si_post_optim_step` will be given the steps. The first call is needed yet.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if there are no parameters, they aren't finite, or their shapes have changed.

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> net(torch.ones(1, 2)).sum().backward()
        >>> hnbayes.laplace.si_pre_optim_step(net, list(net.parameters()))
        >>> optimizer.step()
        >>> hnbayes.laplace.si_post_optim_step(net, list(net.parameters()))
    """
    for group in _groups(net, params, params_name):
        values = {}
        if group.previous is None:
            nothing = torch.full_like(group.value, torch.nan)
            values = {
                group.name("omega"): torch.zeros_like(group.value),
                group.name("prev_theta"): group.value.clone(),
                group.name("running_omega"): nothing,
                group.name("pre_step_theta"): nothing.clone(),
            }
        if not no_pre_step_ckpt:
            values[group.name("pre_step_theta")] = group.value.clone()
        write(net, values)


def si_post_optim_step(
    net: nn.Module,
    params: Sequence[Tensor],
    params_name: str | None = None,
    delta_params: Sequence[Tensor] | None = None,
) -> None:
    """Add what the step has taken off the loss to the running importances, from the parameters' `grad`.

    A parameter that has no gradient, such as that of another task's head, adds nothing.

    Args:
        net: see `si_pre_optim_step`.
        params: the same parameters, after the step.
        params_name: the name of their group.
        delta_params: the steps, one tensor a parameter, as the functions of `optim_step` give them; None takes the
            difference from what `si_pre_optim_step` has kept. With it the optimiser's step needs not be taken.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if no parameter has a gradient, gradients or steps aren't finite, shapes don't fit, or
            `si_pre_optim_step` wasn't called before the step. Nothing is written then.

    Example:
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> params = list(net.parameters())
        >>> hnbayes.laplace.si_pre_optim_step(net, params, no_pre_step_ckpt=True)
        >>> net(torch.ones(1, 2)).sum().backward()
        >>> hnbayes.laplace.si_post_optim_step(net, params, delta_params=[torch.full((1, 2), -0.1)])
    """
    groups = _groups(net, params, params_name)
    if all(group.gradient is None for group in groups):
        raise ValueError(
            "si_post_optim_step needs the gradients of the loss in the parameters' grad; none has one. Call backward() "
            "before, and zero_grad() only after."
        )
    if delta_params is not None and len(delta_params) != len(list(params)):
        raise ValueError(
            f"delta_params must hold one tensor for each of the {len(list(params))} parameters; received "
            f"{len(delta_params)}."
        )
    values = {}
    for group in groups:
        if group.previous is None:
            raise ValueError(
                "si_pre_optim_step must be called before the first step; there are no buffers "
                f"{group.name('prev_theta')!r}."
            )
        step = _step(group, None if delta_params is None else delta_params[group.index])
        running = torch.zeros_like(group.value) if group.running is None else group.running
        if group.gradient is not None:
            check_finite(f"the gradient of params[{group.index}]", group.gradient)
            running = running - group.gradient * step
        values[group.name("running_omega")] = running
        values[group.name("pre_step_theta")] = torch.full_like(group.value, torch.nan)
    write(net, values)


def si_compute_importance(
    net: nn.Module, params: Sequence[Tensor], params_name: str | None = None, epsilon: float = 1e-3
) -> None:
    """After a task: turn the running importances into importances, and start anew from the present parameters.

    Args:
        net: see `si_pre_optim_step`.
        params: the same parameters, after training.
        params_name: the name of their group.
        epsilon: damping of the division by the squared way.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if there was no training step since the last call, shapes have changed, or numbers aren't finite.
            Nothing is written then.

    Example:
        >>> net, X = torch.nn.Linear(2, 1), torch.ones(5, 2)
        >>> params = list(net.parameters())
        >>> optimizer = torch.optim.SGD(params, lr=0.1)
        >>> net(X).mean().backward()
        >>> hnbayes.laplace.si_pre_optim_step(net, params)
        >>> optimizer.step()
        >>> hnbayes.laplace.si_post_optim_step(net, params)
        >>> hnbayes.laplace.si_compute_importance(net, params)
        >>> hnbayes.laplace.si_regularizer(net, params).item()  # the weights are where the task left them
        0.0
    """
    damping = check_positive("epsilon", epsilon)
    values = {}
    for group in _groups(net, params, params_name):
        if group.previous is None or group.omega is None:
            raise ValueError(
                "si_pre_optim_step must be called before the first step of the first task; there are no buffers "
                f"{group.name('prev_theta')!r}."
            )
        if group.running is None:
            raise ValueError(
                "si_post_optim_step must be called after the steps of a task, before si_compute_importance; it wasn't "
                f"for params[{group.index}]."
            )
        importance = (group.running / ((group.value - group.previous).square() + damping)).clamp(min=0)
        nothing = torch.full_like(group.value, torch.nan)
        values[group.name("omega")] = group.omega + importance
        values[group.name("prev_theta")] = group.value.clone()
        values[group.name("running_omega")] = nothing
        values[group.name("pre_step_theta")] = nothing.clone()
    write(net, values)


def si_regularizer(net: nn.Module, params: Sequence[Tensor], params_name: str | None = None) -> Tensor:
    r"""The penalty of SI, \(\sum_i \Omega_i (\theta_i - \theta^{prev}_i)^2\), to be multiplied by a strength.

    So 2 x strength x \(\Omega\) is the precision of a Gaussian: see `from_si`. It only computes a loss: no
    buffer changes.

    Args:
        net: see `si_pre_optim_step`.
        params: the parameters.
        params_name: the name of their group.

    Returns:
        0-dimensional tensor; 0 during the first task.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if shapes have changed.

    Example:
        >>> net, X = torch.nn.Linear(2, 1), torch.ones(5, 2)
        >>> params = list(net.parameters())
        >>> optimizer = torch.optim.SGD(params, lr=0.1)
        >>> hnbayes.laplace.si_regularizer(net, params).item()  # nothing to keep yet
        0.0
        >>> net(X).mean().backward()
        >>> hnbayes.laplace.si_pre_optim_step(net, params)
        >>> optimizer.step()
        >>> hnbayes.laplace.si_post_optim_step(net, params)
        >>> hnbayes.laplace.si_compute_importance(net, params)
        >>> optimizer.step()  # away from what the task has learned
        >>> bool(hnbayes.laplace.si_regularizer(net, params) > 0)
        True
    """
    loss: Tensor | None = None
    for _, p, omega, previous in importances(net, params, params_name):
        term = (omega * (p - previous).square()).sum()
        loss = term if loss is None else loss + term
    params = list(params)
    return loss if loss is not None else params[0].new_zeros(()) if params else torch.zeros(())


def importances(
    net: nn.Module, params: Sequence[Tensor], params_name: str | None = None
) -> list[tuple[int, Tensor, Tensor, Tensor]]:
    """Index, parameter, importance and centre of each parameter that SI knows."""
    check_module("net", net)
    _check_name(params_name)
    result = []
    for i, p in enumerate(params):
        omega = buffer(net, buffer_name("omega", i, params_name), p)
        previous = buffer(net, buffer_name("prev_theta", i, params_name), p)
        if p.requires_grad and omega is not None and previous is not None:
            result.append((i, p, omega, previous))
    return result


def buffer_name(what: str, index: int, params_name: str | None) -> str:
    """Name of one of a parameter's buffers."""
    return f"si_{what}{'' if params_name is None else f'_{params_name}'}_weights_{index}"


@dataclass(frozen=True)
class _Synapses:
    """A parameter and what SI knows of it; None where there is nothing yet."""

    index: int
    params_name: str | None
    value: Tensor
    gradient: Tensor | None
    omega: Tensor | None
    previous: Tensor | None
    running: Tensor | None
    before_step: Tensor | None

    def name(self, what: str) -> str:
        return buffer_name(what, self.index, self.params_name)


def _groups(net: nn.Module, params: Sequence[Tensor], params_name: str | None) -> list[_Synapses]:
    check_module("net", net)
    _check_name(params_name)
    groups = []
    for i, p in enumerate(check_params(params)):
        if not p.requires_grad:
            continue
        found = [buffer(net, buffer_name(what, i, params_name), p) for what in ("omega", "prev_theta")]
        marked = [buffer(net, buffer_name(what, i, params_name), p) for what in ("running_omega", "pre_step_theta")]
        known = [None if value is None or _is_nothing(value) else value for value in marked]
        gradient = p.grad if p.is_leaf or p.retains_grad else None
        groups.append(
            _Synapses(i, params_name, p.detach(), None if gradient is None else gradient.detach(), *found, *known)
        )
    if not groups:
        raise ValueError("params must hold at least one tensor that requires a gradient; received none.")
    return groups


def _step(group: _Synapses, given: Tensor | None) -> Tensor:
    if given is None:
        if group.before_step is None:
            raise ValueError(
                "si_pre_optim_step must be called before each step, or delta_params given; it wasn't for "
                f"params[{group.index}]."
            )
        return group.value - group.before_step
    if not isinstance(given, Tensor) or given.shape != group.value.shape:
        raise ValueError(
            f"delta_params[{group.index}] must be a tensor of shape {tuple(group.value.shape)}; received "
            f"{describe(given)}."
        )
    check_finite(f"delta_params[{group.index}]", given)
    return given.detach()


def _is_nothing(value: Tensor) -> bool:
    return value.numel() > 0 and math.isnan(value.flatten()[0].item())


def _check_name(params_name: str | None) -> None:
    if params_name is not None and not isinstance(params_name, str):
        raise TypeError(f"params_name must be text or None; received {describe(params_name)}.")
    if params_name is not None and (not params_name or "." in params_name):
        raise ValueError(f"params_name must not be empty nor hold a dot; received {params_name!r}.")
