"""BNNClassifier: classification by networks whose weights are sampled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from hnbayes.likelihoods import Categorical
from hnbayes.sklearn.network import NetworkEstimator

Array = NDArray[Any]


class BNNClassifier(ClassifierMixin, NetworkEstimator):  # type: ignore[misc]
    """Classification by a Bayesian neural network: a deep ensemble whose members are each sampled further.

    Parameters are those of `BNNRegressor`, without `noise`. Inputs are standardised within.

    Attributes:
        classes_: the labels.
        posterior_: the `hnbayes.Posterior` of labels 0, ..., K - 1 on standardised inputs.
        n_features_in_, feature_names_in_: as scikit-learn has them.

    Example:
        >>> from hnbayes.sklearn import BNNClassifier
        >>> X = np.random.default_rng(0).normal(size=(60, 2))
        >>> y = np.where(X[:, 0] > 0, "right", "left")
        >>> quick = {"warmup": 5, "draws": 5, "steps_per_draw": 5, "thin": 1, "epochs": 20}  # to see the calls
        >>> model = BNNClassifier(hidden_layer_sizes=(5,), n_members=2, random_state=0, **quick)
        >>> model.fit(X, y).predict_proba(X).shape
        (60, 2)
    """

    def fit(self, X: Any, y: Any) -> BNNClassifier:
        """Train the members and sample from there.

        Args:
            X: inputs (N, P): array or table.
            y: labels (N,) of any kind.

        Returns:
            Itself.

        Raises:
            ValueError: if there is one class only.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least two classes; received one class, {self.classes_[0]!r}.")
        self._fit(X, torch.as_tensor(labels.reshape(-1)), len(self.classes_), Categorical())
        return self

    def predict_proba(self, X: Any) -> Array:
        """The probabilities of the classes, means over members and draws: (N, K), in the order of `classes_`."""
        inputs = self._inputs(X)
        result: Array = self.posterior_.predict(inputs)["probability"].to_numpy()
        return result

    def predict(self, X: Any) -> Array:
        """The likeliest class of each input, (N,)."""
        likeliest = self.predict_proba(X).argmax(1)
        result: Array = self.classes_[likeliest]
        return result
