"""Diagonal Fisher matrices of networks, for EWC and for Laplace approximations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Normal

from hnbayes._checks import check_choice, check_count, check_positive, describe
from hnbayes.laplace import ewc
from hnbayes.laplace.buffers import check_module, check_params
from hnbayes.laplace.forward import Network, evaluation_mode
from hnbayes.laplace.samples import Samples, is_handler
from hnbayes.laplace.scores import (
    CustomScores,
    EmpiricalGaussian,
    EmpiricalSoftmax,
    ExactGaussian,
    ExactSoftmax,
    LikelihoodScores,
    Scores,
)
from hnbayes.laplace.squares import SquaredGradients
from hnbayes.rng import resolve_seed

Kind = Literal["exact", "empirical", "monte_carlo"]
LikelihoodLike = Literal["categorical", "gaussian"] | Callable[[Tensor], Distribution]


@dataclass(frozen=True)
class FisherDiagonal:
    """The diagonal of a Fisher matrix.

    Attributes:
        total: one tensor a parameter, the sum over the samples that were used.
        used: how many these were.
        samples: how many there are.

    Example:
        >>> net, X, y = torch.nn.Linear(2, 3), torch.randn(20, 2), torch.randint(3, (20,))
        >>> fisher = hnbayes.laplace.diagonal_fisher(net, (X, y))
        >>> [tuple(f.shape) for f in fisher.total], fisher.used
        ([(3, 2), (3,)], 20)
    """

    total: list[Tensor]
    used: int
    samples: int

    @property
    def mean(self) -> list[Tensor]:
        """The average over samples."""
        return [part / self.used for part in self.total]

    @property
    def scaled(self) -> list[Tensor]:
        """The sum over all samples, estimated from those used: the likelihood's precision."""
        return [part * (self.samples / self.used) for part in self.total]


def diagonal_fisher(
    net: nn.Module,
    data: Any,
    *,
    params: Sequence[Tensor] | None = None,
    likelihood: LikelihoodLike = "categorical",
    kind: Kind = "exact",
    noise_variance: float = 1.0,
    draws: int = 16,
    n_max: int = -1,
    time_series: bool = False,
    outputs: Sequence[int] | None = None,
    seed: int | None = None,
) -> FisherDiagonal:
    r"""The diagonal of \(F = \sum_n E_{y \sim p(y | x_n)}[\nabla \log p \, \nabla \log p^T]\) of a module.

    Args:
        net: any module whose output is one tensor, in evaluation mode for the while.
        data: a DataLoader or any iterable of batches (inputs, targets), a pair of tensors, a Dataset, or a documented
            data handler.
        params: the module's parameters to take it of; None takes all that require gradients.
        likelihood: "categorical" (outputs are logits), "gaussian" (outputs are means), or a function from outputs
            (B, ...) to a torch distribution whose batch shape begins with B.
        kind: the expectation over the network's predictions, "exact" or by "monte_carlo"; or "empirical", at the
            data's targets.
        noise_variance: of the Gaussian.
        draws: targets drawn for each sample, for "monte_carlo".
        n_max: use so many samples at most; -1 for all.
        time_series: outputs are [S, N, F], and so are inputs and targets.
        outputs: indices of the outputs that count, such as those of one head; None for all.
        seed: of the draws; None draws one from torch's global generator.

    Returns:
        The sums over samples, and their number.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if there are no data, shapes don't fit, numbers are not finite, or a likelihood that is a function
            is to be taken exactly.

    Example:
        >>> net, X = torch.nn.Linear(1, 1), torch.tensor([[1.0], [2.0], [3.0]])
        >>> data = X, torch.zeros(3, 1)
        >>> fisher = hnbayes.laplace.diagonal_fisher(net, data, likelihood="gaussian", noise_variance=0.5)
        >>> fisher.total[0]  # (1 + 4 + 9) / 0.5
        tensor([[28.0000]])
    """
    check_module("net", net)
    check_choice("kind", kind, ("exact", "empirical", "monte_carlo"))
    if params is None:
        params = [p for p in net.parameters() if p.requires_grad]
    tensors = check_params(params)
    variance = check_positive("noise_variance", noise_variance)
    draws = check_count("draws", draws) if kind == "monte_carlo" else 0
    scores = _scores(likelihood, kind, variance, draws, time_series, seed, tensors[0].device, data)
    samples = Samples(data, device=tensors[0].device, n_max=check_n_max(n_max), time_series=time_series)
    network = Network(net, outputs=_check_outputs(outputs), dim=int(time_series))
    with evaluation_mode(net):
        total = SquaredGradients(network.forward(tensors), scores, tensors).sum_over(samples)
    return FisherDiagonal(_like(total, tensors), samples.used, samples.total)


def compute_fisher(
    task_id: int,
    data: Any,
    params: Sequence[Tensor],
    device: torch.device | str | int | None,
    mnet: nn.Module,
    hnet: nn.Module | None = None,
    empirical_fisher: bool = True,
    online: bool = False,
    gamma: float = 1.0,
    n_max: int = -1,
    regression: bool = False,
    time_series: bool = False,
    allowed_outputs: Sequence[int] | None = None,
    custom_forward: Callable[..., Tensor] | None = None,
    custom_nll: Callable[..., Tensor] | None = None,
    pass_ids: bool = False,
    proper_scaling: bool = False,
    prior_strength: float | Sequence[Tensor] | None = None,
    regression_lvar: float = 1.0,
    target_manipulator: Callable[[Tensor], Tensor] | None = None,
    *,
    draws: int = 0,
    seed: int | None = None,
) -> None:
    r"""Estimate the diagonal Fisher matrix of a task and keep it, with the weights, in buffers for `ewc_regularizer`.

    To be called after a task has been learned. The estimate is the average over samples, \(F\); with `proper_scaling`
    \(N F\), the precision that the task's likelihood gives (Kirkpatrick et al. 2017, https://arxiv.org/abs/1612.00796).
    Online EWC keeps one estimate, \(F_t + \gamma F_{t-1}\) (Schwarz et al. 2018, https://arxiv.org/abs/1805.06370,
    eq. 8), and beside it the prior's precision, once and undecayed. Networks are in evaluation mode for the while.
    Nothing is written if anything fails.

    Args:
        task_id: number of the task, from 0 on; the condition of a hypernetwork.
        data: a documented data handler, of which all training samples are used; or a DataLoader, any iterable of
            batches (inputs, targets), a pair of tensors or a Dataset.
        params: what the Fisher matrix is of: weights of `mnet`, or unconditional weights of `hnet`. They may be any
            tensors; their order identifies them in later calls.
        device: where samples are put; None for that of the parameters.
        mnet: a documented main network, which is called as `mnet.forward(x, weights=params)`, or any module.
        hnet: a documented hypernetwork, called as `hnet.forward(cond_id=task_id, weights={"uncond_weights": params})`.
            The buffers are then its own.
        empirical_fisher: take the gradients at the data's targets. Otherwise at the network's predictions: their
            expectation in closed form for a softmax or Gaussian. A `custom_nll` is told and must do that itself.
        online: online EWC.
        gamma: its decay of earlier tasks, from 0 to 1.
        n_max: use so many samples at most, random ones of a data handler and the first ones of an iterable; -1 for all.
        regression: outputs are means of a Gaussian, \(\log p = -|f - y|^2 / (2 v)\) with v = `regression_lvar`. Else
            they are logits, and targets labels or one-hot rows.
        time_series: outputs, inputs and targets are [S, N, F]; log-likelihoods are summed over the S steps.
        allowed_outputs: indices of the outputs that count; targets are then numbered, or shaped, as these.
        custom_forward: replaces the forward pass: `(mnet, params, X)`, or `(mnet, hnet, task_id, params, X)`.
        custom_nll: replaces the negative log-likelihood of one sample: `(Y, T, data, allowed_outputs,
            empirical_fisher)`, T being the target as `data` gives it.
        pass_ids: with a data handler, `custom_nll` takes the sample's identifiers besides, and `custom_forward` `data`
            and identifiers. Samples are then computed one by one.
        proper_scaling: multiply by the number of training samples, also if `n_max` is smaller.
        prior_strength: online only: the precision of the prior, a number or tensors like `params`, added to the
            finished estimate. It is kept for later tasks and counted once: giving it again changes nothing.
        regression_lvar: variance of the Gaussian.
        target_manipulator: a function of the targets of a batch, or of one sample if it can't take several.
        draws: if positive, take the expectation over the network's predictions by so many draws of a target for each
            sample instead of in closed form.
        seed: of these draws; None draws one from torch's global generator.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if numbers are out of range or not finite, shapes don't fit each other or those of earlier tasks,
            there are no samples, `prior_strength` is given without `online` or differs from that of earlier tasks, or
            the earlier tasks of online EWC are missing.

    Example:
        >>> net, X = torch.nn.Linear(2, 3), torch.randn(20, 2)
        >>> params = list(net.parameters())
        >>> hnbayes.laplace.compute_fisher(0, (X, net(X).argmax(-1)), params, None, net, empirical_fisher=False)
        >>> hnbayes.laplace.ewc_regularizer(1, params, net).item()  # the weights haven't moved since
        0.0
    """
    keeper = mnet if hnet is None else hnet
    for name, module in (("mnet", mnet), ("hnet", hnet)):
        if module is not None:
            check_module(name, module)
    task_id = check_count("task_id", task_id, 0)
    tensors = check_params(params)
    outputs = _check_outputs(allowed_outputs)
    variance = check_positive("regression_lvar", regression_lvar)
    update = ewc.Update(keeper, task_id, tensors, online, gamma, prior_strength)
    if pass_ids and not is_handler(data):
        raise ValueError(f"pass_ids needs a data handler, which has identifiers; received {describe(data)}.")

    if custom_nll is not None:
        scores: Scores = CustomScores(
            lambda Y, T, ids: custom_nll(Y, T, data, allowed_outputs, empirical_fisher, *([ids] if pass_ids else [])),
            int(time_series),
        )
    else:
        drawn = check_count("draws", draws, 0)
        kind: Kind = "empirical" if empirical_fisher else "monte_carlo" if drawn else "exact"
        likelihood: LikelihoodLike = "gaussian" if regression else "categorical"
        scores = _scores(likelihood, kind, variance, drawn, time_series, seed, tensors[0].device, data)
    samples = Samples(
        data,
        device=tensors[0].device if device is None else device,
        n_max=check_n_max(n_max),
        time_series=time_series,
        ids=pass_ids,
        manipulate=target_manipulator,
    )
    network = Network(mnet, hnet, task_id, custom_forward, pass_ids, data, outputs, int(time_series))
    with evaluation_mode(mnet, hnet):
        squares = SquaredGradients(network.forward(tensors), scores, tensors, one_by_one=pass_ids)
        total = squares.sum_over(samples)
    result = FisherDiagonal(total, samples.used, samples.total)
    update.write(_like(result.scaled if proper_scaling else result.mean, tensors))


def check_n_max(n_max: int) -> int:
    """Return n_max as -1 or a positive int."""
    if isinstance(n_max, int) and n_max == -1:
        return -1
    try:
        return check_count("n_max", n_max)
    except ValueError:
        raise ValueError(f"n_max must be -1, for all samples, or at least 1; received {n_max}.") from None


def _scores(
    likelihood: LikelihoodLike,
    kind: Kind,
    variance: float,
    draws: int,
    time_series: bool,
    seed: int | None,
    device: torch.device,
    data: Any,
) -> Scores:
    """The scores of a likelihood."""
    if not callable(likelihood):
        check_choice("likelihood", likelihood, ("categorical", "gaussian"))
    if kind == "monte_carlo":
        generator = torch.Generator(device).manual_seed(resolve_seed(seed))
        if callable(likelihood):
            return LikelihoodScores(likelihood, draws, generator)
        if likelihood == "gaussian":
            return LikelihoodScores(lambda output: Normal(output, variance**0.5), draws, generator)
        return LikelihoodScores(lambda output: Categorical(logits=output), draws, generator)
    if callable(likelihood):
        if kind == "exact":
            raise ValueError(
                "the exact Fisher matrix is there for categorical and gaussian; received a function. "
                "Use kind='monte_carlo'."
            )
        return LikelihoodScores(likelihood)
    if likelihood == "gaussian":
        return EmpiricalGaussian(variance) if kind == "empirical" else ExactGaussian(variance)
    if kind == "empirical":
        return EmpiricalSoftmax(time_series, getattr(data, "is_one_hot", None) if is_handler(data) else None)
    return ExactSoftmax(time_series)


def _check_outputs(allowed: Sequence[int] | None) -> list[int] | None:
    if allowed is None:
        return None
    outputs = [check_count(f"outputs[{i}]", int(index), 0) for i, index in enumerate(allowed)]
    if not outputs or len(set(outputs)) != len(outputs):
        raise ValueError(f"allowed_outputs must be different indices, one at least; received {describe(outputs)}.")
    return outputs


def _like(values: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    """Sums in their parameters' dtype."""
    return [value.to(p.dtype) for value, p in zip(values, params, strict=True)]
