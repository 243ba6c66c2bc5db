"""Parts: a potential taken apart into a network's loss, a normal prior and what remains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Loss = Literal["squares", "categorical", "bernoulli"]


@dataclass(frozen=True)
class Normal:
    """Independent normal numbers, as a potential up to a constant: sum of precision (q - mean)^2 / 2.

    Attributes:
        mean: (D,).
        precision: (D,); 0 where a number isn't normal.

    Example:
        >>> from hnbayes.potentials.dense import Normal
        >>> prior = Normal(mean=torch.zeros(3), precision=torch.tensor([1.0, 1.0, 0.0]))  # the last number is free
    """

    mean: Tensor
    precision: Tensor


@dataclass(frozen=True)
class Parts:
    r"""U(q) = L(f(q)) times a factor, plus a normal prior and a constant; or with \(R(q, L)\) in place of the factor.

    The losses L of outputs f (N, K) and data y are half the sum of squares, the sum of softmax cross-entropies, and
    the sum of \(\log(1 + e^f) - y f\).

    Attributes:
        outputs: the network's outputs for `inputs`, as a function of a position (D,).
        inputs: the data's inputs, as the network takes them.
        targets: (N, K) in the outputs' dtype, or int64 labels (N,).
        loss: which one.
        factor: of the loss, where there is no `rest`.
        constant: to be added.
        normal: the prior, if it is normal.
        rest: R, of the numbers of a position from `rest_from` on and the loss, both of one chain.
        rest_from: see `rest`.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        >>> X = torch.linspace(-1, 1, 10)[:, None]
        >>> U = hnbayes.nn_pot_energy(net, X, X, hnbayes.log_prob_standard_normal_prior)
        >>> U.parts.loss, tuple(U.parts.inputs.shape)
        ('squares', (10, 1))
    """

    outputs: Callable[[Tensor], Tensor]
    inputs: Tensor
    targets: Tensor
    loss: Loss
    factor: float = 1.0
    constant: float = 0.0
    normal: Normal | None = None
    rest: Callable[[Tensor, Tensor], Tensor] | None = None
    rest_from: int = 0
