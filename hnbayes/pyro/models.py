"""BayesianNetwork: any network with a prior and a likelihood, as a Pyro model."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from hnbayes._checks import check_choice, check_finite, describe
from hnbayes._distributions import own_shape
from hnbayes.likelihoods import Likelihood, as_likelihood
from hnbayes.potentials.networks import NetworkFunction
from hnbayes.priors import BoundPrior, as_prior
from hnbayes.pyro.distributions import as_pyro, to_event
from hnbayes.pyro.flat import FlatSite

DATA, OBSERVED = "data", "obs"
Shape = tuple[int, ...]


class BayesianNetwork:
    """A Pyro model `model(X, y=None)` of data y given f(X; weights), with a prior over the weights of f.

    Each latent of the prior is a site of its name ("0.weight", "0.prior_scale"), outside the data plate "data"; what
    the likelihood learns is a site too ("sigma"), and the data are the site "obs". It goes wherever Pyro takes a model:
    `MCMC` with any number of processes (it is picklable if net, prior and likelihood are), `SVI` with autoguides,
    `Predictive` (parallel or not; without y it predicts), `az.from_pyro`. The network itself is never changed, nothing
    gets into the parameter store, and parameters that need no gradient stay constants.

    Args:
        net: any `torch.nn.Module` that maps inputs (N, ...) to one tensor (N, ...), in evaluation mode if it holds
            dropout or batch normalisation.
        prior: what `hnbayes.priors.as_prior` takes: a standard deviation, a distribution, a class of `hnbayes.priors`,
            a dict from patterns of names ("*.weight") to these, or a `DiagGaussian` over all weights, but no bare
            function of the weights, from which Pyro couldn't draw.
        likelihood: what `hnbayes.likelihoods.as_likelihood` takes: a name such as "gaussian" (of learned noise "sigma")
            or "categorical", a class of `hnbayes.likelihoods`, or a function from outputs to a distribution. None makes
            no data site: the model returns the outputs, for models of one's own.
        flat: whether the weights are one site "weights" of D numbers; the priors must be Gaussian.
        prefix: put before the names of the prior's sites.
        chunk_size: how many draws of the weights go through the network at once in parallel prediction.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if the prior doesn't fit or can't be drawn from, names of sites collide, or the network is in
            training mode with dropout or batch normalisation.

    Example:
        >>> net, X = torch.nn.Linear(2, 1), torch.randn(20, 2)
        >>> model = hnbayes.pyro.BayesianNetwork(net, prior=1.0, likelihood="gaussian")
        >>> import pyro
        >>> trace = pyro.poutine.trace(model).get_trace(X)
        >>> [name for name in trace.stochastic_nodes]
        ['weight', 'bias', 'sigma', 'data', 'obs']
    """

    _seen: _Seen

    def __init__(
        self,
        net: nn.Module,
        prior: Any = 1.0,
        likelihood: Any = "gaussian",
        *,
        flat: bool = False,
        prefix: str = "",
        chunk_size: int = 128,
    ) -> None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be text; received {describe(prefix)}.")
        self._flat: bool = check_choice("flat", flat, (True, False))
        self.function = NetworkFunction(net, chunk_size)
        self.spec = self.function.spec
        self.prefix = prefix
        self.prior = as_prior(prior)
        self.likelihood: Likelihood | None = None if likelihood is None else as_likelihood(likelihood)
        self._bind()
        if self.bound.log_prob_func is not None:
            raise ValueError(
                "the prior must be one that Pyro can draw from; received a bare function of the weights. Give a "
                "distribution, a class of hnbayes.priors, or use the function with hnbayes.nn_pot_energy."
            )

    @property
    def net(self) -> nn.Module:
        """The network, as it was given."""
        return self.function.net

    def __repr__(self) -> str:
        return f"BayesianNetwork({type(self.net).__name__}, {self.spec.size} weights)"

    def __getstate__(self) -> dict[str, Any]:
        # Weak references and a bound prior's closures can't be pickled; both are made anew.
        return {name: value for name, value in self.__dict__.items() if name not in ("_seen", "bound", "flat", "sites")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()

    def __call__(self, X: Tensor, y: Tensor | None = None) -> Tensor:
        """The model.

        Args:
            X: inputs, of first dimension N.
            y: data, as the likelihood takes them; None leaves them to be drawn.

        Returns:
            The outputs of the network, (N, ...), after the dimensions of draws if there are several.

        Raises:
            TypeError: if X or y is no tensor, or of the wrong dtype.
            ValueError: if shapes don't fit (nothing is broadcast silently), values are NaN or out of range, or the
                network is in training mode with dropout or batch normalisation.
        """
        # A tracer would record a check of numbers as a constant, with a warning.
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        unchecked = not tracing and (X, y) not in self._seen
        if unchecked:
            _check_inputs(X)
            seen = _Seen(X, y)
        weights = self._sample_weights()
        output = self.function(weights, X)
        if self.likelihood is None:
            if y is not None:
                raise ValueError("with likelihood=None there is no site for y. Give a likelihood, or leave y out.")
            return output
        batch = len(self.function.batch_shape(weights))
        single = output.reshape(-1, *output.shape[batch:])[0] if batch else output
        if single.ndim == 0 or len(single) != len(X):
            raise ValueError(
                f"the network must give one output for each of the {len(X)} inputs; received outputs of shape "
                f"{tuple(single.shape)}."
            )
        if unchecked:
            self.likelihood.data_shape(single)
            if y is not None:
                self.likelihood.check(single, y)
            self._seen = seen
        learned = self._sample_parameters(self.likelihood, single)
        distribution = as_pyro(self.likelihood.distribution(output, batch, **learned))
        with pyro.plate(DATA, len(X), dim=-1):
            pyro.sample(OBSERVED, distribution, obs=None if y is None else self.likelihood.cast(y, output))
        return output

    def weights(self, samples: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights that draws of the sites stand for, whatever the sites are.

        Args:
            samples: site -> draws (*lead, *shape), as `get_samples` or a guide gives them; other sites are ignored.

        Returns:
            Name of a parameter (without prefix) -> tensor of shape (*lead, *shape).

        Raises:
            ValueError: if a site is missing.
        """
        if missing := [site for site in self.sites if site not in samples]:
            raise ValueError(f"samples must hold the sites {', '.join(self.sites)}; missing: {', '.join(missing)}.")
        return self._weights({site: samples[site] for site in self.sites})

    @torch.no_grad()
    def outputs(self, samples: Mapping[str, Tensor], X: Tensor) -> Tensor:
        """What the network gives for draws of its weights, without noise.

        Args:
            samples: site -> draws (*lead, *shape).
            X: inputs, (N, ...).

        Returns:
            Tensor of shape (*lead, N, ...).

        Raises:
            TypeError: if X is no tensor.
            ValueError: if a site is missing, or X holds NaN.
        """
        _check_inputs(X)
        return self.function(self.weights(samples), X)

    def _bind(self) -> None:
        """Make what can't be pickled: the prior of this network's parameters, and the sites it has."""
        self.bound: BoundPrior = self.prior.bind(self.function.like())
        self.flat = FlatSite(self.bound) if self._flat else None
        own = self.flat.others if self.flat is not None else self.bound.latents
        # Sites of the prior, with the shape of one draw, in the order in which they are sampled.
        self.sites: dict[str, Shape] = {self.prefix + latent.name: latent.shape for latent in own}
        if self.flat is not None:
            self.flat.distribution({latent.name: torch.ones(latent.shape) for latent in own})  # are they Gaussian?
            self.sites[self.prefix + self.flat.name] = (self.flat.spec.size,)
        _refuse_collisions(self.sites, () if self.likelihood is None else (DATA, OBSERVED))
        self._seen = _Seen()

    def _sample_weights(self) -> dict[str, Tensor]:
        """Sample the latents; the weights come as name -> (*batch, *shape)."""
        latents = self.bound.latents if self.flat is None else self.flat.others
        placed: dict[str, Tensor] = {}  # by latent, with the data plate's place among the leading dimensions
        drawn: dict[str, Tensor] = {}  # by site, without it
        for latent in latents:
            value = pyro.sample(self.prefix + latent.name, as_pyro(latent.distribution(placed)))
            placed[latent.name] = self._placed(value, latent.shape)
            drawn[self.prefix + latent.name] = _trimmed(value, latent.shape)
        if self.flat is not None:
            site = self.prefix + self.flat.name
            drawn[site] = _trimmed(pyro.sample(site, self.flat.distribution(placed)), (self.flat.spec.size,))
        return self._weights(drawn)

    def _sample_parameters(self, likelihood: Likelihood, single: Tensor) -> dict[str, Tensor]:
        """Sample what the likelihood learns, (*batch, *shape) each."""
        result = {}
        for name, prior in likelihood.parameters(single).items():
            _refuse_collisions([*self.sites, name], (DATA, OBSERVED))
            shape = own_shape(prior)
            value = pyro.sample(name, to_event(as_pyro(prior), len(prior.batch_shape)))
            result[name] = _trimmed(value, shape)
        return result

    def _weights(self, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = {site.removeprefix(self.prefix): value for site, value in drawn.items()}
        if self.flat is not None:
            values |= self.flat.split(values.pop(self.flat.name))
        return self.bound.weights(values)

    def _placed(self, value: Tensor, shape: Shape) -> Tensor:
        """A latent's value as later latents need it: with the data plate's place, which `Predictive` may leave out."""
        lead = tuple(value.shape[: value.ndim - len(shape)])
        if self.likelihood is None or not lead or lead[-1] == 1:
            return value
        return value.reshape((*lead, 1, *shape))


class _Seen:
    """The data that have passed the checks, so that they are read once and not in every evaluation of a sampler."""

    def __init__(self, *tensors: Tensor | None) -> None:
        self.seen = [(weakref.ref(t), _version(t)) for t in tensors if t is not None]

    def __contains__(self, tensors: tuple[Tensor | None, ...]) -> bool:
        given = [t for t in tensors if t is not None]
        return len(given) == len(self.seen) and all(
            ref() is t and version == _version(t) for t, (ref, version) in zip(given, self.seen, strict=True)
        )


def _version(tensor: Any) -> int | None:
    """A number that changes when a tensor is changed in place, where torch keeps one."""
    return None if not isinstance(tensor, Tensor) or tensor.is_inference() else tensor._version


def _trimmed(value: Tensor, shape: Shape) -> Tensor:
    """Draws of a site without the data plate's place among their leading dimensions.

    Plates number dimensions from the right: draws (S,) of a site outside the data plate have leading dimensions (S, 1).
    `Predictive` leaves the 1 out for sites with an event shape.
    """
    lead = tuple(value.shape[: value.ndim - len(shape)])
    return value.reshape((lead[:-1] if lead and lead[-1] == 1 else lead) + shape)


def _refuse_collisions(sites: Iterable[str], taken: Iterable[str]) -> None:
    names = [*sites, *taken]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"the names of sites must differ; received more than once: {', '.join(twice)}. Give a prefix, or rename."
        )


def _check_inputs(X: Any) -> None:
    if not isinstance(X, Tensor):
        raise TypeError(f"X must be a tensor; received {describe(X)}. Use torch.as_tensor(...).")
    if X.ndim == 0 or len(X) == 0:
        raise ValueError(f"X must hold at least one input; received {describe(X)}.")
    if X.is_floating_point():
        check_finite("X", X)
