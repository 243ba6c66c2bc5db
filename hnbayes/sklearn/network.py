"""What both estimators share: an ensemble of networks, trained and then sampled, on standardised inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from hnbayes._checks import check_choice, check_count
from hnbayes.kernels import MCLMC
from hnbayes.posterior import EnsembleTraining, Model, Posterior, deep_ensemble, sample

Array = NDArray[Any]
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}
SAMPLERS = ("mclmc", "mamclmc", "nuts", "none")
# From the first to the last transition of warm-up, as Sommer et al. (2025) choose it for networks.
ENERGY_VARIANCE = (0.5, 0.1)


class NetworkEstimator(BaseEstimator):  # type: ignore[misc]
    """A Bayesian neural network whose chains start at the members of a deep ensemble.

    Parameters are those of `BNNRegressor`, which describes them.
    """

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (16, 16, 16, 16),
        activation: str = "tanh",
        n_members: int = 10,
        prior: Any = 1.0,
        sampler: str = "mclmc",
        warmup: int = 200,
        draws: int = 1500,
        steps_per_draw: int = 20,
        thin: int = 10,
        epochs: int = 400,
        batch_size: int = 64,
        learning_rate: float = 0.01,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 50,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.n_members = n_members
        self.prior = prior
        self.sampler = sampler
        self.warmup = warmup
        self.draws = draws
        self.steps_per_draw = steps_per_draw
        self.thin = thin
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.verbose = verbose

    def _fit(self, X: Array, y: Tensor, outputs: int, likelihood: Any) -> None:
        """Sample the posterior for inputs (N, P), which are standardised here, and data as the likelihood has them."""
        check_choice("activation", self.activation, tuple(ACTIVATIONS))
        check_choice("sampler", self.sampler, SAMPLERS)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.input_mean_, self.input_scale_ = X.mean(0), spread(X)
        inputs = torch.as_tensor(self._standardised(X), dtype=torch.float32)
        net = self._network(X.shape[1], outputs)
        training = EnsembleTraining(
            self.epochs,
            self.batch_size,
            self.learning_rate,
            self.validation_fraction,
            self.n_iter_no_change,
        )
        members = check_count("n_members", self.n_members)
        common = {"likelihood": likelihood, "prior": self.prior, "seed": seed}
        if self.sampler == "none":
            found = deep_ensemble(net, inputs, y, members=members, training=training, **common)
        else:
            kernel: Any = self.sampler
            if self.sampler == "mclmc":
                kernel = MCLMC(num_steps=self.steps_per_draw, energy_variance=ENERGY_VARIANCE)
            found = sample(
                net,
                inputs,
                y,
                kernel=kernel,
                chains=members,
                warmup=self.warmup,
                draws=self.draws,
                thin=self.thin,
                init=training,
                metric="unit" if self.sampler == "mclmc" else "diag",
                progress=bool(self.verbose),
                **common,
            )
        self.posterior_ = in_double_precision(found)

    def _network(self, inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for size in self.hidden_layer_sizes:
            layers += [nn.Linear(inputs, check_count("each of hidden_layer_sizes", size))]
            layers += [ACTIVATIONS[self.activation]()]
            inputs = size
        return nn.Sequential(*layers, nn.Linear(inputs, outputs))

    def _standardised(self, X: Array) -> Array:
        result: Array = (X - self.input_mean_) / self.input_scale_
        return result

    def _inputs(self, X: Any) -> Tensor:
        """New inputs (N, P), checked and standardised, for a fitted estimator to predict."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return torch.as_tensor(self._standardised(X), dtype=torch.float64)


def spread(values: Array) -> Array:
    """Standard deviations of columns (N, P); 1 where a column is constant."""
    result = values.std(0)
    return np.where(result > 1e-12 * np.abs(values).max(0, initial=1.0), result, 1.0)


def in_double_precision(posterior: Posterior) -> Posterior:
    """The same draws, predicting in float64: what is predicted of a point doesn't depend on the points beside it."""
    model = posterior.model
    net = model.function.net.double()
    X = posterior.X.double()
    draws = dataclasses.replace(posterior.draws, positions=posterior.draws.positions.double(), ragged_positions=None)
    y = posterior.y.double() if posterior.y.is_floating_point() else posterior.y
    return Posterior(Model(net, model.likelihood, model.prior, X), draws, X, y)
