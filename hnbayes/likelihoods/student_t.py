"""Student's t noise: a regression that outliers don't pull away."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma
from torch.distributions import StudentT as TorchStudentT

from hnbayes._distributions import to_event, without_validation
from hnbayes.likelihoods.likelihood import PerOutput
from hnbayes.likelihoods.quantity import Quantity


class StudentT(PerOutput):
    r"""\(y_n \sim t_\nu(f(x_n), \sigma)\), independent over the dimensions of one datum.

    Args:
        df: \(\nu\), the degrees of freedom: a positive number; "learned", with the prior Gamma(2, rate 0.1) of Juarez
            and Steel (2010); or its prior. What is learned is called "df".
        scale: \(\sigma\), as that of `Gaussian`, called "sigma".

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if it isn't positive.

    Example:
        >>> t, normal = hnbayes.likelihoods.StudentT(df=4.0, scale=1.0), hnbayes.likelihoods.Gaussian(1.0)
        >>> output, outlier = torch.zeros(1, 1), torch.full((1, 1), 8.0)
        >>> bool(t.log_prob(output, outlier) > normal.log_prob(output, outlier))
        True
    """

    def __init__(
        self,
        df: float | Tensor | Distribution | str = 4.0,
        scale: float | Tensor | Distribution | str = "learned",
    ) -> None:
        gamma = Gamma(torch.tensor(2.0, dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64))
        self.df = Quantity("df", df, gamma)
        self.scale = Quantity("sigma", scale, 1.0)

    def __repr__(self) -> str:
        return f"StudentT(df={self.df!r}, scale={self.scale!r})"

    def parameters(self, output: Tensor) -> dict[str, Distribution]:
        """The priors of those of "df" and "sigma" that are learned."""
        return {**self.df.parameters(output), **self.scale.parameters(output)}

    def data_shape(self, output: Tensor) -> tuple[int, ...]:
        """The outputs' shape."""
        shape = super().data_shape(output)
        self.df.check(shape[1:])
        self.scale.check(shape[1:])
        return shape

    def distribution(self, output: Tensor, batch: int = 0, **parameters: Tensor) -> Distribution:
        """Student's t around the outputs; see `Likelihood.distribution`."""
        df, scale = self.df.value(parameters, output), self.scale.value(parameters, output)
        # Torch's class holds a chi-squared distribution, which checks its argument whatever `validate_args` says.
        with without_validation():
            noise = TorchStudentT(df, output, scale, validate_args=False)
        return to_event(noise, output.ndim - batch - 1)
