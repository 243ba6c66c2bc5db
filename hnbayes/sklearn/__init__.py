"""Bayesian neural networks as scikit-learn estimators (`pip install hnbayes[sklearn]`)."""

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("hnbayes.sklearn needs scikit-learn 1.6 or later; install hnbayes[sklearn].") from error

from hnbayes.sklearn.classifier import BNNClassifier
from hnbayes.sklearn.regressor import BNNRegressor

__all__ = ["BNNClassifier", "BNNRegressor"]
