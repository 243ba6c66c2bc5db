r"""How a step of each minibatch sampler goes, for all chains at once.

In what follows g is an estimate of \(\nabla U\) from a minibatch: that of the log prior, and that of the log likelihood
times N / n. \(\epsilon\) is the step size, \(\tau\) the temperature, \(\xi \sim N(0, I)\). Each kernel leaves
\(\exp(-U / \tau)\) invariant in the limit of small steps only: there is no acceptance, so the draws have a bias, of the
order of \(\epsilon\), which comes from the discretisation and from the noise of g.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hnbayes._checks import check_choice, check_fraction, check_positive, describe


@dataclass(frozen=True, eq=False)
class StepTerms:
    """What a step is made of, beside where it begins.

    Attributes:
        gradient: g, (C, D).
        noise: xi, (C, D).
        step_size: epsilon.
        data: N.
        temperature: tau; 0 goes down without noise.
        warming_up: whether the step belongs to warm-up.

    Example:
        >>> hnbayes.minibatch.StepTerms(torch.ones(2, 3), torch.zeros(2, 3), step_size=0.01, data=100).temperature
        1.0
    """

    gradient: Tensor
    noise: Tensor
    step_size: float
    data: int
    temperature: float = 1.0
    warming_up: bool = False


class MinibatchKernel(ABC):
    """A sampler's step. Objects hold options only; what changes is in the tensors that `begin` gives.

    Example:
        >>> kernel = hnbayes.minibatch.SGHMC(friction=0.2)
        >>> q = torch.zeros(2, 3)  # two chains
        >>> terms = hnbayes.minibatch.StepTerms(gradient=q, noise=torch.zeros(2, 3), step_size=0.01, data=100)
        >>> kernel.step(q, kernel.begin(q), terms).shape
        torch.Size([2, 3])
    """

    @abstractmethod
    def begin(self, q: Tensor) -> dict[str, Tensor]:
        """What a run carries along beside positions.

        Args:
            q: positions, (C, D).

        Returns:
            Name -> tensor (C, D).
        """

    @abstractmethod
    def step(self, q: Tensor, memory: dict[str, Tensor], terms: StepTerms) -> Tensor:
        """The next positions, (C, D).

        Args:
            q: positions, (C, D).
            memory: what `begin` gave; changed in place.
            terms: gradient, noise and sizes.
        """


class SGLD(MinibatchKernel):
    r"""Stochastic gradient Langevin dynamics (Welling and Teh 2011, eq. 4).

    \(q' = q - \frac\epsilon2 g + \sqrt{\epsilon \tau} \, \xi\). On a Gaussian of precision \(\lambda\), with the
    gradient of all data, its variance is \(\tau / (\lambda (1 - \epsilon \lambda / 4))\).

    Example:
        >>> sgld, q = hnbayes.minibatch.SGLD(), torch.ones(1, 1)
        >>> terms = hnbayes.minibatch.StepTerms(gradient=2 * q, noise=torch.zeros(1, 1), step_size=0.1, data=10)
        >>> round(float(sgld.step(q, sgld.begin(q), terms)), 6)  # half a step down the gradient
        0.9
    """

    def begin(self, q: Tensor) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def step(self, q: Tensor, memory: dict[str, Tensor], terms: StepTerms) -> Tensor:
        """See `MinibatchKernel.step`."""
        size = terms.step_size
        return q - 0.5 * size * terms.gradient + math.sqrt(size * terms.temperature) * terms.noise


class PSGLD(MinibatchKernel):
    r"""SGLD with RMSProp's diagonal preconditioner (Li, Chen, Carlson and Carin 2016, algorithm 1).

    \(V' = a V + (1 - a) (g / N)^2\), \(G = 1 / (c + \sqrt{V'})\),
    \(q' = q - \frac\epsilon2 G g + \sqrt{\epsilon \tau G} \, \xi\). As in the paper's experiments, the term of the
    changes of G is left out, which is a bias of its own. Here V is divided by its weights' sum, as Adam does, so that
    it is an average from the first step on, and the log prior is part of g.

    Args:
        decay: a.
        floor: c.
        frozen: whether V is fixed after warm-up, so that the term left out is 0; False goes on, as in the paper.

    Raises:
        TypeError, ValueError: if an argument is none of the above.

    Example:
        >>> psgld, q = hnbayes.minibatch.PSGLD(decay=0.9), torch.ones(1, 2)
        >>> gradient, noise = torch.tensor([[10.0, 1000.0]]), torch.zeros(1, 2)
        >>> terms = hnbayes.minibatch.StepTerms(gradient, noise, step_size=0.1, data=1, warming_up=True)
        >>> next_q = psgld.step(q, psgld.begin(q), terms)
        >>> bool(torch.allclose(next_q[0, 0], next_q[0, 1], atol=1e-4))  # gradients of any size go as far
        True
    """

    def __init__(self, decay: float = 0.99, floor: float = 1e-5, frozen: bool = True) -> None:
        self.decay = check_fraction("decay", decay)
        self.floor = check_positive("floor", floor)
        if not isinstance(frozen, bool):
            raise TypeError(f"frozen must be True or False; received {describe(frozen)}.")
        self.frozen = frozen

    def begin(self, q: Tensor) -> dict[str, Tensor]:
        """V, and the sum of its weights."""
        return {"square": torch.zeros_like(q), "weight": q.new_zeros(1)}

    def step(self, q: Tensor, memory: dict[str, Tensor], terms: StepTerms) -> Tensor:
        """See `MinibatchKernel.step`."""
        square, weight = memory["square"], memory["weight"]
        if terms.warming_up or not self.frozen:
            square.mul_(self.decay).add_((terms.gradient / terms.data).square(), alpha=1 - self.decay)
            weight.mul_(self.decay).add_(1 - self.decay)
        size = terms.step_size / (self.floor + (square / weight).sqrt())
        return q - 0.5 * size * terms.gradient + (size * terms.temperature).sqrt() * terms.noise


class SGHMC(MinibatchKernel):
    r"""Stochastic gradient Hamiltonian Monte Carlo (Chen, Fox and Guestrin 2014, eq. 15).

    \(v' = (1 - \alpha) v - \epsilon g + \sqrt{2 (\alpha - \hat\beta) \epsilon \tau} \, \xi\), \(q' = q + v'\). Here
    \(\epsilon\) is the paper's \(\eta\), as a learning rate with momentum \(1 - \alpha\): as far as SGLD goes with
    \(\alpha \epsilon_{SGLD} / 2\).

    Args:
        friction: \(\alpha\), between 0 and 1.
        noise_estimate: \(\hat\beta\), what the noise of g adds by itself; below the friction.

    Raises:
        TypeError, ValueError: if an argument is none of the above.

    Example:
        >>> sghmc, q = hnbayes.minibatch.SGHMC(friction=0.1), torch.ones(1, 1)
        >>> memory = sghmc.begin(q)
        >>> terms = hnbayes.minibatch.StepTerms(gradient=q, noise=torch.zeros(1, 1), step_size=0.01, data=10)
        >>> next_q = sghmc.step(q, memory, terms)
        >>> round(float(memory["velocity"]), 6)
        -0.01
    """

    def __init__(self, friction: float = 0.1, noise_estimate: float = 0.0) -> None:
        self.friction = check_fraction("friction", friction)
        self.noise_estimate = 0.0 if noise_estimate == 0 else check_positive("noise_estimate", noise_estimate)
        if self.noise_estimate >= self.friction:
            raise ValueError(f"noise_estimate must be below friction, {friction}; received {noise_estimate}.")

    def begin(self, q: Tensor) -> dict[str, Tensor]:
        """v, at rest."""
        return {"velocity": torch.zeros_like(q)}

    def step(self, q: Tensor, memory: dict[str, Tensor], terms: StepTerms) -> Tensor:
        """See `MinibatchKernel.step`."""
        velocity, size = memory["velocity"], terms.step_size
        spread = math.sqrt(2 * (self.friction - self.noise_estimate) * size * terms.temperature)
        velocity.mul_(1 - self.friction).sub_(terms.gradient, alpha=size).add_(terms.noise, alpha=spread)
        return q + velocity


NAMED: dict[str, type[MinibatchKernel]] = {"sgld": SGLD, "psgld": PSGLD, "sghmc": SGHMC}


def as_kernel(kernel: str | MinibatchKernel) -> MinibatchKernel:
    """A kernel from its name, or itself.

    Raises:
        TypeError: if it is neither.
        ValueError: if the name is unknown.
    """
    if isinstance(kernel, MinibatchKernel):
        return kernel
    if not isinstance(kernel, str):
        raise TypeError(
            f"kernel must be one of {', '.join(NAMED)} or an object of hnbayes.minibatch; received {describe(kernel)}."
        )
    return NAMED[check_choice("kernel", kernel, tuple(NAMED))]()
