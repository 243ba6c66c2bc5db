"""Elastic weight consolidation: what it keeps of each task, and its penalty."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_count, check_finite, describe
from hnbayes.laplace.buffers import buffer, check_module, write


def ewc_regularizer(
    task_id: int,
    params: Sequence[Tensor],
    mnet: nn.Module,
    hnet: nn.Module | None = None,
    online: bool = False,
    gamma: float = 1.0,
) -> Tensor:
    r"""The penalty of EWC, to be multiplied by a strength and added to the loss of task `task_id`.

    \(\frac12 \sum_{t < T} \sum_i F_{t,i} (\theta_i - \theta^*_{t,i})^2\) (Kirkpatrick et al. 2017, eq. 3), or for
    online EWC \(\frac12 \sum_i (\gamma F_i + \pi_i) (\theta_i - \theta^*_i)^2\) with the prior's precision \(\pi\), if
    one was given (Schwarz et al. 2018, eq. 8). So strength x F is the precision of a Gaussian: see `from_ewc`. It only
    computes a loss: no buffer changes.

    Args:
        task_id: number of the task that is being learned; `compute_fisher` was called after each one before it.
        params: the parameters, in the order in which `compute_fisher` was given them.
        mnet: the main network, which holds the buffers.
        hnet: the hypernetwork, which holds them if it is given.
        online: online EWC.
        gamma: its decay.

    Returns:
        0-dimensional tensor; 0 for the first task.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if an earlier task is missing, or shapes have changed since.

    Example:
        >>> net, X = torch.nn.Linear(2, 3), torch.randn(20, 2)
        >>> params = list(net.parameters())
        >>> hnbayes.laplace.compute_fisher(0, (X, net(X).argmax(-1)), params, None, net)
        >>> with torch.no_grad():
        ...     net.bias += 1.0
        >>> penalty = hnbayes.laplace.ewc_regularizer(1, params, net)  # to be added to the second task's loss
        >>> bool(penalty > 0), penalty.requires_grad
        (True, True)
    """
    loss: Tensor | None = None
    params = list(params)
    for center, precision in penalties(task_id, params, mnet if hnet is None else hnet, online, gamma):
        for p, c, f in zip(params, center, precision, strict=True):
            term = (f * (p - c).square()).sum()
            loss = term if loss is None else loss + term
    if loss is None:
        return params[0].new_zeros(()) if params else torch.zeros(())
    return 0.5 * loss


def penalties(
    task_id: int, params: Sequence[Tensor], keeper: nn.Module, online: bool, gamma: float
) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Centres and precisions of the quadratic penalties for task `task_id`, one pair for each or all earlier tasks."""
    check_module("hnet or mnet", keeper)
    task_id = check_count("task_id", task_id, 0)
    gamma = check_gamma(gamma)
    if task_id == 0:
        return []
    result = []
    for task in [None] if online else range(task_id):
        found = [_kept(keeper, task, i, p) for i, p in enumerate(params)]
        if not found or any(pair is None for pair in found):
            which = "the earlier tasks of online EWC" if task is None else f"task {task}"
            raise ValueError(
                f"compute_fisher must have been called for all tasks before task {task_id}, with as many parameters; "
                f"there are no buffers of {which} for all of the {len(params)} parameters."
            )
        pairs = [pair for pair in found if pair is not None]
        centers, precisions = [center for center, _ in pairs], [precision for _, precision in pairs]
        if online and gamma != 1:
            # The prior is part of the estimate, and doesn't decay.
            priors = [buffer(keeper, prior_name(i), f) for i, f in enumerate(precisions)]
            precisions = [
                gamma * f if prior is None else gamma * f + (1 - gamma) * prior
                for f, prior in zip(precisions, priors, strict=True)
            ]
        result.append((centers, precisions))
    return result


def context_mod_forward(mod_weights: Sequence[Tensor] | None = None) -> Callable[..., Tensor]:
    """A `custom_forward` of `compute_fisher` for a main network with context modulation.

    The parameters that `compute_fisher` is given are the network's internal weights; the weights of its
    context-modulation layers are `mod_weights`, or what the hypernetwork makes of the task.

    Args:
        mod_weights: fixed weights of the context-modulation layers, for use without hypernetwork; None with one.

    Returns:
        `(mnet, params, X) -> Y`, or without `mod_weights` `(mnet, hnet, task_id, params, X) -> Y`.

    Example:
        >>> net = hnbayes.mnets.MLP(2, 3, hidden_layers=(4,), use_context_mod=True, verbose=False)
        >>> is_mod = [meta["name"] == "cm_scale" or meta["name"] == "cm_shift" for meta in net.param_shapes_meta]
        >>> mod = [w for w, m in zip(net.weights, is_mod) if m]
        >>> rest = [w for w, m in zip(net.weights, is_mod) if not m]
        >>> X = torch.randn(10, 2)
        >>> forward = hnbayes.laplace.context_mod_forward(mod_weights=mod)
        >>> hnbayes.laplace.compute_fisher(0, (X, net(X).argmax(-1)), rest, None, net, custom_forward=forward)
    """

    def forward(mnet: Any, weights: Any, params: Sequence[Tensor], x: Tensor) -> Tensor:
        output: Tensor = mnet.forward(x, weights={"mod_weights": weights, "internal_weights": params})
        return output

    if mod_weights is not None:
        return lambda mnet, params, x: forward(mnet, mod_weights, params, x)
    return lambda mnet, hnet, task_id, params, x: forward(mnet, hnet.forward(cond_id=task_id), params, x)


class Update:
    """The buffers of one task, checked before the work and written after it.

    Args:
        keeper: the module that keeps them.
        task_id: the task.
        params: its parameters.
        online: whether there is one estimate for all tasks.
        gamma: the decay of earlier tasks.
        prior: the prior's precision, a number or tensors like the parameters, or None.
    """

    def __init__(
        self,
        keeper: nn.Module,
        task_id: int,
        params: Sequence[Tensor],
        online: bool,
        gamma: float,
        prior: float | Sequence[Tensor] | None,
    ) -> None:
        if prior is not None and not online:
            raise ValueError("prior_strength needs online=True: separate penalties would count the prior once a task.")
        self.keeper, self.params, self.online = keeper, params, online
        self.task = None if online else task_id
        self.gamma = check_gamma(gamma)
        self.earlier: list[tuple[Tensor, Tensor]] | None = None
        if online and task_id > 0:
            found = [_kept(keeper, None, i, p) for i, p in enumerate(params)]
            if any(pair is None for pair in found):
                raise ValueError(
                    f"online EWC needs compute_fisher for the tasks before task {task_id}; there are no buffers of "
                    "them for all parameters. Begin with task 0."
                )
            self.earlier = [pair for pair in found if pair is not None]
        elif not online:
            for task in range(task_id):
                for i, p in enumerate(params):
                    _kept(keeper, task, i, p)
        self.prior = self._resolve(None if prior is None else as_precisions(prior, params))

    def _resolve(self, given: list[Tensor] | None) -> list[tuple[Tensor, Tensor]] | None:
        """The prior's precision as it is counted in earlier estimates, and as it shall be counted now."""
        if self.earlier is None:
            return None if given is None else [(torch.zeros_like(new), new) for new in given]
        kept = [buffer(self.keeper, prior_name(i), p) for i, p in enumerate(self.params)]
        old = [value for value in kept if value is not None]
        if len(old) != len(kept):
            return None if given is None else [(torch.zeros_like(new), new) for new in given]
        if given is not None and not all(torch.allclose(a, b) for a, b in zip(old, given, strict=True)):
            raise ValueError(
                "prior_strength must be the same for all tasks, as there is one prior, counted once; received another "
                "than that of the tasks before. Leave it out."
            )
        return [(value, value) for value in old]

    def write(self, fisher: Sequence[Tensor]) -> None:
        """Write the task's estimate."""
        values: dict[str, Tensor] = {}
        for i, (p, f) in enumerate(zip(self.params, fisher, strict=True)):
            estimate = f
            if self.earlier is not None:
                estimate = f + self.gamma * self.earlier[i][1]
            if self.prior is not None:
                # The estimate of earlier tasks holds the prior, which doesn't decay.
                estimate = estimate + (self.prior[i][1] - self.gamma * self.prior[i][0])
                values[prior_name(i)] = self.prior[i][1].clone()
            weights, name = names(self.task, i)
            values[weights], values[name] = p.detach().clone(), estimate.clone()
        if self.online and self.earlier is None and self.prior is None:
            for i in range(len(self.params)):
                self.keeper._buffers.pop(prior_name(i), None)
        write(self.keeper, values)


def names(task: int | None, index: int) -> tuple[str, str]:
    """Names of the buffers with a parameter's weights and Fisher estimate; task None is online EWC."""
    middle = "" if task is None else f"_task_{task}"
    return f"ewc_prev{middle}_weights_{index}", f"ewc_fisher_estimate{middle}_weights_{index}"


def prior_name(index: int) -> str:
    """Name of the buffer with the prior's precision, part of the estimate of online EWC."""
    return f"ewc_prior_strength_weights_{index}"


def check_gamma(gamma: Any) -> float:
    """Return gamma as a float from 0 to 1."""
    if isinstance(gamma, bool) or not isinstance(gamma, numbers.Real):
        raise TypeError(f"gamma must be a number from 0 to 1; received {describe(gamma)}.")
    if not 0 <= float(gamma) <= 1:
        raise ValueError(f"gamma must be a number from 0 to 1; received {gamma}.")
    return float(gamma)


def as_precisions(prior: Any, params: Sequence[Tensor]) -> list[Tensor]:
    """A number or tensors as finite non-negative tensors like the parameters."""
    if isinstance(prior, (list, tuple)):
        if len(prior) != len(params):
            raise ValueError(f"prior_strength must hold {len(params)} tensors, as params; received {len(prior)}.")
        result = []
        for i, (value, p) in enumerate(zip(prior, params, strict=True)):
            if not isinstance(value, Tensor) or value.shape != p.shape:
                raise ValueError(
                    f"prior_strength[{i}] must be a tensor of shape {tuple(p.shape)}; received {describe(value)}."
                )
            result.append(value.detach().to(p))
    else:
        if isinstance(prior, Tensor) and prior.ndim == 0:
            prior = prior.item()
        if isinstance(prior, bool) or not isinstance(prior, numbers.Real):
            raise TypeError(f"prior_strength must be a number or a list of tensors; received {describe(prior)}.")
        if not math.isfinite(prior):
            raise ValueError(f"prior_strength must be finite; received {prior}.")
        result = [torch.full_like(p.detach(), float(prior)) for p in params]
    for i, value in enumerate(result):
        check_finite(f"prior_strength[{i}]", value)
        if (value < 0).any():
            raise ValueError("prior_strength must be at least 0, a precision; received a negative number.")
    return result


def _kept(keeper: nn.Module, task: int | None, index: int, p: Tensor) -> tuple[Tensor, Tensor] | None:
    """Weights and estimate that are kept of a parameter, if they are."""
    center, fisher = (buffer(keeper, name, p) for name in names(task, index))
    return None if center is None or fisher is None else (center, fisher)
