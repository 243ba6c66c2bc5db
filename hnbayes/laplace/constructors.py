r"""Gaussians over weights from what continual learning and Laplace approximations know of a task.

EWC adds \(\lambda \sum_i \frac{F_i}{2} (\theta_i - \theta^*_i)^2\) to a loss, minus the log density of a Gaussian of
precision \(\lambda F\) up to a constant; SI adds \(\lambda \sum_i \Omega_i (\theta_i - \theta^*_i)^2\), which is one of
precision \(2 \lambda \Omega\). As these Gaussians they are priors of the next task for any sampler.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from hnbayes._checks import check_choice, check_finite, check_positive, describe
from hnbayes.laplace import ewc, si
from hnbayes.laplace.fisher import Kind, LikelihoodLike, diagonal_fisher
from hnbayes.laplace.gaussian import DiagGaussian
from hnbayes.params import ParamSpec


def from_ewc(
    net: nn.Module,
    *,
    task_id: int,
    strength: float = 1.0,
    params: Sequence[Tensor] | None = None,
    online: bool = False,
    gamma: float = 1.0,
    base_precision: float = 0.0,
) -> DiagGaussian:
    """The prior of task `task_id` that EWC's penalty is: -log density = strength x `ewc_regularizer` + constant.

    With several penalties it is their product: precisions add up, means are averaged.

    Args:
        net: the module that holds the buffers of `compute_fisher`.
        task_id: the task about to be learned, as for `ewc_regularizer`; 1 is the second task.
        strength: multiplies precisions. It is 1 for Fisher matrices with `proper_scaling`, the number of samples for
            averages, where the Bayesian answer is wanted.
        params: the parameters, in the order that `compute_fisher` was given; None takes the module's trainable ones.
        online: online EWC.
        gamma: its decay.
        base_precision: added to all precisions; use it for a prior that isn't in the estimate (it is, with
            `prior_strength`).

    Returns:
        The Gaussian, whose spec holds the parameters' names.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if there are no buffers of an earlier task, this is the first task, or a number is out of range.

    Example:
        >>> net, X = torch.nn.Linear(2, 3), torch.randn(20, 2)
        >>> data = X, net(X).argmax(-1)
        >>> hnbayes.laplace.compute_fisher(0, data, list(net.parameters()), None, net, proper_scaling=True)
        >>> prior = hnbayes.laplace.from_ewc(net, task_id=1, base_precision=1.0)
        >>> prior.mean.shape, prior.spec.names, bool((prior.precision >= 1).all())
        (torch.Size([9]), ('weight', 'bias'), True)
    """
    tensors, spec = _parameters(net, params)
    scale = check_positive("strength", strength)
    pairs = ewc.penalties(task_id, tensors, net, online, gamma)
    if not pairs:
        raise ValueError("task_id must be at least 1, as there is nothing before the first task; received 0.")
    factors = [DiagGaussian(spec.flatten(center), scale * spec.flatten(f), spec) for center, f in pairs]
    return _with_base(functools.reduce(DiagGaussian.__mul__, factors), base_precision)


def from_si(
    net: nn.Module,
    *,
    strength: float = 1.0,
    params: Sequence[Tensor] | None = None,
    params_name: str | None = None,
    base_precision: float = 0.0,
) -> DiagGaussian:
    """The prior that SI's penalty is: -log density = strength x `si_regularizer` + constant.

    Args:
        net: the module that holds the buffers of SI.
        strength: multiplies importances; the precision is twice the product.
        params: the parameters, in the order that SI's functions were given; None takes the module's trainable ones.
        params_name: the name of their group.
        base_precision: added to all precisions.

    Returns:
        The Gaussian, whose spec holds the parameters' names.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if there are no buffers, or a number is out of range.

    Example:
        >>> net, X = torch.nn.Linear(2, 1), torch.randn(20, 2)
        >>> params = list(net.parameters())
        >>> optimizer = torch.optim.SGD(params, lr=0.01)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     (net(X) - 1).square().mean().backward()
        ...     hnbayes.laplace.si_pre_optim_step(net, params)
        ...     optimizer.step()
        ...     hnbayes.laplace.si_post_optim_step(net, params)
        >>> hnbayes.laplace.si_compute_importance(net, params)
        >>> hnbayes.laplace.from_si(net, strength=0.5, base_precision=1.0).mean.shape
        torch.Size([3])
    """
    tensors, spec = _parameters(net, params)
    scale = check_positive("strength", strength)
    known = {i: (omega, previous) for i, _, omega, previous in si.importances(net, tensors, params_name)}
    if len(known) != len(tensors):
        missing = [name for i, name in enumerate(spec.names) if i not in known]
        raise ValueError(
            "SI must know all parameters, from si_pre_optim_step on; there are no buffers of "
            f"{', '.join(missing)}. Give params as they were given to it."
        )
    omega, previous = (spec.flatten([known[i][k] for i in range(len(tensors))]) for k in (0, 1))
    return _with_base(DiagGaussian(previous, 2 * scale * omega, spec), base_precision)


def from_fisher(
    net: nn.Module,
    data: Any,
    *,
    prior: DiagGaussian | float = 0.0,
    likelihood: LikelihoodLike = "categorical",
    kind: Kind = "exact",
    noise_variance: float = 1.0,
    strength: float = 1.0,
    params: Sequence[Tensor] | None = None,
    **options: Any,
) -> DiagGaussian:
    r"""The diagonal Laplace approximation at a network's weights: precision \(\lambda N F\) + that of the prior.

    Args:
        net: at the maximum of the posterior.
        data: see `diagonal_fisher`.
        prior: of the weights: a Gaussian, such as the posterior of the task before, or its precision.
        likelihood: see `diagonal_fisher`.
        kind: see `diagonal_fisher`.
        noise_variance: of a Gaussian likelihood.
        strength: \(\lambda\), 1 being the Bayesian answer.
        params: the parameters; None takes the module's trainable ones.
        **options: `draws`, `n_max`, `time_series`, `outputs`, `seed` of `diagonal_fisher`.

    Returns:
        The Gaussian, whose mean is the network's weights.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: as `diagonal_fisher`; or if the prior is over other weights.

    Example:
        >>> net, X = torch.nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [2.0]])
        >>> y = torch.zeros(2, 1)
        >>> laplace = hnbayes.laplace.from_fisher(net, (X, y), prior=1.0, likelihood="gaussian")
        >>> laplace.precision  # 1 + 1^2 + 2^2
        tensor([6.])
    """
    tensors, spec = _parameters(net, params)
    scale = check_positive("strength", strength)
    fisher = diagonal_fisher(
        net, data, params=tensors, likelihood=likelihood, kind=kind, noise_variance=noise_variance, **options
    )
    mean, precision = spec.flatten([p.detach() for p in tensors]), scale * spec.flatten(fisher.scaled)
    if not isinstance(prior, DiagGaussian):
        return _with_base(DiagGaussian(mean, precision, spec), prior)
    if len(prior.mean) != len(mean) or (prior.spec is not None and prior.spec != spec):
        raise ValueError(
            f"prior must be over the network's {len(mean)} weights ({', '.join(spec.names)}); received {prior!r}. "
            "`over` brings it to them."
        )
    return DiagGaussian(mean, precision + prior.precision.to(precision), spec)


def from_hessian(
    U: Callable[[Tensor], Tensor],
    position: Tensor,
    *,
    spec: ParamSpec | None = None,
    negative: Literal["refuse", "zero"] = "refuse",
    chunk: int = 64,
) -> DiagGaussian:
    """The diagonal Laplace approximation at a minimum of a potential: precision = diagonal of its Hessian.

    Args:
        U: the potential energy, minus the log posterior, of a flat vector (D,); a `Potential` gives its spec.
        position: its minimum, shape (D,).
        spec: names and shapes, if U has none.
        negative: what to do with negative curvature, which a minimum doesn't have: "refuse", or take "zero".
        chunk: how many Hessian-vector products are computed at once, of D.

    Returns:
        The Gaussian, whose mean is the position.

    Raises:
        TypeError: if the position is no floating-point tensor.
        ValueError: if its shape isn't (D,), a curvature is negative (unless it is taken as 0), or not finite.

    Example:
        >>> def U(q):
        ...     return 0.5 * (torch.tensor([1.0, 9.0]) * q.square()).sum()
        >>> hnbayes.laplace.from_hessian(U, torch.zeros(2)).precision
        tensor([1., 9.])
    """
    check_choice("negative", negative, ("refuse", "zero"))
    if not isinstance(position, Tensor) or not position.is_floating_point():
        raise TypeError(f"position must be a floating-point tensor of shape (D,); received {describe(position)}.")
    if position.ndim != 1:
        raise ValueError(f"position must have shape (D,); received {describe(position)}.")
    q = position.detach()
    spec = spec if spec is not None else getattr(U, "spec", None)
    slope = grad(lambda x: U(x))

    def curvature(index: Tensor) -> Tensor:
        tangent = (torch.arange(len(q), device=q.device) == index).to(q)
        return (grad(lambda x: slope(x) @ tangent)(q) * tangent).sum()

    parts = torch.split(torch.arange(len(q), device=q.device), chunk)
    diagonal = torch.cat([vmap(curvature)(part) for part in parts]).detach()
    check_finite("the curvature", diagonal)
    if negative == "refuse" and (diagonal < 0).any():
        raise ValueError(
            f"the curvature must be at least 0, as at a minimum; received {int((diagonal < 0).sum())} negative of "
            f"{len(diagonal)}, the least {diagonal.min().item():.3g}. Minimise U first, or use negative='zero'."
        )
    return DiagGaussian(q, diagonal.clamp(min=0), spec)


def from_draws(draws: Any, *, spec: ParamSpec | None = None, min_variance: float = 1e-12) -> DiagGaussian:
    """The Gaussian with the mean and variances of draws.

    Args:
        draws: what `sample_potential` returns, or positions (S, D) or (C, S, D).
        spec: names and shapes, if the draws have none.
        min_variance: variances are taken to be this large at least.

    Raises:
        TypeError: if positions are no floating-point tensor.
        ValueError: if there are fewer than two draws, or they aren't finite.

    Example:
        >>> positions = torch.tensor([[0.0, 1.0], [2.0, 1.0], [1.0, 4.0]])
        >>> gaussian = hnbayes.laplace.from_draws(positions)
        >>> gaussian.mean
        tensor([1., 2.])
    """
    positions = getattr(draws, "positions", draws)
    spec = spec if spec is not None else getattr(draws, "spec", None)
    if not isinstance(positions, Tensor) or not positions.is_floating_point():
        raise TypeError(f"draws must have positions, a floating-point tensor; received {describe(positions)}.")
    if positions.ndim not in (2, 3) or positions.shape[:-1].numel() < 2:
        raise ValueError(
            f"positions must have shape (S, D) or (C, S, D), with two draws at least; received {describe(positions)}."
        )
    check_finite("draws", positions)
    rows = positions.detach().reshape(-1, positions.shape[-1]).double()
    variance = rows.var(0).clamp(min=check_positive("min_variance", min_variance))
    return DiagGaussian(rows.mean(0).to(positions), variance.reciprocal().to(positions), spec)


def _parameters(net: nn.Module, params: Sequence[Tensor] | None) -> tuple[list[Tensor], ParamSpec]:
    """Parameters and their names: a module's own, or numbered ones."""
    own = [(name, p) for name, p in net.named_parameters()] if isinstance(net, nn.Module) else []
    if params is None:
        spec = ParamSpec.from_module(net)
        return [p for _, p in own if p.requires_grad], spec
    names = {id(p): name for name, p in own}
    tensors = list(params)
    shapes = tuple(tuple(p.shape) for p in tensors)
    if all(id(p) in names for p in tensors):
        return tensors, ParamSpec(tuple(names[id(p)] for p in tensors), shapes)
    return tensors, ParamSpec(tuple(f"weights.{i}" for i in range(len(tensors))), shapes)


def _with_base(gaussian: DiagGaussian, base: float) -> DiagGaussian:
    """The Gaussian with a number added to its precisions; its mean stays."""
    if base == 0 and not isinstance(base, bool):
        return gaussian
    return DiagGaussian(gaussian.mean, gaussian.precision + check_positive("a precision", base), gaussian.spec)
