"""BNNRegressor: regression with learned noise, by networks whose weights are sampled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from hnbayes._checks import check_choice, check_count
from hnbayes.likelihoods import Gaussian, HeteroscedasticGaussian
from hnbayes.sklearn.network import NetworkEstimator, spread

Array = NDArray[Any]


class BNNRegressor(RegressorMixin, NetworkEstimator):  # type: ignore[misc]
    """Regression by a Bayesian neural network: a deep ensemble whose members are each sampled further.

    Inputs and targets are standardised within; what is predicted is in the targets' own units.

    Parameters:
        hidden_layer_sizes: units of the hidden layers.
        activation: "tanh", "relu" or "silu".
        n_members: networks that are trained, each the start of a chain.
        prior: of the weights, as `hnbayes.sample` takes it: a standard deviation, or an object of `hnbayes.priors`.
        sampler: "mclmc" (quick, biased), "mamclmc", "nuts", or "none" for the deep ensemble alone.
        warmup: transitions of warm-up a member.
        draws: transitions after it.
        steps_per_draw: steps of a transition of "mclmc", of two gradients each.
        thin: keep one draw in so many.
        epochs, batch_size, learning_rate, validation_fraction, n_iter_no_change: of the training, see
            `hnbayes.EnsembleTraining` (the last two are its `validation` and `patience`).
        random_state: a seed, a `numpy.random.RandomState`, or None for NumPy's global one.
        verbose: show a progress bar.
        noise: "heteroscedastic" (the network gives a scale for each input) or "homoscedastic" (one scale, learned).

    Attributes:
        posterior_: the `hnbayes.Posterior` on the standardised axes.
        n_features_in_, feature_names_in_: as scikit-learn has them.

    Example:
        >>> from hnbayes.sklearn import BNNRegressor
        >>> X = np.linspace(-1, 1, 60)[:, None]
        >>> quick = {"warmup": 5, "draws": 5, "steps_per_draw": 5, "thin": 1, "epochs": 20}  # to see the calls
        >>> model = BNNRegressor(hidden_layer_sizes=(5,), n_members=2, random_state=0, **quick)
        >>> mean, sd = model.fit(X, X[:, 0] ** 2).predict(X, return_std=True)
        >>> mean.shape, bool((sd > 0).all())
        ((60,), True)
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (16, 16, 16, 16),
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
        noise: str = "heteroscedastic",
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            n_members=n_members,
            prior=prior,
            sampler=sampler,
            warmup=warmup,
            draws=draws,
            steps_per_draw=steps_per_draw,
            thin=thin,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            random_state=random_state,
            verbose=verbose,
        )
        self.noise = noise

    def fit(self, X: Any, y: Any) -> BNNRegressor:
        """Train the members and sample from there.

        Args:
            X: inputs (N, P): array or table.
            y: targets (N,) or (N, K).

        Returns:
            Itself.
        """
        check_choice("noise", self.noise, ("heteroscedastic", "homoscedastic"))
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, multi_output=True, ensure_min_samples=2)
        y = np.asarray(y, np.float64)
        self._one_target = y.ndim == 1
        columns = y[:, None] if self._one_target else y
        self.target_mean_, self.target_scale_ = columns.mean(0), spread(columns)
        targets = torch.as_tensor((columns - self.target_mean_) / self.target_scale_, dtype=torch.float32)
        varying = self.noise == "heteroscedastic"
        count = columns.shape[1]
        likelihood = HeteroscedasticGaussian() if varying else Gaussian("learned")
        self._fit(X, targets, 2 * count if varying else count, likelihood)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The mean of the predictive distribution, over members, draws and noise.

        Args:
            X: inputs (N, P).
            return_std: whether to give its standard deviation too.

        Returns:
            Means, of the targets' shape; or means and standard deviations.
        """
        inputs = self._inputs(X)
        table = self.posterior_.predict(inputs, quantiles=())
        mean = table["mean"].to_numpy().reshape(len(inputs), -1) * self.target_scale_ + self.target_mean_
        if not return_std:
            return self._shaped(mean)
        sd = table["sd"].to_numpy().reshape(len(inputs), -1) * self.target_scale_
        return self._shaped(mean), self._shaped(sd)

    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> Array:
        """Draws of the targets, noise included, each with the weights of a random draw.

        Args:
            X: inputs (N, P).
            n_samples: how many.
            random_state: a seed, a `numpy.random.RandomState`, or None.

        Returns:
            Array (N, n_samples), or (N, K, n_samples) for several targets.
        """
        inputs = self._inputs(X)
        n_samples, rng = check_count("n_samples", n_samples), check_random_state(random_state)
        rounds: list[Array] = []
        while sum(map(len, rounds)) < n_samples:
            drawn = self.posterior_.sample_data(inputs, seed=int(rng.randint(2**31 - 1)))
            flat = drawn.reshape(-1, *drawn.shape[2:]).numpy()
            rounds.append(flat[rng.permutation(len(flat))])
        samples = np.concatenate(rounds)[:n_samples] * self.target_scale_ + self.target_mean_
        by_point: Array = np.moveaxis(samples, 0, -1)
        return by_point[:, 0] if self._one_target else by_point

    def _shaped(self, columns: Array) -> Array:
        return columns[:, 0] if self._one_target else columns

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
