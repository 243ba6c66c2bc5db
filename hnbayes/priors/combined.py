"""Priors that are put together from others, or come from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from hnbayes._checks import describe
from hnbayes._distributions import to_event
from hnbayes.laplace.gaussian import DiagGaussian
from hnbayes.laplace.precision_normal import PrecisionNormal
from hnbayes.params import ParamSpec
from hnbayes.priors.independent import themselves
from hnbayes.priors.prior import BoundPrior, Latent, Prior, Values, check_like


class Patterns(Prior):
    """A prior for each parameter by its name: that of the first pattern which it matches.

    Args:
        priors: a pattern (of `fnmatch`, "*.weight") -> a prior. Parameters that have the same object share its scales.

    Raises:
        TypeError: if a pattern is no text, or a prior is over all weights at once.

    Example:
        >>> small, wide = hnbayes.priors.Normal(0.0, 0.1), hnbayes.priors.Normal(0.0, 1.0)
        >>> prior = hnbayes.priors.Patterns({"*.bias": small, "*": wide})
        >>> w = prior.sample(torch.nn.Sequential(torch.nn.Linear(9, 9)), 50, seed=0)
        >>> {name: round(values.std().item(), 1) for name, values in w.items()}
        {'0.weight': 1.0, '0.bias': 0.1}
    """

    def __init__(self, priors: Mapping[str, Prior]) -> None:
        for pattern, prior in priors.items():
            if not isinstance(pattern, str):
                raise TypeError(f"patterns must be text, as '*.weight'; received {describe(pattern)}.")
            if isinstance(prior, (FromGaussian, FromFunction)):
                raise TypeError(
                    f"the prior of {pattern!r} must be one of single parameters; received {prior!r}, which is over all "
                    "weights at once."
                )
        self.priors = dict(priors)

    def __repr__(self) -> str:
        return f"Patterns({self.priors!r})"

    def bind(self, like: Values) -> BoundPrior:
        """See `Prior.bind`.

        Raises:
            ValueError: if a parameter matches no pattern, a pattern no parameter, or names of latents collide.
        """
        check_like(like)
        found = self._matched(like)
        parts: list[BoundPrior] = []
        for prior in {id(prior): prior for prior in found.values()}.values():
            parts.append(prior.bind({name: like[name] for name in like if found[name] is prior}))
        latents = tuple(latent for part in parts for latent in part.latents)
        names = [latent.name for latent in latents]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"the names of latents must differ; two priors have {', '.join(twice)}. Give one of them another "
                "name, or the same object to all parameters that shall share it."
            )

        def weights(values: Values) -> dict[str, Tensor]:
            merged = {name: tensor for part in parts for name, tensor in part.weights_of(values).items()}
            return {name: merged[name] for name in like}

        def latents_of(given: Values) -> dict[str, Tensor]:
            return {name: tensor for part in parts for name, tensor in part.values_of(given).items()}

        return BoundPrior({name: tuple(t.shape) for name, t in like.items()}, latents, weights, latents_of)

    def _matched(self, like: Values) -> dict[str, Prior]:
        found: dict[str, Prior] = {}
        used = set()
        for name in like:
            pattern = next((pattern for pattern in self.priors if fnmatchcase(name, pattern)), None)
            if pattern is None:
                raise ValueError(
                    f"each parameter must match a pattern of the prior; {name!r} matches none of "
                    f"{', '.join(map(repr, self.priors)) or 'no patterns'}. Add '*' as the last one."
                )
            used.add(pattern)
            found[name] = self.priors[pattern]
        if unused := [pattern for pattern in self.priors if pattern not in used]:
            raise ValueError(
                f"each pattern of the prior must be the first match of some parameter; {unused[0]!r} is of none of "
                f"{', '.join(like)}. Correct it, or put it before the more general ones."
            )
        return found


class FromGaussian(Prior):
    """A Gaussian over all weights, as EWC and SI give it.

    Args:
        gaussian: with a spec, it must be over the network's parameters, in whatever order; without one its numbers are
            taken in the parameters' order.

    Example:
        >>> before = hnbayes.laplace.DiagGaussian(torch.tensor([1.0, -1.0]), torch.tensor([100.0, 4.0]))
        >>> prior = hnbayes.priors.FromGaussian(before)  # what an earlier task has taught
        >>> w = prior.sample(torch.nn.Linear(1, 1), 2000, seed=0)
        >>> round(w["weight"].std().item(), 1), round(w["bias"].std().item(), 1)
        (0.1, 0.5)
    """

    def __init__(self, gaussian: DiagGaussian) -> None:
        self.gaussian = gaussian

    def __repr__(self) -> str:
        return f"FromGaussian({self.gaussian!r})"

    def bind(self, like: Values) -> BoundPrior:
        """See `Prior.bind`."""
        check_like(like)
        shapes = {name: tuple(tensor.shape) for name, tensor in like.items()}
        spec = self.gaussian.spec or ParamSpec(tuple(shapes), tuple(shapes.values()))
        given = dict(zip(spec.names, spec.shapes, strict=True))
        if shapes != given:
            raise ValueError(f"the Gaussian must be over the parameters of this network, {shapes}; it is over {given}.")
        if spec.size != len(self.gaussian.mean):
            raise ValueError(
                f"the Gaussian must be over as many numbers as the network has weights, {spec.size}; it is over "
                f"{len(self.gaussian.mean)}."
            )
        means, precisions = spec.unflatten(self.gaussian.mean), spec.unflatten(self.gaussian.precision)
        latents = tuple(
            Latent.fixed(name, _precision_normal(means[name].to(tensor), precisions[name].to(tensor)))
            for name, tensor in like.items()
        )
        return BoundPrior(shapes, latents, *themselves(shapes))


class FromFunction(Prior):
    """A prior that is no more than a function: the log density of the flat weights (D,), in the parameters' order.

    It can be sampled with the data, but not from, and it isn't known to Pyro.

    Args:
        log_prob: the documented `prior_log_prob_func`: (D,) -> a 0-dimensional tensor, up to a constant.

    Example:
        >>> prior = hnbayes.priors.FromFunction(lambda q: -q.abs().sum())
        >>> bound = prior.bind({"w": torch.zeros(2)})
        >>> bound.log_prob({"w": torch.tensor([1.0, -2.0])})
        tensor(-3.)
    """

    def __init__(self, log_prob: Callable[[Tensor], Tensor]) -> None:
        self.log_prob = log_prob

    def __repr__(self) -> str:
        return f"FromFunction({getattr(self.log_prob, '__qualname__', type(self.log_prob).__name__)})"

    def bind(self, like: Values) -> BoundPrior:
        """See `Prior.bind`.

        Raises:
            TypeError, ValueError: if the function doesn't give a scalar for the flat weights.
        """
        check_like(like)
        shapes = {name: tuple(tensor.shape) for name, tensor in like.items()}
        trial = self.log_prob(torch.cat([tensor.detach().reshape(-1) for tensor in like.values()]))
        if not isinstance(trial, Tensor):
            raise TypeError(f"the prior's function must return a tensor; received {describe(trial)}.")
        if trial.ndim != 0:
            raise ValueError(
                f"the prior's function must give a scalar for weights of shape (D,); received {describe(trial)}. "
                "Sum over the weights."
            )
        # An improper prior that adds nothing, so that the weights are latents as they are under other priors.
        latents = tuple(
            Latent.fixed(name, _precision_normal(torch.zeros_like(tensor), torch.zeros_like(tensor)))
            for name, tensor in like.items()
        )
        return BoundPrior(shapes, latents, *themselves(shapes), log_prob_func=self.log_prob)


def _precision_normal(mean: Tensor, precision: Tensor) -> Any:
    return to_event(PrecisionNormal(mean, precision, validate_args=False), mean.ndim)
