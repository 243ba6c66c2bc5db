"""Posterior: draws of a network's weights, and what they say of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hnbayes._checks import check_count, check_fraction, describe
from hnbayes.posterior import scores, summaries
from hnbayes.posterior.data import as_inputs
from hnbayes.posterior.forward import Forward
from hnbayes.posterior.model import Model
from hnbayes.sampling import Draws

if TYPE_CHECKING:
    import os

    import xarray as xr

    from hnbayes.diagnostics import Report

Array = NDArray[Any]
MEMORY_LIMIT = 256 * 2**20
CUBE_LIMIT = 2 * 2**30


class Posterior:
    """What `hnbayes.sample` returns: C chains of S draws of weights and learned parameters.

    Args:
        model: network, likelihood and prior.
        draws: positions on the unconstrained axes of the model.
        X, y: the data that were sampled with, as tensors.

    Attributes:
        model, draws, X, y: as given.

    Example:
        >>> X = torch.linspace(-1, 1, 20)[:, None]
        >>> quick = {"chains": 2, "warmup": 10, "draws": 10, "map_steps": 10, "progress": False}  # to see the calls
        >>> post = hnbayes.sample(torch.nn.Linear(1, 1), X, X, seed=0, **quick)
        >>> {name: tuple(value.shape) for name, value in post.params().items()}
        {'weight': (2, 10, 1, 1), 'bias': (2, 10, 1), 'sigma': (2, 10)}
        >>> post.outputs(X).shape, post.log_likelihood().shape
        (torch.Size([2, 10, 20, 1]), (2, 10, 20))
        >>> post.diagnose(X).verdict in ("ok", "look", "stop")
        True
    """

    def __init__(self, model: Model, draws: Draws, X: Tensor, y: Tensor) -> None:
        self.model, self.draws, self.X, self.y = model, draws, X, y

    def __reduce__(self) -> tuple[Any, ...]:
        # A model holds functions that can't be pickled; it is made again of its parts.
        return _made_again, (self.net, self.model.likelihood, self.model.prior, self.draws, self.X, self.y)

    @property
    def net(self) -> nn.Module:
        """The network, as it was given."""
        return self.model.function.net

    @property
    def chains(self) -> int:
        """C, the number of chains."""
        return self.draws.chains

    @property
    def num_draws(self) -> int:
        """S, the number of draws of each chain."""
        return self.draws.num_draws

    def __repr__(self) -> str:
        return (
            f"Posterior({type(self.net).__name__}, {self.chains} chains x {self.num_draws} draws, "
            f"{self.model.likelihood!r}, {self.model.prior!r})"
        )

    @torch.no_grad()
    def params(self) -> dict[str, Tensor]:
        """Weights, hyperparameters and parameters of the likelihood, each on its own scale.

        Returns:
            Name -> tensor (C, S, *shape).
        """
        reported = self.model.reported(self._flat())
        return {name: v.reshape(self.chains, self.num_draws, *v.shape[1:]).cpu() for name, v in reported.items()}

    def weights(self) -> dict[str, Tensor]:
        """The weights alone, as `torch.func.functional_call` takes them: name -> tensor (C, S, *shape)."""
        params = self.params()
        return {name: params[name] for name in self.model.function.shapes}

    def outputs(self, X: Any) -> Tensor:
        """What the network gives, without noise, for every draw.

        Args:
            X: inputs (N, ...).

        Returns:
            Tensor (C, S, N, ...).

        Raises:
            TypeError, ValueError: if X is no input of the network, or the result would take more than 2 GiB.
        """
        inputs = self._few_inputs(X, "outputs")
        outputs = self._forward(MEMORY_LIMIT).outputs(inputs)
        return outputs.reshape(self.chains, self.num_draws, *outputs.shape[1:])

    def predict(
        self,
        X: Any,
        *,
        quantiles: Sequence[float] = (0.05, 0.5, 0.95),
        memory_limit: int = MEMORY_LIMIT,
        seed: int = 0,
        weights: Any = None,
    ) -> xr.Dataset:
        """The posterior predictive distribution at new inputs.

        For real numbers and counts: `mean`, `sd`, its parts `sd_noise` (of the data) and `sd_weights` (what isn't known
        of the weights; sd^2 is the sum of their squares), and `quantile`. For labels: `probability`, `label`, `sd` and
        its parts for each class, `entropy` and its part `mutual_information` that comes from the weights.

        Args:
            X: inputs (N, ...).
            quantiles: levels between 0 and 1; of real numbers and counts only.
            memory_limit: bytes; inputs are taken in blocks that keep to it.
            seed: of draws of the data, which give the quantiles where the likelihood has no distribution function.
            weights: of the chains, (C,) numbers of sum 1, such as `stacking_weights()`; None weighs all alike.

        Returns:
            Dimensions `point`, then `output` (or `class`) unless there is a single one; `quantile` has `level` before
            them.

        Raises:
            TypeError, ValueError: if an argument is none of the above.
        """
        from hnbayes.posterior.tables import prediction_table

        levels = [check_fraction("each quantile", level) for level in quantiles]
        inputs, memory_limit = as_inputs(X, self.model.like), check_count("memory_limit", memory_limit)
        of_draws = self._of_draws(weights)
        seed = check_count("seed", seed, 0)
        forward = self._forward(memory_limit)
        task = self.model.likelihood.task(self.model.outputs_at_present(inputs[:1]))
        pieces: list[Mapping[str, Array]] = []
        for number, (_, outputs) in enumerate(forward.blocks(inputs)):
            distribution = forward.distribution(outputs)
            if task == "classification":
                pieces.append(summaries.classes(distribution, of_draws))
                continue
            found = summaries.moments(distribution, of_draws)
            if levels:
                # Points first, as in all others, so that pieces join.
                of_block = summaries.quantiles(distribution, levels, seed + number, of_draws)
                found["quantile"] = np.moveaxis(of_block, 0, 1)
            pieces.append(found)
        return prediction_table(pieces, task, levels)

    def log_likelihood(self, X: Any = None, y: Any = None, *, memory_limit: int = MEMORY_LIMIT) -> Array:
        """The log density of each data point for every draw, normalised.

        Args:
            X: inputs; None takes those that were sampled with.
            y: their data.
            memory_limit: bytes that the forward passes may take.

        Returns:
            Array (C, S, N) of float64.

        Raises:
            TypeError, ValueError: if the data don't fit, one of X and y is missing, or the result would take more than
                2 GiB.
        """
        inputs, data = self._data(X, y)
        self._check_cube(8 * len(inputs), "log_likelihood")
        forward = self._forward(memory_limit)
        result = np.empty((self.chains * self.num_draws, len(inputs)))
        for block, outputs in forward.blocks(inputs):
            result[:, block] = forward.log_prob(outputs, data[block]).cpu().numpy()
        return result.reshape(self.chains, self.num_draws, len(inputs))

    @torch.no_grad()
    def log_prior(self) -> Array:
        """The log prior density of weights, hyperparameters and learned parameters, each on its own scale: (C, S)."""
        result = self.model.log_prior(self._flat()).double().cpu().numpy()
        return result.reshape(self.chains, self.num_draws)

    def sample_data(self, X: Any, *, seed: int = 0) -> Tensor:
        """Draws of the data at inputs, one for each draw of the weights: predictive draws.

        Args:
            X: inputs (N, ...).
            seed: a non-negative integer.

        Returns:
            Tensor (C, S, N, ...).

        Raises:
            TypeError, ValueError: if X is no input of the network, or the result would take more than 2 GiB.
        """
        inputs = self._few_inputs(X, "draws of the data")
        forward = self._forward(MEMORY_LIMIT)
        parts = [
            summaries.draw(forward.distribution(outputs), seed + number)
            for number, (_, outputs) in enumerate(forward.blocks(inputs))
        ]
        data = torch.cat(parts, 1)
        return data.reshape(self.chains, self.num_draws, *data.shape[1:]).cpu()

    def score(
        self,
        X: Any,
        y: Any,
        *,
        level: float = 0.9,
        memory_limit: int = MEMORY_LIMIT,
        seed: int = 0,
        weights: Any = None,
    ) -> dict[str, float]:
        """How well data are predicted; means over the data, in the data's own units.

        Args:
            X: inputs, best such that weren't sampled with.
            y: their data.
            level: of the central interval whose coverage is asked.
            memory_limit: bytes that the forward passes may take.
            seed: of draws of the data, for CRPS.
            weights: of the chains; see `predict`.

        Returns:
            For real numbers and counts: `rmse`, `lppd` (log predictive density of a point; more is better), `crps`,
            `coverage` and `interval_width` of the interval. For labels: `accuracy`, `lppd`, `brier` (summed over
            classes), `ece` (expected calibration error, 15 bins).

        Raises:
            TypeError, ValueError: if the data don't fit.
        """
        if X is None or y is None:
            raise ValueError("X and y are needed. For the data that were sampled with, pass posterior.X, posterior.y.")
        inputs, data = self._data(X, y)
        level, seed = check_fraction("level", level), check_count("seed", seed, 0)
        task = self.model.likelihood.task(self.model.outputs_at_present(inputs[:1]))
        forward = self._forward(check_count("memory_limit", memory_limit))
        return scores.score(forward, inputs, data, task, level, seed, self._of_draws(weights))

    def stacking_weights(self) -> Array:
        """The weights of the chains whose mixture predicts the data best, each datum from the others, (C,).

        For chains that stay in modes of their own; see `hnbayes.diagnostics.stacking_weights`.

        Raises:
            ValueError: if the log likelihood of all data would take more than 2 GiB.
        """
        from hnbayes.diagnostics import stacking_weights

        return stacking_weights(self.log_likelihood())

    def diagnose(self, X: Any = None) -> Report:
        """Whether the draws can be believed: every check of functions, densities and the sampler.

        Args:
            X: inputs (N, ...) at which the chains must agree; None takes those that were sampled with. See
                `hnbayes.posterior.diagnosis.diagnose`.

        Returns:
            A table when printed, with a `verdict`: "ok", "look" or "stop".

        Raises:
            TypeError, ValueError: if X is no input of the network.
        """
        from hnbayes.posterior.diagnosis import diagnose

        return diagnose(self, X)

    def to_inference_data(self, **options: Any) -> Any:
        """The posterior as ArviZ data, with all groups; see `hnbayes.posterior.groups.to_inference_data`."""
        from hnbayes.posterior.groups import to_inference_data

        return to_inference_data(self, **options)

    # How `hnbayes.to_inference_data` knows an object with groups of its own.
    own_inference_data = to_inference_data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the posterior to a file: netCDF, or zarr if the name ends so; see `hnbayes.posterior.files.save`."""
        from hnbayes.posterior.files import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], net: nn.Module, **options: Any) -> Posterior:
        """Read a posterior of a network; see `hnbayes.posterior.files.load`."""
        from hnbayes.posterior.files import load

        return load(path, net, **options)

    def _flat(self) -> Tensor:
        positions = self.draws.positions.to(self.model.like.device)
        if self.num_draws == 0:
            raise ValueError("the posterior holds no draws: the run was stopped before any was kept. Sample again.")
        return positions.reshape(-1, positions.shape[-1])

    def _forward(self, memory_limit: int) -> Forward:
        with torch.no_grad():
            return Forward(self.model, self._flat(), memory_limit)

    def _of_draws(self, weights: Any) -> Tensor | None:
        """Weights of the draws (M,) from those of the chains.

        Raises:
            ValueError: if they aren't C numbers of at least 0 and of sum 1.
        """
        if weights is None:
            return None
        of_chains = torch.as_tensor(weights, dtype=torch.float64, device=self.model.like.device)
        if tuple(of_chains.shape) != (self.chains,):
            raise ValueError(
                f"weights must be {self.chains} numbers, one a chain; received {describe(of_chains)}. Leave them out "
                "to weigh all chains alike."
            )
        if not bool((of_chains >= 0).all()) or abs(float(of_chains.sum()) - 1) > 1e-6:
            raise ValueError(f"weights must be at least 0 and of sum 1; received {of_chains.tolist()}.")
        return (of_chains / self.num_draws).repeat_interleave(self.num_draws)

    def _data(self, X: Any, y: Any) -> tuple[Tensor, Tensor]:
        if (X is None) != (y is None):
            raise ValueError(f"X and y belong together; received {describe(X)} and {describe(y)}.")
        return (self.X, self.y) if X is None else self.model.data(X, y)

    def fits(self, bytes_a_draw: int) -> bool:
        """Whether so many bytes for every draw are few enough to be held at once."""
        return bytes_a_draw * self.chains * self.num_draws <= CUBE_LIMIT

    def _few_inputs(self, X: Any, what: str) -> Tensor:
        """Inputs whose outputs for all draws fit in memory, where `what` has the size of these."""
        inputs = as_inputs(X, self.model.like)
        one = self.model.outputs_at_present(inputs[:1])
        self._check_cube(len(inputs) * one.numel() * one.element_size(), what)
        return inputs

    def _check_cube(self, bytes_a_draw: int, what: str) -> None:
        if not self.fits(bytes_a_draw):
            total = bytes_a_draw * self.chains * self.num_draws
            raise ValueError(
                f"{what} of {self.chains} chains and {self.num_draws} draws would take {total / 2**30:.1f} GiB, more "
                f"than {CUBE_LIMIT / 2**30:.0f}. Pass fewer points; predict() and score() work in blocks."
            )


def _made_again(net: nn.Module, likelihood: Any, prior: Any, draws: Draws, X: Tensor, y: Tensor) -> Posterior:
    """The posterior that was pickled."""
    return Posterior(Model(net, likelihood, prior, X), draws, X, y)
