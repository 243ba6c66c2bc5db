"""BayesianNetwork: any network with a prior and a likelihood, as a Pyro model."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from hnbayes._checks import check_choice, check_finite, describe
from hnbayes.potentials.networks import NetworkFunction
from hnbayes.pyro.flat import FlatPrior
from hnbayes.pyro.likelihoods import Likelihood, ObservationModel, without_data_dim
from hnbayes.pyro.priors import Prior, Scaled, before, resolve, scale_priors

DATA, OBSERVED, NOISE = "data", "obs", "sigma"


class BayesianNetwork:
    """A Pyro model `model(X, y=None)` of data y = f(X; weights) + noise with a prior over the weights of f.

    Each parameter is a site of the parameter's name, outside the data plate "data", and the data are the site "obs".
    It goes wherever Pyro takes a model: `MCMC` with any number of processes (it is picklable if net and likelihood
    are), `SVI` with autoguides, `Predictive` (parallel or not; without y it predicts), `az.from_pyro`. The network
    itself is never changed, nothing gets into the parameter store, and parameters that need no gradient stay constants.

    Args:
        net: any `torch.nn.Module` that maps inputs (N, ...) to one tensor (N, ...), in evaluation mode if it holds
            dropout or batch normalisation.
        prior: of each parameter: a standard deviation (mean 0); a distribution of torch or Pyro, scalar or of the
            parameter's shape; a `HierarchicalNormal`; a dict from patterns (of `fnmatch`, "*.weight") to one of these,
            where the first match counts; a function of (name, shape) that gives one of these; or a `DiagGaussian` over
            all parameters.
        likelihood: "gaussian"; "categorical" (outputs are logits (N, classes), y holds labels (N,)); "bernoulli"
            (outputs are logits); "poisson" (outputs are log rates); or a function from outputs to a distribution of
            torch or Pyro whose batch shape begins with the outputs' (..., N). None makes no data site: the model
            returns the outputs, for models of one's own.
        sigma: for "gaussian", the noise's standard deviation: a number, or the prior of the site "sigma", of shape ()
            or that of the outputs of one datum. None is HalfNormal(1).
        flat: whether all weights are one site "weights" of D numbers; the priors must be Gaussian.
        prefix: put before the names of the weights' sites and of their scales.
        chunk_size: how many draws of the weights go through the network at once in parallel prediction.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if a prior doesn't fit, names of sites collide, or the network is in training mode with dropout or
            batch normalisation.
    """

    def __init__(
        self,
        net: nn.Module,
        prior: Prior = 1.0,
        likelihood: Likelihood | None = "gaussian",
        *,
        sigma: float | Distribution | None = None,
        flat: bool = False,
        prefix: str = "",
        chunk_size: int = 128,
    ) -> None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be text; received {describe(prefix)}.")
        check_choice("flat", flat, (True, False))
        if likelihood is None and sigma is not None:
            raise ValueError("sigma belongs to likelihood='gaussian'; received it with likelihood=None.")
        self.function = NetworkFunction(net, chunk_size)
        self.spec = self.function.spec
        self.prefix = prefix
        self.priors = resolve(prior, self.function.like(), prefix)
        self.flat = FlatPrior(self.priors, self.spec) if flat else None
        self.scale_priors = scale_priors(self.priors)
        self.observation = None if likelihood is None else ObservationModel(likelihood, sigma)
        self._check_names()
        self._seen = _Seen()

    @property
    def net(self) -> nn.Module:
        """The network, as it was given."""
        return self.function.net

    @property
    def weight_sites(self) -> dict[str, tuple[int, ...]]:
        """The sites that hold the weights, and the shape of one draw of each."""
        if self.flat is not None:
            return {f"{self.prefix}weights{'_z' if self._uncentred else ''}": (self.spec.size,)}
        return {self._site(name): shape for name, shape in self.function.shapes.items()}

    def __repr__(self) -> str:
        return f"BayesianNetwork({type(self.net).__name__}, {self.spec.size} weights)"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": _Seen()}  # weak references can't be pickled

    def __call__(self, X: Tensor, y: Tensor | None = None) -> Tensor:
        """The model.

        Args:
            X: inputs, of first dimension N.
            y: data: of the outputs' shape, (N,) for "categorical"; None leaves them to be drawn.

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
        if self.observation is None:
            if y is not None:
                raise ValueError("with likelihood=None there is no site for y. Give a likelihood, or leave y out.")
            return output
        batch = len(self.function.batch_shape(weights))
        if output.ndim == batch or output.shape[batch] != len(X):
            raise ValueError(
                f"the network must give one output for each of the {len(X)} inputs; received outputs of shape "
                f"{tuple(output.shape[batch:])}."
            )
        likelihood = self.observation(output, batch)
        if y is not None:
            if unchecked:
                self.observation.check(y, likelihood, batch)
            y = self.observation.cast(y, output)
        if unchecked:
            self._seen = seen
        with pyro.plate(DATA, len(X), dim=-1):
            pyro.sample(OBSERVED, likelihood, obs=y)
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
        needed = [*self.weight_sites, *(prior.scale for prior in self._uncentred.values())]
        if missing := [site for site in needed if site not in samples]:
            raise ValueError(f"samples must hold the sites {', '.join(needed)}; missing: {', '.join(missing)}.")
        if self.flat is not None:
            (site,) = self.weight_sites
            result = self.spec.unflatten(samples[site])
        else:
            result = {name: samples[self._site(name)] for name in self.spec.names}
        for name, prior in self._uncentred.items():
            result[name] = result[name] * before(samples[prior.scale], self.function.shapes[name])
        return result

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

    @property
    def _uncentred(self) -> dict[str, Scaled]:
        return {name: p for name, p in self.priors.items() if isinstance(p, Scaled) and not p.centred}

    def _site(self, name: str) -> str:
        return f"{self.prefix}{name}{'_z' if name in self._uncentred else ''}"

    def _sample_weights(self) -> dict[str, Tensor]:
        """Sample the scales and the weights, which come as name -> (*batch, *shape)."""
        shapes = self.weight_sites
        values = {site: pyro.sample(site, prior) for site, prior in self.scale_priors.items()}
        if self.flat is not None:
            priors = [self.flat(values)]
        else:
            priors = [p(values) if isinstance(p, Scaled) else p for p in self.priors.values()]
        values |= {site: pyro.sample(site, prior) for site, prior in zip(shapes, priors, strict=True)}
        return self.weights({site: _trimmed(value, shapes.get(site, ())) for site, value in values.items()})

    def _check_names(self) -> None:
        sites = [*self.weight_sites, *self.scale_priors]
        if self.observation is not None:
            sites += [DATA, OBSERVED, *([NOISE] if self.observation.samples_sigma else [])]
        if twice := sorted({site for site in sites if sites.count(site) > 1}):
            raise ValueError(
                f"the names of sites must differ; received more than once: {', '.join(twice)}. Give a prefix, or "
                "HierarchicalNormal another name."
            )


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


def _trimmed(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draws of a site without the data plate's place among their leading dimensions."""
    return value.reshape(without_data_dim(tuple(value.shape[: value.ndim - len(shape)])) + shape)


def _check_inputs(X: Any) -> None:
    if not isinstance(X, Tensor):
        raise TypeError(f"X must be a tensor; received {describe(X)}. Use torch.as_tensor(...).")
    if X.ndim == 0 or len(X) == 0:
        raise ValueError(f"X must hold at least one input; received {describe(X)}.")
    if X.is_floating_point():
        check_finite("X", X)
