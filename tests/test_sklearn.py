"""The estimators: scikit-learn's own checks, and what predictions are made of."""

from __future__ import annotations

import pathlib
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from hnbayes.sklearn import BNNClassifier, BNNRegressor

ROOT = pathlib.Path(__file__).parent.parent
TINY = {
    "hidden_layer_sizes": (16,),
    "n_members": 2,
    "warmup": 2,
    "draws": 2,
    "thin": 1,
    "steps_per_draw": 2,
    "epochs": 60,
    "batch_size": 32,
    "learning_rate": 0.05,
}
pytestmark = pytest.mark.filterwarnings("ignore::hnbayes.SamplingWarning")  # runs are short


def curve(count=120, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (count, 2))
    return X, 100 + 20 * np.sin(2 * X[:, 0]) + 2 * rng.standard_normal(count)


@pytest.mark.parametrize("estimator", [BNNRegressor(**TINY), BNNClassifier(**TINY, sampler="none")])
def test_scikit_learn_s_own_checks(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some checks fit what can't be fitted well
        results = check_estimator(estimator, on_fail=None)
    failed = {result["check_name"]: repr(result["exception"]) for result in results if result["status"] == "failed"}
    assert not failed
    assert sum(result["status"] == "passed" for result in results) >= 45


def test_predictions_are_those_of_the_posterior_in_the_units_of_the_targets():
    X, y = curve()
    fitted = BNNRegressor(**{**TINY, "draws": 20}, random_state=0).fit(X, y)
    mean, sd = fitted.predict(X, return_std=True)
    np.testing.assert_array_equal(mean, fitted.predict(X))
    assert fitted.score(X, y) > 0.8
    # By hand: the mixture over all members and draws.
    inputs = torch.tensor((X - X.mean(0)) / X.std(0))
    outputs = fitted.posterior_.outputs(inputs).reshape(-1, len(X), 2)
    means, noise = outputs[..., 0], 1e-3 + torch.nn.functional.softplus(outputs[..., 1])
    variance = means.var(0, correction=0) + noise.square().mean(0)
    np.testing.assert_allclose(mean, y.mean() + y.std() * means.mean(0).numpy(), rtol=1e-6)
    np.testing.assert_allclose(sd, y.std() * variance.sqrt().numpy(), rtol=1e-5)


def test_samples_have_the_moments_of_the_predictions():
    X, y = curve()
    fitted = BNNRegressor(**{**TINY, "draws": 20}, random_state=0).fit(X, y)
    samples = fitted.sample_y(X[:5], n_samples=8000, random_state=1)
    assert samples.shape == (5, 8000)
    mean, sd = fitted.predict(X[:5], return_std=True)
    assert (np.abs(samples.mean(1) - mean) < 5 * sd / np.sqrt(8000)).all()
    np.testing.assert_allclose(samples.std(1), sd, rtol=0.06)
    np.testing.assert_array_equal(samples, fitted.sample_y(X[:5], n_samples=8000, random_state=1))


def test_several_targets_and_one_scale_of_noise():
    X, y = curve()
    several = np.stack([y, -3 * y + X[:, 1]], 1)
    fitted = BNNRegressor(**TINY, noise="homoscedastic", random_state=0).fit(X, several)
    mean, sd = fitted.predict(X, return_std=True)
    assert mean.shape == sd.shape == (120, 2)
    assert fitted.score(X, several) > 0.8
    assert fitted.sample_y(X[:4], 3).shape == (4, 2, 3)


def test_labels_of_any_kind_and_probabilities():
    X, _ = curve()
    labels = np.where(X[:, 0] > 0.7, "high", np.where(X[:, 0] < -0.7, "low", "middle"))
    fitted = BNNClassifier(**TINY, random_state=0).fit(X, labels)
    probabilities = fitted.predict_proba(X)
    assert fitted.classes_.tolist() == ["high", "low", "middle"]
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    assert (fitted.predict(X) == fitted.classes_[probabilities.argmax(1)]).all()
    assert fitted.score(X, labels) > 0.9


@pytest.mark.parametrize("sampler", ["mamclmc", "nuts", "none"])
def test_every_sampler(sampler):
    X, y = curve(120)
    fitted = BNNRegressor(**TINY, sampler=sampler, random_state=0).fit(X, y)
    assert fitted.posterior_.chains == 2
    assert fitted.score(X, y) > 0.5


def test_pipelines_grids_tables_clones_and_pickles():
    X, y = curve(80)
    table = pd.DataFrame(X, columns=["a", "b"])
    pipeline = make_pipeline(StandardScaler(), BNNRegressor(**{**TINY, "epochs": 100, "batch_size": 8}, random_state=0))
    grid = GridSearchCV(pipeline, {"bnnregressor__prior": [0.01, 1.0]}, cv=2).fit(table, y)
    assert grid.best_params_ == {"bnnregressor__prior": 1.0}  # 0.01 can't bend
    alone = BNNRegressor(**TINY, random_state=0).fit(table, y)
    assert alone.feature_names_in_.tolist() == ["a", "b"]
    again = pickle.loads(pickle.dumps(alone))
    np.testing.assert_array_equal(again.predict(table), alone.predict(table))
    np.testing.assert_array_equal(clone(alone).fit(table, y).predict(table), alone.predict(table))
    with pytest.raises(ValueError, match="feature names"):
        alone.predict(table.rename(columns={"a": "c"}))


def test_refusals():
    X, y = curve(20)
    for bad, message in (
        ({"activation": "sine"}, "activation must be one of"),
        ({"sampler": "gibbs"}, "sampler must be one of"),
        ({"noise": "none"}, "noise must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            BNNRegressor(**{**TINY, **bad}).fit(X, y)
    with pytest.raises(ValueError, match="two classes"):
        BNNClassifier(**TINY).fit(X, np.zeros(20))


def test_without_scikit_learn_the_package_works_and_says_what_is_missing():
    code = (
        "import sys; sys.modules['sklearn'] = None; import hnbayes\n"
        "try: hnbayes.sklearn\nexcept ImportError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "install hnbayes[sklearn]" in result.stdout


@pytest.mark.slow
def test_the_defaults_on_airfoil():
    """On standardised axes, as published results are; four minutes of CPU."""
    table = np.loadtxt(ROOT / "examples" / "data" / "airfoil.csv", delimiter=",", skiprows=1)
    train, test = train_test_split(table, test_size=0.2, random_state=0)
    center, scale = train.mean(0), train.std(0)
    train, test = (train - center) / scale, (test - center) / scale
    fitted = BNNRegressor(random_state=0).fit(train[:, :-1], train[:, -1])
    mean, sd = fitted.predict(test[:, :-1], return_std=True)
    rmse = float(np.sqrt(((test[:, -1] - mean) ** 2).mean()))
    nll = -float(norm(mean, sd).logpdf(test[:, -1]).mean())
    print(f"RMSE {rmse:.4f}, NLL (moments) {nll:.4f}")
    assert rmse <= 0.115
    assert nll <= -0.95
