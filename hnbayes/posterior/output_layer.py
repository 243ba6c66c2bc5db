r"""Axes on which the output layer, given everything else, is standard normal: the narrowest directions are gone.

Under Gaussian noise and priors the weights u of a linear output layer, in units of their prior's scales, have the
conditional posterior \(N(A^{-1} \Phi^T y, \sigma^2 A^{-1})\), with features \(\Phi\) (N, P) in the same units and
\(A = \Phi^T \Phi + \sigma^2 I = L L^T\). So with

\(u = L^{-T} (L^{-1} \Phi^T y + \sigma \epsilon)\)

the joint density of everything is that of the hidden weights and the noise with the output layer integrated out, times
\(N(\epsilon; 0, I)\). This is a change of variables, so the posterior is the same; what remains for the sampler is the
marginal likelihood of the features, which has no directions as narrow as the noise (Hron et al. 2022, Wide Bayesian
neural networks have a simple weight posterior, section 3). With \(\hat u = A^{-1} \Phi^T y\) its logarithm \(\ell\) has
the derivatives

\(\partial \ell / \partial \Phi = (y - \Phi \hat u) \hat u^T / \sigma^2 - \Phi A^{-1}\),
\(\partial \ell / \partial \sigma = -(N - P) / \sigma - \sigma \operatorname{tr} A^{-1}
+ (y^T y - y^T \Phi \hat u) / \sigma^3 - \hat u^T \hat u / \sigma\),

which are given to autograd as they stand: it would take the products of all data three times as often.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from hnbayes._checks import describe
from hnbayes.likelihoods import Gaussian
from hnbayes.params import ParamSpec
from hnbayes.posterior.coordinates import gaussian_moments
from hnbayes.posterior.model import Model
from hnbayes.potentials.base import CompileMode, Potential
from hnbayes.sampling import Draws

AT_ONCE = 64
LOG_2PI = math.log(2 * math.pi)


class _Parts(NamedTuple):
    """What the conditional posterior of the output layer is made of, in float64; K outputs, P weights of each."""

    values: dict[str, Tensor]
    hidden: Tensor  # what the body gives, in its own dtype: the features but for the bias's
    features: Tensor  # Phi without the prior's scales, (N, P)
    sigma: Tensor
    lower: Tensor  # L, (K, P, P)
    projected: Tensor  # L^-1 Phi^T y, (K, P)


class WhitenedOutput:
    """The posterior on axes on which the output layer is standard normal given the rest.

    A position has the same length and names as that of the model; in the place of the output layer's weights and biases
    it holds epsilon.

    Args:
        model: of an `nn.Sequential` that ends in an `nn.Linear`, with Gaussian noise of one scale, fixed or learned,
            and independent normal priors of mean 0 on the output layer.
        X: inputs (N, ...).
        y: data (N, K).

    Raises:
        TypeError, ValueError: if the model is not of this kind.
    """

    def __init__(self, model: Model, X: Tensor, y: Tensor) -> None:
        self.model, self.X = model, X
        net = model.function.net
        if not isinstance(net, nn.Sequential) or not len(net) or not isinstance(net[-1], nn.Linear):
            raise TypeError(
                "a whitened output layer needs an nn.Sequential that ends in an nn.Linear; received "
                f"{type(net).__name__}. Use output_layer='weights'."
            )
        likelihood = model.likelihood
        if type(likelihood) is not Gaussian or likelihood.scale.shape:
            raise ValueError(
                "a whitened output layer needs Gaussian noise of one scale for all outputs; received "
                f"{likelihood!r}. Use output_layer='weights'."
            )
        self.body, last = net[:-1], next(reversed(net._modules))
        if any(own is shared for own in net[-1].parameters() for shared in self.body.parameters()):
            raise ValueError("the output layer must not share its weights with another. Use output_layer='weights'.")
        self.hidden = tuple(name for name, _ in self.body.named_parameters() if name in model.function.shapes)
        self.weight, self.bias = f"{last}.weight", f"{last}.bias" if net[-1].bias is not None else None
        self.outputs = net[-1].out_features
        scales = [self._scale(self.weight)] + ([self._scale(self.bias)[:, None]] if self.bias else [])
        self.scales = torch.cat(scales, 1)  # (K, P)
        self.y = y.double().reshape(len(y), self.outputs).T  # (K, N)
        self._squares = self.y.square().sum()
        self._mask = torch.ones(model.spec.size, dtype=model.like.dtype, device=model.like.device)
        for name in filter(None, (self.weight, self.bias)):
            at = model.spec.indices(name)
            self._mask[at.start : at.stop] = 0.0

    @property
    def spec(self) -> ParamSpec:
        """What a position is made of, with other names for what isn't the model's: files of draws are to tell."""
        mine = {self.weight: f"whitened.{self.weight}", self.bias: f"whitened.{self.bias}"}
        return ParamSpec(tuple(mine.get(name, name) for name in self.model.spec.names), self.model.spec.shapes)

    def potential(self, compile: CompileMode = "auto", stored: bool = False) -> Potential:
        """U, the negative log density of data and position on these axes, normalised.

        Args:
            compile: see `Potential`.
            stored: whether positions go to files as they are, so that their names must be `spec`'s.
        """
        model = self.model
        constant = float(self.scales.log().sum()) - 0.5 * self.y.numel() * LOG_2PI

        def U(z: Tensor) -> Tensor:
            # The prior of the output layer, which is there with its weights at 0, is replaced by that of epsilon.
            log_prior, _ = model.coordinates.log_prob(z * self._mask)
            epsilon = (z * (1 - self._mask)).square().sum()
            log_marginal = self._log_marginal(self._parts(z))
            return -(log_prior + (log_marginal + constant).to(z.dtype) - 0.5 * epsilon)

        return Potential(U, spec=self.spec if stored else model.spec, compile=compile)

    def _log_marginal(self, parts: _Parts) -> Tensor:
        """The logarithm of the density of the data given features and noise, and of the map to epsilon's axes.

        Its first derivatives are right, those beyond are not.
        """
        features, sigma = parts.features.detach(), parts.sigma.detach()
        lower, projected = parts.lower.detach(), parts.projected.detach()
        count = self.y.numel() - self.scales.numel()
        left = self._squares - projected.square().sum()
        value = -count * sigma.log() - lower.diagonal(dim1=-2, dim2=-1).log().sum() - 0.5 * left / sigma.square()

        u_hat = torch.linalg.solve_triangular(lower.mT, projected[..., None], upper=True)[..., 0]  # (K, P)
        inverse = torch.cholesky_inverse(lower)
        trace = inverse.diagonal(dim1=-2, dim2=-1).sum()
        by_sigma = -count / sigma - sigma * trace + left / sigma**3 - u_hat.square().sum() / sigma

        weights = self.scales * u_hat
        residuals = self.y - weights @ features.mT
        between = (self.scales[:, :, None] * inverse * self.scales[:, None, :]).sum(0)
        # The gradient may be rounded as the hidden units are; U, of which differences decide, may not.
        hidden, width = parts.hidden.detach(), parts.hidden.shape[1]
        rounded = between[:, :width].to(hidden.dtype)
        by_hidden = (residuals.mT / sigma.square()).to(hidden.dtype) @ weights[:, :width].to(hidden.dtype)
        by_hidden = by_hidden - hidden @ rounded[:width]
        if self.bias:
            by_hidden = by_hidden - rounded[width]
        # Both differences are 0: they carry the derivatives.
        return value + by_sigma * (parts.sigma - sigma) + (by_hidden * (parts.hidden - hidden)).sum()

    @torch.no_grad()
    def to_weights(self, z: Tensor) -> Tensor:
        """Positions of the model, (*batch, D), that positions on these axes stand for."""
        return self._each(self._to_weights, z)

    @torch.no_grad()
    def from_weights(self, q: Tensor) -> Tensor:
        """The reverse of `to_weights`."""
        return self._each(self._from_weights, q)

    def standardised(self, q: Tensor) -> Tensor:
        """Draws of the prior as positions on these axes, whose epsilon is the output layer in units of its scales."""
        return self._each(lambda row: self._with_last(row, self._last(row).double() / self.scales), q)

    def draws(self, draws: Draws) -> Draws:
        """Draws on these axes as draws of the model; step sizes and metrics stay those of these axes."""

        def moved(positions: Tensor | None, stats: dict[str, Tensor] | None) -> tuple[Any, Any]:
            if positions is None or stats is None or not positions.numel():
                return positions, stats
            there = positions.to(self.model.like.device)
            return self.to_weights(there).cpu(), {**stats, "lp": stats["lp"] - self._each(self._log_det, there).cpu()}

        positions, stats = moved(draws.positions, draws.stats)
        warmup_positions, warmup_stats = moved(draws.warmup_positions, draws.warmup_stats)
        ragged = draws.ragged_positions
        return dataclasses.replace(
            draws,
            spec=self.model.spec,
            positions=positions,
            stats=stats,
            warmup_positions=warmup_positions,
            warmup_stats=warmup_stats,
            metadata={**draws.metadata, "output_layer": "whitened"},
            ragged_positions=None if ragged is None else tuple(self.to_weights(chain) for chain in ragged),
        )

    def _scale(self, name: str) -> Tensor:
        """The standard deviations of a parameter's prior, in float64, of the parameter's shape."""
        latents = {latent.name: latent for latent in self.model.bound.latents}
        if name not in self.model.function.shapes:
            raise ValueError(f"a whitened output layer must be trainable; {name!r} is frozen.")
        latent = latents.get(name)
        known = latent is not None and not latent.depends and self.model.bound.log_prob_func is None
        moments = gaussian_moments(latent.distribution({})) if known and latent is not None else None
        if latent is None or moments is None or bool((moments[0] != 0).any()) or bool((moments[1] <= 0).any()):
            raise ValueError(
                f"a whitened output layer needs a normal prior of mean 0 and fixed scale for {name!r}; received "
                f"{describe(self.model.prior)}. Use output_layer='weights'."
            )
        return moments[1].double().rsqrt().expand(latent.shape)

    def _parts(self, position: Tensor) -> _Parts:
        values, _ = self.model.coordinates.constrain(position)
        weights = self.model.bound.weights_of(values)
        hidden = functional_call(self.body, {name: weights[name] for name in self.hidden}, (self.X,))
        features = torch.cat([hidden, torch.ones_like(hidden[:, :1])], 1).double() if self.bias else hidden.double()
        output_like = features[:, :1]
        sigma = self.model.likelihood.scale.value(values, output_like).double()  # type: ignore[attr-defined]
        identity = torch.eye(self.scales.shape[1], dtype=features.dtype, device=features.device)
        gram = features.T @ features
        lower = torch.linalg.cholesky(
            self.scales[:, :, None] * gram * self.scales[:, None, :] + sigma.square() * identity
        )
        moment = self.scales * (self.y @ features)
        projected = torch.linalg.solve_triangular(lower, moment[..., None], upper=False)[..., 0]
        return _Parts(values, hidden, features, sigma, lower, projected)

    def _last(self, position: Tensor) -> Tensor:
        """The output layer's numbers in a position, (K, P)."""
        parts = self.model.spec.unflatten(position)
        rows = [parts[self.weight]] + ([parts[self.bias][:, None]] if self.bias else [])
        return torch.cat(rows, 1)

    def _with_last(self, position: Tensor, last: Tensor) -> Tensor:
        parts = dict(self.model.spec.unflatten(position))
        inputs = parts[self.weight].shape[1]
        parts[self.weight] = last[:, :inputs].to(position.dtype)
        if self.bias:
            parts[self.bias] = last[:, inputs].to(position.dtype)
        return self.model.spec.flatten(parts)

    def _to_weights(self, z: Tensor) -> Tensor:
        parts = self._parts(z)
        right = parts.projected + parts.sigma * self._last(z).double()
        u = torch.linalg.solve_triangular(parts.lower.mT, right[..., None], upper=True)[..., 0]
        return self._with_last(z, self.scales * u)

    def _from_weights(self, q: Tensor) -> Tensor:
        parts = self._parts(q)
        u = self._last(q).double() / self.scales
        return self._with_last(q, ((parts.lower.mT @ u[..., None])[..., 0] - parts.projected) / parts.sigma)

    def _log_det(self, z: Tensor) -> Tensor:
        """The logarithm of the determinant of `to_weights`' derivative."""
        parts = self._parts(z)
        diagonal = parts.lower.diagonal(dim1=-2, dim2=-1).log().sum()
        return self.scales.log().sum() + self.scales.numel() * parts.sigma.log() - diagonal

    @staticmethod
    def _each(function: Any, positions: Tensor) -> Tensor:
        rows = positions.reshape(-1, positions.shape[-1])
        result: Tensor = vmap(function, chunk_size=AT_ONCE)(rows)
        return result.reshape(positions.shape[:-1] + result.shape[1:])
