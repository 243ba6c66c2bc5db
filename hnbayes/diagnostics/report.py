"""Report: every check on a run, its verdict, and what to try."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hnbayes.diagnostics import checks
from hnbayes.diagnostics.checks import LOOK, OK, STOP, VERDICTS, Check
from hnbayes.diagnostics.lppd import cumulative_lppd, loo
from hnbayes.diagnostics.samples import as_samples, thin_points
from hnbayes.diagnostics.statistics import convergence, nested_rhat

if TYPE_CHECKING:
    from hnbayes.diagnostics.samples import Array

# A chain of fewer draws has no halves worth comparing.
ENOUGH_FOR_HALVES = 50
WIDTH = 100


@dataclass(frozen=True)
class Report:
    """What a run is worth: `print(report)` shows it as a table.

    Attributes:
        checks: all that was looked at.
        notes: what could not be looked at, and what it needs.

    Example:
        >>> functions = np.random.default_rng(0).normal(size=(4, 500, 5))
        >>> report = hnbayes.diagnostics.diagnose(functions=functions)
        >>> report["predictions: chains agree"].verdict, report.verdict
        ('ok', 'ok')
        >>> len(report.checks), list(report.to_dict())
        (4, ['verdict', 'checks', 'notes'])
    """

    checks: tuple[Check, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> str:
        """The worst verdict of all checks: "ok", "look" or "stop"."""
        return max((check.verdict for check in self.checks), key=VERDICTS.index, default=LOOK)

    def __getitem__(self, name: str) -> Check:
        """The check of that name."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"there is no check {name!r}; the checks are {', '.join(c.name for c in self.checks)}")

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, text and numbers, for JSON; numbers that are not finite become None."""
        rows = [
            {
                "name": c.name,
                "verdict": c.verdict,
                "value": c.value,
                "why": c.why,
                "advice": c.advice,
                "numbers": {key: float(v) if np.isfinite(v) else None for key, v in c.numbers.items()},
            }
            for c in self.checks
        ]
        return {"verdict": self.verdict, "checks": rows, "notes": list(self.notes)}

    def _reasons(self) -> dict[tuple[str, str], list[Check]]:
        """What is not ok by its reason and advice, which several checks may share, the worst first."""
        result: dict[tuple[str, str], list[Check]] = {}
        for check in sorted(self.checks, key=lambda c: -VERDICTS.index(c.verdict)):
            if check.verdict != OK:
                result.setdefault((check.why, check.advice), []).append(check)
        return result

    def __str__(self) -> str:
        count = {v: sum(c.verdict == v for c in self.checks) for v in VERDICTS}
        lines = [f"Verdict: {self.verdict} ({count[OK]} ok, {count[LOOK]} to look at, {count[STOP]} to stop at)", ""]
        name = max((len(c.name) for c in self.checks), default=0)
        lines += [f"{c.verdict:<5} {c.name:<{name}}  {c.value}" for c in self.checks]
        for (why, advice), same in self._reasons().items():
            lines += ["", *_wrapped("; ".join(f"{c.verdict}: {c.name}" for c in same), indent="")]
            lines += [*_wrapped(f"Why: {why}"), *_wrapped(f"Try: {advice}")]
        for note in self.notes:
            lines += ["", *_wrapped(f"Not checked: {note}", indent="")]
        return "\n".join(lines)


def diagnose(
    x: Any = None,
    *,
    functions: Any = None,
    log_likelihood: Any = None,
    log_prior: Any = None,
    stats: Mapping[str, Any] | None = None,
    dead_units: Mapping[str, Any] | None = None,
    superchains: Sequence[int] | None = None,
    max_probes: int = 64,
    psis_loo: bool = True,
) -> Report:
    """Ask of a run everything that its draws can answer.

    Weights are not looked at: they are not identified. What a group of `x` holds need not be given again.

    Args:
        x: InferenceData or DataTree, or an object whose `to_inference_data()` gives one (`Draws`, chains, a posterior):
            its groups `sample_stats`, `log_likelihood` and `log_prior` are used.
        functions: the network's outputs at probe inputs, (C, S, N) or (C, S, N, K): the most telling of all. Without
            observation noise.
        log_likelihood: log density of each observation (C, S, N).
        log_prior: log prior density (C, S).
        stats: the sampler's statistics under ArviZ's names, each (C, S).
        dead_units: what `hnbayes.diagnostics.dead_units` returns.
        superchains: of each chain, the number of its superchain (C,), for many short chains: nested R-hat then takes
            the place of R-hat.
        max_probes: how many of the N probe inputs are looked at, evenly spaced.
        psis_loo: whether Pareto k is computed, which takes about a second for 1,000 observations.

    Raises:
        TypeError: if something is not of the kind described.
        ValueError: if there is nothing to look at, or shapes do not fit.

    Example:
        >>> functions = np.random.default_rng(0).normal(size=(4, 500, 5))
        >>> hnbayes.diagnostics.diagnose(functions=functions).verdict
        'ok'
        >>> functions[0] += 3
        >>> hnbayes.diagnostics.diagnose(functions=functions).verdict
        'stop'
    """
    if x is not None:
        groups = _groups(x)
        stats = groups.stats if stats is None else stats
        log_likelihood = groups.log_likelihood if log_likelihood is None else log_likelihood
        log_prior = groups.log_prior if log_prior is None else log_prior
    quantities: dict[str, Array] = {}
    notes: list[str] = []
    if functions is None:
        notes.append("predictions. Pass functions=, the network's outputs at probe inputs (chains, draws, inputs).")
    else:
        quantities["predictions"] = thin_points(as_samples("functions", functions, finite=False), max_probes)
    if log_likelihood is None:
        notes.append("predictive density and leave-one-out. Pass log_likelihood= (chains, draws, observations).")
    else:
        log_likelihood = as_samples("log_likelihood", log_likelihood, dims=3, finite=False)
        quantities["log likelihood"] = log_likelihood.sum(2)
    if log_prior is not None:
        quantities["log prior"] = as_samples("log_prior", log_prior, dims=2, finite=False)
    _check_same_draws({**quantities, **{f"stats[{k!r}]": np.asarray(v) for k, v in (stats or {}).items()}})

    found: list[Check] = []
    for what, values in quantities.items():
        found += _of_quantity(what, values, superchains)
    if log_likelihood is not None and np.isfinite(log_likelihood).all():
        found += _of_density(log_likelihood, psis_loo)
    found += _of_sampler(stats or {})
    if dead_units:
        found.append(checks.units_alive(dead_units))
    if not found:
        raise ValueError(
            "there must be something to look at: functions, log likelihood, log prior or the sampler's statistics; "
            "received none. Pass an InferenceData with sample_stats, or arrays (chains, draws, ...)."
        )
    return Report(tuple(found), tuple(notes))


@dataclass(frozen=True)
class _Groups:
    stats: dict[str, Any]
    log_likelihood: Any
    log_prior: Any


def _groups(x: Any) -> _Groups:
    """What an InferenceData, a DataTree or what turns into one says of the sampler and of the model."""
    idata = x.to_inference_data() if hasattr(x, "to_inference_data") else x

    def group(name: str) -> Mapping[str, Any]:
        try:
            data = idata[name]
            return {str(key): data[key] for key in data.data_vars}
        except (KeyError, AttributeError):
            return {}

    if not (hasattr(idata, "groups") and hasattr(idata, "__getitem__")):
        raise TypeError(
            "x must be InferenceData, a DataTree or draws that turn into one; received "
            f"{type(x).__name__}. Pass arrays by name: functions=, log_likelihood=, stats=."
        )
    pointwise = [as_samples(f"log_likelihood[{key!r}]", v, finite=False) for key, v in group("log_likelihood").items()]
    priors = [as_samples(f"log_prior[{key!r}]", v, finite=False) for key, v in group("log_prior").items()]
    flat = [v.reshape(*v.shape[:2], -1) for v in pointwise]
    return _Groups(
        dict(group("sample_stats")),
        np.concatenate(flat, axis=2) if flat else None,
        sum(v.reshape(*v.shape[:2], -1).sum(2) for v in priors) if priors else None,
    )


def _check_same_draws(arrays: Mapping[str, Array]) -> None:
    shapes = {name: np.shape(x)[:2] for name, x in arrays.items()}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:6])
        raise ValueError(f"all must be of the same (chains, draws); received {told}. Pass arrays of one run.")


def _of_quantity(what: str, values: Array, superchains: Sequence[int] | None) -> list[Check]:
    if not np.isfinite(values).all():
        bad = ~np.isfinite(values).reshape(*values.shape[:2], -1).all(2)
        why = "the density is not defined there, or numbers have overflowed."
        advice = "Standardise the data, narrow the prior, or use float64."
        return [Check(what, STOP, f"NaN or infinite in {int(bad.sum())} of {bad.size} draws", why, advice)]
    numbers = convergence(values)
    result = []
    if superchains is not None:
        nested = nested_rhat(values, superchains)
        result.append(checks.superchains_agree(what, nested, len(values) // len(set(superchains))))
    else:
        result.append(checks.chains_agree(what, numbers))
        if values.shape[1] >= ENOUGH_FOR_HALVES:
            result.append(checks.chains_settled(what, numbers))
    result.append(checks.effective_draws(what, numbers))
    if what == "predictions":
        result.append(checks.monte_carlo_error(what, numbers))
    return result


def _of_density(log_likelihood: Array, psis_loo: bool) -> list[Check]:
    result = [checks.density_levelled(cumulative_lppd(log_likelihood))]
    if psis_loo and log_likelihood.shape[0] * log_likelihood.shape[1] >= ENOUGH_FOR_HALVES:
        with warnings.catch_warnings():  # the check says it
            warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto", category=UserWarning)
            elpd = loo(log_likelihood)
        result.append(checks.leave_one_out(np.asarray(elpd.pareto_k), float(elpd.good_k)))
    return result


def _of_sampler(stats: Mapping[str, Any]) -> list[Check]:
    def array(name: str) -> Array:
        return as_samples(f"stats[{name!r}]", stats[name], dims=2)

    result = []
    # Metropolis has no energy, and its improper proposals are rejections like any other.
    if "diverging" in stats and "energy" in stats:
        result.append(checks.divergences(array("diverging").astype(bool)))
    if "energy" in stats:
        result.append(checks.energy_explored(array("energy")))
    if "reached_max_treedepth" in stats:
        result.append(checks.tree_depth(array("reached_max_treedepth")))
    return result


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "     ")
