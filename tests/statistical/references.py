"""Agreement with posteriordb's reference draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import arviz
import numpy as np
import torch
from checks import two_sided
from more_posteriors import MORE, load_more
from numpy.typing import NDArray
from posteriors import POSTERIORS, Posterior, load
from samplers import Chains, Sampler, Task
from torch import Tensor

from hnbayes.kernels import NUTS
from hnbayes.sampling import sample_potential

AGREEING = (*(name for name in POSTERIORS if name != "eight_schools_centered"), *MORE)
TARGET_ACCEPT = {"eight_schools_noncentered": 0.95, "gp_pois_regr": 0.99, "arK": 0.9}
# Where U(-2, 2) leads a chain into another mode: near the posterior instead.
NEAR = ("arma11", "low_dim_gauss_mix")


def posterior_named(name: str) -> Posterior:
    return load_more(name) if name in MORE else load(name)


def starts(posterior: Posterior, chains: int, seed: int) -> Tensor:
    """Uniform on (-2, 2), as Stan has it; of two mixtures and time series near the reference."""
    if posterior.name not in NEAR:
        return posterior.initial_positions(chains, seed)
    noise = torch.rand(chains, posterior.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return posterior.q_mean + 0.4 * (noise - 0.5)


@dataclass(frozen=True)
class Agreement:
    """How a run compares with the reference.

    Attributes:
        z: (mean - reference) / standard error, of each parameter.
        sd_ratio: sd / reference sd.
        sd_z: the logarithm of that over its standard error.
        rhat: the largest rank R-hat.
        diverging: how many transitions.
        ess_per_gradient: the smallest ESS over all evaluations.
    """

    z: NDArray[np.float64]
    sd_ratio: NDArray[np.float64]
    sd_z: NDArray[np.float64]
    rhat: float
    diverging: int
    ess_per_gradient: float

    def p_values(self) -> dict[str, float]:
        """Two-sided, of the means and standard deviations."""
        means = {f"mean {i}": two_sided(z) for i, z in enumerate(self.z)}
        return means | {f"sd {i}": two_sided(z) for i, z in enumerate(self.sd_z)}

    def criteria(self) -> dict[str, bool]:
        """Those of verification: |z| < 4, sd within 15%, R-hat < 1.01, no divergence."""
        return {
            "|z| < 4": bool(np.abs(self.z).max() < 4),
            "sd ratio": bool(self.sd_ratio.min() >= 0.85 and self.sd_ratio.max() <= 1.15),
            "R-hat": self.rhat < 1.01,
            "no divergence": self.diverging == 0,
        }


def compare(posterior: Posterior, chains: Chains) -> Agreement:
    values = posterior.constrain(chains.positions).numpy()
    dataset = arviz.convert_to_dataset({"x": values})
    mcse = arviz.mcse(dataset, method="mean")["x"].values
    mcse_sd = arviz.mcse(dataset, method="sd")["x"].values
    rhat = arviz.rhat(dataset, method="rank")["x"].values
    mean, sd, reference = (x.numpy() for x in (posterior.mean, posterior.sd, posterior.mcse))
    ratio = values.std((0, 1)) / sd
    # The reference's own sd comes from as many independent draws as its mcse of the mean tells.
    reference_draws = np.square(sd / reference)
    error = np.sqrt(np.square(mcse_sd / sd) + _kurtosis(values) / (4 * reference_draws))
    ess = arviz.ess(dataset)["x"].values.min()
    return Agreement(
        (values.mean((0, 1)) - mean) / np.hypot(mcse, reference),
        ratio,
        np.log(ratio) / error,
        float(rhat.max()),
        int(chains.stats["diverging"].sum()),
        float(ess / chains.stats["n_steps"].sum()),
    )


def _kurtosis(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """E[z^4] - 1 of standardised draws (C, S, P): how much a variance varies."""
    z = (values - values.mean((0, 1))) / values.std((0, 1))
    return np.power(z, 4).mean((0, 1)) - 1


def run(name: str, seed: int, potential: Callable[[Tensor], Tensor] | None = None, **options: Any) -> Agreement:
    """Four chains of NUTS, 1000 draws after 1000 of warm-up each."""
    posterior = posterior_named(name)
    options = {"warmup": 1000, "draws": 1000, "kernel": NUTS()} | options
    draws = sample_potential(
        potential or posterior.potential,
        starts(posterior, 4, seed),
        target_accept=TARGET_ACCEPT.get(name, 0.8),
        seed=seed,
        progress=False,
        **options,
    )
    return compare(posterior, Chains(draws.positions, draws.stats))


def run_row(sampler: Sampler, name: str, seed: int, draws: int = 1000) -> Agreement:
    """The same through a row of the table."""
    posterior = posterior_named(name)
    more = 5 if sampler.family == "metropolis" else 1
    task = Task(posterior.potential, starts(posterior, 4, seed), more * draws, seed, warmup=more * draws)
    return compare(posterior, sampler.run(task))
