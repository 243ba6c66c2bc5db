"""Posteriors to sample, each defined once on flat vectors (D,), for torch and for JAX.

Nothing heavy is imported here, so that each sampler's process loads its own library only.
"""

from __future__ import annotations

import pathlib
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

HELD_OUT = 20
NOISE_PRECISION = 2.0
AIRFOIL = pathlib.Path(__file__).parents[3] / "examples" / "data" / "airfoil.csv"


class Problem(ABC):
    """A posterior, and how long chains are by default.

    Attributes:
        chains, warmup, draws: of a run, unless said otherwise.
        step_size: for samplers that don't adapt it.
        dimension: D.
    """

    chains: ClassVar[int]
    warmup: ClassVar[int]
    draws: ClassVar[int]
    step_size: ClassVar[float]
    dimension: int

    @abstractmethod
    def torch_potential(self) -> Any:
        """U of a float32 tensor (D,)."""

    @abstractmethod
    def jax_potential(self) -> Any:
        """U of a float32 JAX array (D,)."""

    @abstractmethod
    def starts(self, chains: int, seed: int) -> np.ndarray:
        """Where chains start, (C, D) float32."""

    def quantities(self, draws: np.ndarray) -> np.ndarray:
        """What effective sizes are taken of, (C, S, D) -> (C, S, K); the parameters, unless they aren't identified."""
        return draws

    def probes(self) -> np.ndarray:
        """Points at which samplers must agree about U up to a constant, (5, D) float32."""
        return self.starts(5, seed=12345)


class Network(Problem):
    """A dense network with N(0, 1) weights; weights of a layer are (out, in), before its biases, as torch has them.

    Args:
        inputs, targets: all rows, of which 20 chosen at random are left out.
        sizes: numbers of units.
        activation: "tanh" or "relu".
        classify: softmax cross-entropy of labels, instead of Gaussian noise of precision 2.
    """

    def __init__(
        self, inputs: np.ndarray, targets: np.ndarray, sizes: tuple[int, ...], activation: str, classify: bool
    ) -> None:
        order = np.random.default_rng(0).permutation(len(inputs))
        held_out, kept = order[:HELD_OUT], np.sort(order[HELD_OUT:])
        self.inputs, self.targets = inputs[kept], targets[kept]
        self.held_out_inputs, self.held_out_targets = inputs[held_out], targets[held_out]
        self.sizes, self.activation, self.classify = sizes, activation, classify
        self.dimension = sum((before + 1) * after for before, after in pairwise(sizes))

    def starts(self, chains: int, seed: int) -> np.ndarray:
        """A tenth of a draw of the prior."""
        return 0.1 * np.random.default_rng(seed).standard_normal((chains, self.dimension), np.float32)

    def torch_potential(self) -> Any:
        """The library's own potential of a torch network."""
        import torch

        import hnbayes

        activation = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[self.activation]
        layers: list[torch.nn.Module] = []
        for before, after in pairwise(self.sizes):
            layers += [torch.nn.Linear(before, after), activation()]
        return hnbayes.nn_pot_energy(
            torch.nn.Sequential(*layers[:-1]),
            torch.from_numpy(self.inputs),
            torch.from_numpy(self.targets),
            hnbayes.log_prob_standard_normal_prior,
            tau_pred=NOISE_PRECISION,
            nll_type="classification" if self.classify else "regression",
        )

    def jax_potential(self) -> Any:
        """The same as JAX users write it."""
        import jax
        import jax.numpy as jnp

        inputs, targets = jnp.asarray(self.inputs), jnp.asarray(self.targets)
        activation = {"tanh": jnp.tanh, "relu": jax.nn.relu}[self.activation]

        def potential(q: Any) -> Any:
            outputs = self._forward(q, inputs, activation)
            if self.classify:
                chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), targets[:, None], 1)
                nll = -chosen.sum()
            else:
                nll = 0.5 * NOISE_PRECISION * ((outputs - targets) ** 2).sum()
            return nll + 0.5 * (q**2).sum()

        return potential

    def quantities(self, draws: np.ndarray) -> np.ndarray:
        """Outputs at the rows left out, or the probability of each one's label, (C, S, 20)."""
        activation = np.tanh if self.activation == "tanh" else lambda x: np.maximum(x, 0)
        flat = draws.reshape(-1, self.dimension)
        outputs = np.stack([self._forward(q, self.held_out_inputs, activation) for q in flat])
        if self.classify:
            outputs = outputs - outputs.max(-1, keepdims=True)
            probabilities = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
            predictions = probabilities[:, np.arange(HELD_OUT), self.held_out_targets]
        else:
            predictions = outputs[..., 0]
        return predictions.reshape(*draws.shape[:2], HELD_OUT)

    def _forward(self, q: Any, x: Any, activation: Any) -> Any:
        """The network's outputs, (N, out), with any library's arrays."""
        at = 0
        for layer, (before, after) in enumerate(pairwise(self.sizes)):
            weight = q[at : at + after * before].reshape(after, before)
            at += after * before
            x = (activation(x) if layer else x) @ weight.T + q[at : at + after]
            at += after
        return x


class Diabetes(Network):
    """10-50-1 tanh on scikit-learn's diabetes data, standardised; D = 601."""

    chains, warmup, draws, step_size = 4, 100, 100, 0.02

    def __init__(self) -> None:
        from sklearn.datasets import load_diabetes

        inputs, targets = load_diabetes(return_X_y=True)
        super().__init__(standardised(inputs), standardised(targets[:, None]), (10, 50, 1), "tanh", False)


class Airfoil(Network):
    """5-50-50-1 tanh on the airfoil data of the examples, standardised; D = 2,901."""

    chains, warmup, draws, step_size = 4, 50, 50, 0.01

    def __init__(self) -> None:
        table = np.loadtxt(AIRFOIL, delimiter=",", skiprows=1)
        super().__init__(standardised(table[:, :-1]), standardised(table[:, -1:]), (5, 50, 50, 1), "tanh", False)


class Digits(Network):
    """64-32-10 relu softmax on scikit-learn's digits, pixels between 0 and 1; D = 2,410."""

    chains, warmup, draws, step_size = 8, 50, 50, 0.02

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        inputs, labels = load_digits(return_X_y=True)
        super().__init__((inputs / 16).astype(np.float32), labels.astype(np.int64), (64, 32, 10), "relu", True)


class Formula(Problem):
    """A density in a few operations that torch and JAX call by the same names."""

    @abstractmethod
    def potential(self, q: Any, library: Any, constant: Any) -> Any:
        """U.

        Args:
            q: (D,).
            library: `torch` or `jax.numpy`.
            constant: turns a NumPy array into one of the library's.
        """

    def torch_potential(self) -> Any:
        """U in torch."""
        import torch

        return self._with(torch, torch.as_tensor)

    def jax_potential(self) -> Any:
        """U in JAX."""
        import jax.numpy as jnp

        return self._with(jnp, jnp.asarray)

    def _with(self, library: Any, as_array: Any) -> Any:
        # Each constant is made once: within JAX's or torch's transforms it would become a part of the graph each time.
        made: dict[int, tuple[np.ndarray, Any]] = {}

        def constant(array: np.ndarray) -> Any:
            if id(array) not in made:
                made[id(array)] = (array, as_array(array))
            return made[id(array)][1]

        # Not by the transforms' first call, in which results belong to the transform.
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                constant(value)
        return lambda q: self.potential(q, library, constant)

    def starts(self, chains: int, seed: int) -> np.ndarray:
        """Uniform between -2 and 2, as Stan starts."""
        return np.random.default_rng(seed).uniform(-2, 2, (chains, self.dimension)).astype(np.float32)


class Schools(Formula):
    """Eight schools (Rubin 1981), not centred: mu ~ N(0, 5), tau ~ half-Cauchy(5); q = (mu, log tau, eta)."""

    chains, warmup, draws, step_size = 64, 500, 500, 0.3
    dimension = 10

    def __init__(self) -> None:
        self.effects = np.array([28, 8, -3, 7, -1, 1, 18, 12], np.float32)
        self.errors = np.array([15, 10, 16, 11, 9, 11, 10, 18], np.float32)

    def potential(self, q: Any, library: Any, constant: Any) -> Any:
        """U, with the Jacobian of the logarithm."""
        mu, log_tau, eta = q[0], q[1], q[2:]
        tau = library.exp(log_tau)
        z = (constant(self.effects) - mu - tau * eta) / constant(self.errors)
        prior = 0.5 * (mu / 5) ** 2 + library.log1p((tau / 5) ** 2) - log_tau
        return prior + 0.5 * (eta**2).sum() + 0.5 * (z**2).sum()

    def quantities(self, draws: np.ndarray) -> np.ndarray:
        """The parameters, tau on its own scale."""
        return np.concatenate((draws[..., :1], np.exp(draws[..., 1:2]), draws[..., 2:]), -1)


class Gaussian(Formula):
    """100 independent normals, standard deviations evenly from 0.01 to 1 on the logarithmic scale."""

    chains, warmup, draws, step_size = 64, 300, 300, 0.01
    dimension = 100

    def __init__(self) -> None:
        self.scales = np.geomspace(0.01, 1.0, self.dimension).astype(np.float32)

    def potential(self, q: Any, library: Any, constant: Any) -> Any:
        """U."""
        return 0.5 * ((q / constant(self.scales)) ** 2).sum()

    def starts(self, chains: int, seed: int) -> np.ndarray:
        """Uniform within two standard deviations."""
        return super().starts(chains, seed) * self.scales


class Funnels(Formula):
    """An equal mixture of two funnels (Neal 2003) in 10 dimensions, one opening upwards, the other downwards.

    v ~ N(0, 1.5) and nine z ~ N(0, exp(v / 2)) or N(0, exp(-v / 2)).
    """

    chains, warmup, draws, step_size = 64, 300, 300, 0.1
    dimension = 10

    def potential(self, q: Any, library: Any, constant: Any) -> Any:
        """U."""
        v, squares = q[0], (q[1:] ** 2).sum()
        half = 0.5 * (self.dimension - 1) * v
        upwards = -0.5 * squares * library.exp(-v) - half
        downwards = -0.5 * squares * library.exp(v) + half
        return 0.5 * (v / 1.5) ** 2 - library.logaddexp(upwards, downwards)


PROBLEMS: dict[str, type[Problem]] = {
    "diabetes": Diabetes,
    "airfoil": Airfoil,
    "digits": Digits,
    "schools": Schools,
    "gaussian": Gaussian,
    "funnels": Funnels,
}


def standardised(columns: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 in each column, float32."""
    return ((columns - columns.mean(0)) / columns.std(0)).astype(np.float32)
