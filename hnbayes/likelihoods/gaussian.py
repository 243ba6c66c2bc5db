r"""Gaussian noise of one scale, or of a scale that the network gives for each input."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor
from torch.distributions import Distribution, Normal
from torch.nn.functional import softplus

from hnbayes._checks import check_choice, check_positive, describe
from hnbayes._distributions import to_event
from hnbayes.likelihoods.likelihood import Likelihood, PerOutput, check_output
from hnbayes.likelihoods.quantity import Quantity

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Gaussian(PerOutput):
    r"""\(y_n \sim N(f(x_n), \sigma^2)\), independent over the dimensions of one datum.

    Args:
        scale: \(\sigma\): a positive number (or a tensor of one for each output); "learned", with the prior
            HalfNormal(1), which suits standardised targets; or its prior, a distribution of positive numbers of
            shape () or that of one output. What is learned is called "sigma".

    Raises:
        TypeError: if the scale is of another kind.
        ValueError: if it isn't positive.

    Example:
        >>> likelihood = hnbayes.likelihoods.Gaussian(scale=0.5)
        >>> output, y = torch.zeros(3, 1), torch.ones(3, 1)
        >>> likelihood.log_prob(output, y).shape  # one number for each datum
        torch.Size([3])
        >>> list(hnbayes.likelihoods.Gaussian().parameters(output))  # learned beside the weights
        ['sigma']
    """

    def __init__(self, scale: float | Tensor | Distribution | str = "learned") -> None:
        self.scale = Quantity("sigma", scale, 1.0)

    def __repr__(self) -> str:
        return f"Gaussian(scale={self.scale!r})"

    def parameters(self, output: Tensor) -> dict[str, Distribution]:
        """The prior of "sigma" if it is learned."""
        return self.scale.parameters(output)

    def data_shape(self, output: Tensor) -> tuple[int, ...]:
        """The outputs' shape."""
        shape = super().data_shape(output)
        self.scale.check(shape[1:])
        return shape

    def distribution(self, output: Tensor, batch: int = 0, **parameters: Tensor) -> Distribution:
        """Normal around the outputs; see `Likelihood.distribution`."""
        sigma = self.scale.value(parameters, output)
        return to_event(Normal(output, sigma, validate_args=False), output.ndim - batch - 1)

    def total_log_prob(self, output: Tensor, y: Tensor, **parameters: Tensor) -> Tensor:
        """The squares are summed before they are divided by the variance, which spares a pass over the data."""
        if self.scale.shape:
            return super().total_log_prob(output, y, **parameters)
        squares, count = (output - y).square().sum(), y.numel()
        if self.scale.learned:
            sigma = self.scale.value(parameters, output)
            return squares * (-0.5 * sigma.pow(-2)) - count * sigma.log() - count * HALF_LOG_2PI
        fixed = float(self.scale.fixed)  # type: ignore[arg-type]
        return squares * (-0.5 / fixed**2) - count * (math.log(fixed) + HALF_LOG_2PI)


class HeteroscedasticGaussian(Likelihood):
    r"""\(y_n \sim N(\mu(x_n), \sigma(x_n)^2)\) with outputs \((\mu, r)\) and \(\sigma = \sigma_0 + g(r)\).

    The network's last dimension has two numbers for each dimension of a datum: first all means, then all r. The data
    have shape (N, K) for outputs (N, 2K).

    Args:
        link: g: "exp" (r is then the logarithm of the scale) or "softplus".
        minimum: \(\sigma_0\), at least 0: keeps a network that interpolates the data from an infinite density.

    Raises:
        TypeError, ValueError: if an argument is none of the above.

    Example:
        >>> likelihood = hnbayes.likelihoods.HeteroscedasticGaussian(link="exp", minimum=0.0)
        >>> output = torch.tensor([[2.0, 0.0]])  # mean 2, scale exp(0)
        >>> noise = likelihood.distribution(output)
        >>> noise.mean, noise.stddev
        (tensor([[2.]]), tensor([[1.]]))
        >>> likelihood.data_shape(output)
        (1, 1)
    """

    def __init__(self, link: Literal["exp", "softplus"] = "softplus", minimum: float = 1e-3) -> None:
        self.link = check_choice("link", link, ("exp", "softplus"))
        self.minimum = 0.0 if minimum == 0 else check_positive("minimum", minimum)

    def __repr__(self) -> str:
        return f"HeteroscedasticGaussian(link={self.link!r}, minimum={self.minimum})"

    def data_shape(self, output: Tensor) -> tuple[int, ...]:
        """Half as many numbers as the outputs have in the last dimension."""
        check_output(output)
        if output.ndim < 2 or output.shape[-1] % 2 or output.shape[-1] == 0:
            raise ValueError(
                "the network must give two outputs, mean and scale, for each dimension of a datum; received outputs of "
                f"{describe(output)}. Make the last layer twice as wide."
            )
        return (*output.shape[:-1], output.shape[-1] // 2)

    def distribution(self, output: Tensor, batch: int = 0, **parameters: Tensor) -> Distribution:
        """Normal with the outputs' mean and scale; see `Likelihood.distribution`."""
        mean, raw = output.chunk(2, dim=-1)
        scale = self.minimum + (raw.exp() if self.link == "exp" else softplus(raw))
        return to_event(Normal(mean, scale, validate_args=False), output.ndim - batch - 1)
