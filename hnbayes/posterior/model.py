"""Model: a network, a prior over its weights and a likelihood, as functions of one unconstrained vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from hnbayes._checks import describe
from hnbayes._distributions import to_event
from hnbayes.likelihoods import Likelihood, as_likelihood
from hnbayes.params import ParamSpec
from hnbayes.posterior.coordinates import Coordinates
from hnbayes.posterior.data import as_data, as_inputs
from hnbayes.posterior.parts import potential_parts
from hnbayes.potentials.base import CompileMode, Potential
from hnbayes.potentials.networks import NetworkFunction
from hnbayes.priors import Latent, as_prior


class Model:
    """p(y | f(x; w), theta) p(w) p(theta): weights w and learned parameters theta of the likelihood.

    Args:
        net: any `torch.nn.Module`, which is never changed, in evaluation mode if it holds dropout or batch
            normalisation.
        likelihood: see `hnbayes.likelihoods.as_likelihood`.
        prior: see `hnbayes.priors.as_prior`.
        X: inputs, on which the network is tried.

    Attributes:
        function: the network as a function of its weights.
        likelihood, prior: as objects.
        bound: the prior of this network's weights.
        learned: name -> latent of the likelihood's parameters.
        coordinates: the unconstrained axes of weights and learned parameters.

    Raises:
        TypeError, ValueError: if the parts are of another kind or don't fit each other.

    Example:
        >>> net, X = torch.nn.Linear(2, 1), torch.randn(10, 2)
        >>> model = hnbayes.posterior.Model(net, "gaussian", 1.0, X)
        >>> model.spec.names, list(model.learned)
        (('weight', 'bias', 'sigma'), ['sigma'])
    """

    def __init__(self, net: nn.Module, likelihood: Any, prior: Any, X: Any) -> None:
        self.function = NetworkFunction(net)
        self.likelihood: Likelihood = as_likelihood(likelihood)
        self.prior = as_prior(prior)
        like = self.function.like()
        dtypes = {tensor.dtype for tensor in like.values()}
        if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
            raise TypeError(
                f"the network's parameters must be all float32 or all float64; received {', '.join(map(str, dtypes))}. "
                "Convert with net.float() or net.double()."
            )
        self.like = next(iter(like.values()))
        self.bound = self.prior.bind(like)
        output = self.outputs_at_present(as_inputs(X, self.like))
        self.likelihood.data_shape(output)
        self.learned = {
            name: Latent.fixed(name, to_event(prior, len(prior.batch_shape)))
            for name, prior in self.likelihood.parameters(output).items()
        }
        names = [latent.name for latent in self.bound.latents]
        if taken := [name for name in self.learned if name in names or name in self.function.shapes]:
            raise ValueError(
                f"names must differ; {taken[0]!r} is a weight or hyperparameter and a parameter of the likelihood too. "
                "Rename the network's attribute or the prior's scale."
            )
        self.coordinates = Coordinates((*self.bound.latents, *self.learned.values()), self.like)

    @property
    def spec(self) -> ParamSpec:
        """Names and shapes of what a position (D,) is made of."""
        return self.coordinates.spec

    @property
    def named(self) -> ParamSpec:
        """Names and shapes of what is reported: weights, hyperparameters, parameters of the likelihood."""
        shapes = dict(self.function.shapes)
        for latent in self.coordinates.latents:
            if not latent.auxiliary:
                shapes.setdefault(latent.name, latent.shape)
        return ParamSpec(tuple(shapes), tuple(shapes.values()))

    def potential(self, X: Tensor, y: Tensor, compile: CompileMode = "auto") -> Potential:
        """U, the negative log joint density of data and position, normalised.

        Args:
            X: inputs (N, ...).
            y: data as the likelihood takes them.
            compile: see `Potential`.
        """

        def U(q: Tensor) -> Tensor:
            log_prior, log_likelihood = self.log_terms(q, X, y)
            return -(log_prior + log_likelihood)

        def outputs(q: Tensor) -> Tensor:
            return self.function(self.bound.weights_of(self.coordinates.constrain(q)[0]), X)

        learned = tuple(self.learned.values())
        parts = potential_parts(self.bound, learned, self.likelihood, outputs, X, y, self.like)
        return Potential(U, spec=self.spec, compile=compile, parts=parts)

    def log_terms(self, q: Tensor, X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The log prior density of a position (D,) on the unconstrained axes, and the log likelihood of some data.

        Args:
            q: the position; for several at once, use `torch.func.vmap`.
            X: inputs (N, ...).
            y: data as the likelihood takes them.

        Returns:
            Two 0-dimensional tensors, both normalised.
        """
        log_prior, values = self._log_prior(q)
        output = self.function(self.bound.weights_of(values), X)
        parameters = {name: values[name] for name in self.learned}
        return log_prior, self.likelihood.total_log_prob(output, y, **parameters)

    def _log_prior(self, q: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The log prior density of a position (D,) on the unconstrained axes, and the latents on their own scales."""
        log_prior, values = self.coordinates.log_prob(q)
        if self.bound.log_prob_func is not None:
            # The latents are the weights and come first.
            log_prior = log_prior + self.bound.log_prob_func(q[: self.function.spec.size])
        return log_prior, values

    def values(self, positions: Tensor) -> dict[str, Tensor]:
        """All latents on their own scales.

        Args:
            positions: (*batch, D).

        Returns:
            Name -> tensor (*batch, *shape).
        """
        flat = positions.reshape(-1, positions.shape[-1])
        values: dict[str, Tensor] = vmap(lambda q: self.coordinates.constrain(q)[0])(flat)
        return {name: value.reshape(positions.shape[:-1] + value.shape[1:]) for name, value in values.items()}

    def reported(self, positions: Tensor) -> dict[str, Tensor]:
        """What `named` names: weights and parameters on their own scales, (*batch, *shape)."""
        values = self.values(positions)
        everything = {**values, **self.bound.weights(values)}
        return {name: everything[name] for name in self.named.names}

    def log_prior(self, positions: Tensor) -> Tensor:
        """The log prior density of weights and learned parameters on their own scales, (M,) for positions (M, D)."""

        def one(q: Tensor) -> Tensor:
            return self._log_prior(q)[0] - self.coordinates.constrain(q)[1]

        result: Tensor = vmap(one, chunk_size=256)(positions)
        return result

    def outputs(self, values: Mapping[str, Tensor], X: Tensor) -> Tensor:
        """The network's outputs (M, N, ...) for values of the latents (M, *shape)."""
        return self.function(self.bound.weights(values), X)

    def data(self, X: Any, y: Any) -> tuple[Tensor, Tensor]:
        """Inputs and data as tensors, checked.

        Raises:
            TypeError, ValueError: if they don't fit the network or the likelihood.
        """
        inputs = as_inputs(X, self.like)
        output = self.outputs_at_present(inputs)
        return inputs, as_data(y, output, self.likelihood)

    @torch.no_grad()
    def outputs_at_present(self, X: Tensor) -> Tensor:
        """The outputs at the network's own weights.

        Raises:
            ValueError: if the network can't be applied to X, or doesn't give one output for each input.
        """
        try:
            output = self.function(self.function.like(), X)
        except RuntimeError as error:
            raise ValueError(
                f"the network can't be applied to X, {describe(X)}; check its shape, dtype and device. "
                f"It raised: {error}"
            ) from error
        if output.ndim == 0 or len(output) != len(X):
            raise ValueError(
                f"the network must give one output for each of the {len(X)} inputs; received outputs of shape "
                f"{tuple(output.shape)}."
            )
        return output
