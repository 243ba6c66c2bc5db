"""Prior: a distribution over the weights of any network; BoundPrior: over those of one network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from hnbayes._checks import check_count, describe
from hnbayes.potentials.networks import NetworkFunction
from hnbayes.rng import resolve_seed, seeded

Shape: TypeAlias = tuple[int, ...]
Values: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True)
class Latent:
    """One of the random quantities that make up the weights.

    Attributes:
        name: what it is called: "0.weight", "0.weight_z", "0.prior_scale".
        shape: its shape.
        distribution: gives, from the values of the latents before it (*batch, *shape), its distribution, without
            validation: the event shape is `shape`, the batch shape `batch`, or () if it depends on none.
        depends: the names of the latents that it depends on.
        auxiliary: whether it has no meaning of its own, but stands in for a parameter (`<parameter>_z`).

    Example:
        >>> normal = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1.0), 1)
        >>> latent = hnbayes.priors.Latent.fixed("w", normal)
        >>> latent.name, latent.shape, latent.depends
        ('w', (2,), ())
    """

    name: str
    shape: Shape
    distribution: Callable[[Values], Distribution]
    depends: tuple[str, ...] = ()
    auxiliary: bool = False

    @classmethod
    def fixed(cls, name: str, distribution: Distribution, auxiliary: bool = False) -> Latent:
        """A latent that depends on no other."""
        return cls(name, tuple(distribution.event_shape), lambda values: distribution, (), auxiliary)


@dataclass(frozen=True)
class BoundPrior:
    """A prior over the parameters of one network, as latents from which the weights follow.

    Attributes:
        shapes: the parameters' names and shapes.
        latents: in the order in which they are sampled.
        weights_of: the weights that values of the latents stand for; see `weights`.
        values_of: the reverse: some values of the latents that stand for given weights.
        log_prob_func: for a prior that is no more than a function: its log density of the flat weights (D,), to which
            the latents, which then are the weights themselves, add nothing.

    Example:
        >>> bound = hnbayes.priors.HierarchicalNormal(per="all").bind({"w": torch.zeros(2, 3)})
        >>> values = bound.sample(5, seed=0)
        >>> {name: tuple(value.shape) for name, value in values.items()}
        {'prior_scale': (5,), 'w_z': (5, 2, 3)}
        >>> torch.equal(bound.weights(values)["w"], values["prior_scale"][:, None, None] * values["w_z"])
        True
        >>> bound.log_prob(values).shape
        torch.Size([5])
    """

    shapes: Mapping[str, Shape]
    latents: tuple[Latent, ...]
    weights_of: Callable[[Values], dict[str, Tensor]] = field(repr=False)
    values_of: Callable[[Values], dict[str, Tensor]] = field(repr=False)
    log_prob_func: Callable[[Tensor], Tensor] | None = None

    def weights(self, values: Values) -> dict[str, Tensor]:
        """The weights.

        Args:
            values: name of a latent -> tensor (*batch, *shape); others are ignored.

        Returns:
            Name of a parameter -> tensor (*batch, *shape).

        Raises:
            ValueError: if a latent is missing.
        """
        if missing := [latent.name for latent in self.latents if latent.name not in values]:
            raise ValueError(
                f"values must hold {', '.join(latent.name for latent in self.latents)}; missing: {', '.join(missing)}."
            )
        return self.weights_of(values)

    def log_prob(self, values: Values) -> Tensor:
        """The log density of the latents' values, each on its own scale.

        Args:
            values: name of a latent -> tensor (*batch, *shape); without `batch` where there is a `log_prob_func`, which
                is a function of one vector.

        Returns:
            Tensor of shape (*batch,).
        """
        terms: list[Tensor] = [latent.distribution(values).log_prob(values[latent.name]) for latent in self.latents]
        if self.log_prob_func is not None:
            weights = self.weights(values)
            terms.append(self.log_prob_func(torch.cat([w.reshape(-1) for w in weights.values()])))
        return torch.stack(torch.broadcast_tensors(*terms)).sum(0)  # type: ignore[no-untyped-call]

    def sample(self, count: int, seed: int | None = None) -> dict[str, Tensor]:
        """Draws of the latents.

        Args:
            count: how many.
            seed: a non-negative integer; None draws one from torch's global generator, which is otherwise left alone.

        Returns:
            Name of a latent -> tensor (count, *shape).

        Raises:
            ValueError: if the prior is improper, or a function, so that there is nothing to sample from.
        """
        count = check_count("count", count)
        if self.log_prob_func is not None:
            raise ValueError(
                "a prior given as a function can't be sampled from. Give a distribution or a class of hnbayes.priors."
            )
        values: dict[str, Tensor] = {}
        with seeded(resolve_seed(seed)):
            for latent in self.latents:
                distribution = latent.distribution(values)
                shape = () if latent.depends else (count,)
                values[latent.name] = distribution.sample(torch.Size(shape))
        return values


class Prior(ABC):
    """A distribution over the weights of a network, to be bound to the parameters of one.

    Example:
        >>> net, X = torch.nn.Linear(1, 1), torch.linspace(-1, 1, 4)[:, None]
        >>> prior = hnbayes.priors.as_prior(1.0)
        >>> prior.sample_functions(net, X, 20, seed=0).shape  # look at it before you see data
        torch.Size([20, 4, 1])
    """

    @abstractmethod
    def bind(self, like: Values) -> BoundPrior:
        """The prior of the parameters of one network.

        Args:
            like: name of a parameter -> a tensor of its shape, dtype and device.

        Raises:
            ValueError: if it doesn't fit these parameters.
        """

    def sample(self, net: nn.Module, count: int = 1, *, seed: int | None = None) -> dict[str, Tensor]:
        """Draws of a network's weights.

        Args:
            net: the network, which isn't changed.
            count: how many.
            seed: a non-negative integer; None draws one from torch's global generator.

        Returns:
            Name of a parameter -> tensor (count, *shape).

        Raises:
            ValueError: if the prior doesn't fit the network or can't be sampled from.
        """
        bound = self.bind(NetworkFunction(net).like())
        return bound.weights(bound.sample(count, seed))

    @torch.no_grad()
    def sample_functions(self, net: nn.Module, X: Tensor, count: int = 1, *, seed: int | None = None) -> Tensor:
        """What a network gives for draws of its weights.

        Args:
            net: the network, which isn't changed.
            X: inputs (N, ...).
            count: how many functions.
            seed: a non-negative integer; None draws one from torch's global generator.

        Returns:
            Tensor of shape (count, N, ...).
        """
        return NetworkFunction(net)(self.sample(net, count, seed=seed), X)


def check_like(like: Values) -> None:
    """Raise unless there are named floating-point tensors."""
    if not like:
        raise ValueError("a prior needs at least one parameter; received none.")
    for name, tensor in like.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise TypeError(f"each parameter must be a floating-point tensor; {name!r} is {describe(tensor)}.")
