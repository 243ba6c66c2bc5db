"""One plain verdict for each check: ok, look or stop, with the reason and what to try.

The limits are conventions, and where they come from stands beside them. "look" means that the draws are usable for what
the check does not touch; "stop" that what they say here should not be believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hnbayes.diagnostics.energy import LOW_BFMI, SATURATED_SHARE, bfmi

if TYPE_CHECKING:
    from hnbayes.diagnostics.lppd import CumulativeLPPD
    from hnbayes.diagnostics.samples import Array
    from hnbayes.diagnostics.statistics import Convergence

OK, LOOK, STOP = "ok", "look", "stop"
VERDICTS = (OK, LOOK, STOP)

RHAT = (1.01, 1.05)  # Vehtari et al. 2021, section 4; above 1.05 what the chains say differs visibly
WITHIN_RHAT = (1.05, 1.2)  # half-chains are short, and the worst of many is looked at: wider
ESS = (400.0, 100.0)  # Vehtari et al. 2021: 400 altogether, so that R-hat and MCSE are reliable themselves
RELATIVE_MCSE = (0.1, 0.25)  # share of the posterior's sd
DIVERGING_SHARE = 0.01
VERY_LOW_BFMI = 0.15
STILL_RISING = (0.01, 0.05)  # nats per observation
BAD_K_SHARE = 0.05
DEAD_SHARE = (0.25, 0.9)


@dataclass(frozen=True)
class Check:
    """One question asked of the draws.

    Attributes:
        name: what was looked at.
        verdict: "ok", "look" or "stop".
        value: what was found, in a few words.
        why: what it means.
        advice: what to try; empty where the verdict is "ok".
        numbers: the figures behind it.

    Example:
        >>> check = hnbayes.diagnostics.Check("chains agree", "look", "R-hat 1.03", "they differ", "take more draws")
        >>> check.verdict, check.advice
        ('look', 'take more draws')
    """

    name: str
    verdict: str
    value: str
    why: str
    advice: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


def judged(value: float, limits: tuple[float, float]) -> str:
    """The verdict of a value against (ok, look) limits, which rise or fall; NaN is never ok."""
    ok, look = limits
    if ok <= look:
        return OK if value <= ok else LOOK if value <= look else STOP
    return OK if value >= ok else LOOK if value >= look else STOP


def chains_agree(what: str, found: Convergence) -> Check:
    """R-hat between chains, read beside the R-hat within each."""
    name = f"{what}: chains agree"
    if found.within.shape[0] < 2:
        return Check(
            name,
            LOOK,
            "one chain",
            "whether other starts lead to the same posterior can't be seen from one chain.",
            "Run at least 4 chains from different starts.",
        )
    if (found.sd == 0).all() or np.isnan(found.rhat).all():
        return _not_moving(name)
    numbers = _worst_and_median(found.rhat, "rhat")
    value = _spoken("R-hat", found.rhat, ".3f")
    if found.stuck.any():
        stuck = found.stuck.reshape(found.within.shape[0], -1).any(axis=1)
        return Check(
            name,
            STOP,
            f"{int(stuck.sum())} of {found.within.shape[0]} chains stuck",
            "some quantity never changes in them, and does in others: every proposal was rejected.",
            "Start elsewhere, let warm-up run longer, or lower the step size.",
            numbers,
        )
    verdict = judged(float(np.nanmax(found.rhat)), RHAT)
    if verdict == OK:
        return Check(name, OK, value, "the chains tell the same story.", numbers=numbers)
    settled = not (found.within > WITHIN_RHAT[0]).any()
    if settled:
        why = "each chain has settled, but not where the others have: the posterior has several modes."
        advice = (
            "More draws of these chains won't help. Predictions average over the chains, as an ensemble's do: use more "
            "chains and take the spread between them seriously; or a smaller network, or a narrower prior."
        )
    else:
        why = "the chains have not forgotten where they started."
        advice = "Run longer (warm-up, then draws), raise max_tree_depth where it is reached, or use a smaller network."
    return Check(name, verdict, value, why, advice, numbers)


def chains_settled(what: str, found: Convergence) -> Check:
    """R-hat of each chain's halves."""
    name = f"{what}: each chain has settled"
    if np.isnan(found.within).all():
        return _not_moving(name)
    numbers = _worst_and_median(found.within, "within_rhat")
    verdict = judged(numbers["worst_within_rhat"], WITHIN_RHAT)
    value = _spoken("R-hat of halves", found.within, ".3f")
    if verdict == OK:
        return Check(name, OK, value, "first and last half of each chain agree.", numbers=numbers)
    by_chain = (found.within > WITHIN_RHAT[0]).reshape(found.within.shape[0], -1).any(axis=1)
    late = ", ".join(str(i) for i in np.flatnonzero(by_chain)[:8])
    why = f"the first and the last half differ in chain {late}: it still drifts, or moves slowly."
    return Check(name, verdict, value, why, "Run a longer warm-up; if that changes nothing, more draws.", numbers)


def superchains_agree(what: str, nested: Array, chains_each: int) -> Check:
    r"""Nested R-hat, against what M independent chains of one draw have at best: \(\sqrt{1 + 1/M}\)."""
    name = f"{what}: superchains agree"
    if np.isnan(nested).all():
        return _not_moving(name)
    numbers = _worst_and_median(nested, "nested_rhat")
    best = 1 / chains_each
    limits = (float(np.sqrt(RHAT[0] ** 2 + best)), float(np.sqrt(RHAT[1] ** 2 + best)))
    verdict = judged(numbers["worst_nested_rhat"], limits)
    value = f"{_spoken('nested R-hat', nested, '.3f')} (limit {limits[0]:.3f})"
    if verdict == OK:
        return Check(name, OK, value, "where the chains started has been forgotten.", numbers=numbers)
    why = "superchains differ by more than their chains' scatter: where they started still shows."
    return Check(name, verdict, value, why, "Run a longer warm-up, or start from init='map'.", numbers)


def effective_draws(what: str, found: Convergence) -> Check:
    """Bulk and tail ESS of the worst quantity."""
    name = f"{what}: effective draws"
    if (found.sd == 0).all() or np.isnan(found.ess_bulk).all():
        return _not_moving(name)
    bulk, tail = float(np.nanmin(found.ess_bulk)), float(np.nanmin(found.ess_tail))
    verdict = judged(min(bulk, tail), ESS)
    value = f"ESS bulk {bulk:.0f}, tail {tail:.0f}{' (worst)' if found.ess_bulk.size > 1 else ''}"
    numbers = {"worst_ess_bulk": bulk, "worst_ess_tail": tail}
    if verdict == OK:
        return Check(name, OK, value, f"at least {ESS[0]:.0f}: means and 90% intervals are stable.", numbers=numbers)
    why = f"fewer than {ESS[0]:.0f}: means, quantiles and these diagnostics themselves are rough."
    return Check(name, verdict, value, why, "Take more draws, or more chains where each has settled.", numbers)


def monte_carlo_error(what: str, found: Convergence) -> Check:
    """MCSE of the mean, as a share of the posterior's sd."""
    name = f"{what}: Monte Carlo error"
    with np.errstate(invalid="ignore", divide="ignore"):
        share = found.mcse_mean / found.sd
    if not np.isfinite(share).any():
        return _not_moving(name)
    worst = float(np.nanmax(share))
    at = np.unravel_index(int(np.nanargmax(share)), share.shape)
    verdict = judged(worst, RELATIVE_MCSE)
    value = f"{worst:.0%} of the sd (worst; {float(found.mcse_mean[at]):.3g} beside sd {float(found.sd[at]):.3g})"
    numbers = {"worst_relative_mcse": worst, "mcse_mean": float(found.mcse_mean[at]), "sd": float(found.sd[at])}
    if verdict == OK:
        return Check(name, OK, value, "another run would give nearly the same means.", numbers=numbers)
    return Check(name, verdict, value, "another run may give visibly other means.", "Take more draws.", numbers)


def divergences(diverging: Array) -> Check:
    """Divergent transitions."""
    count, share = int(diverging.sum()), float(diverging.mean())
    verdict = OK if count == 0 else LOOK if share <= DIVERGING_SHARE else STOP
    value = f"{count} of {diverging.size}" if count else "none"
    numbers = {"divergences": float(count), "share": share}
    if verdict == OK:
        return Check("divergences", OK, value, "the integrator followed the posterior's curvature.", numbers=numbers)
    why = f"in {int(diverging.any(1).sum())} of {len(diverging)} chains steps were too long for the curvature: biased."
    advice = "Raise target_accept (0.95, 0.99); use non-centred scales; give priors that keep scales away from 0."
    return Check("divergences", verdict, value, why, advice, numbers)


def energy_explored(energy: Array) -> Check:
    """E-BFMI of the worst chain."""
    values = bfmi(energy)
    if np.isnan(values).all():
        return _not_moving("energy")
    worst = float(np.nanmin(values))
    numbers = {"worst_bfmi": worst}
    value = f"E-BFMI {worst:.2f} (worst chain)"
    verdict = judged(worst, (LOW_BFMI, VERY_LOW_BFMI))
    if verdict == OK:
        return Check("energy", OK, value, f"above {LOW_BFMI}: the energy is explored freely.", numbers=numbers)
    why = "the energy changes little from draw to draw: tails or a funnel are explored slowly."
    return Check("energy", verdict, value, why, "Use non-centred scales or lighter tails; run longer.", numbers)


def tree_depth(saturated: Array) -> Check:
    """Trajectories cut at the maximum depth: a matter of cost, not of truth, so never "stop"."""
    share = float(saturated.mean())
    numbers = {"share": share}
    if share < SATURATED_SHARE:
        return Check("tree depth", OK, f"{share:.1%} at the maximum", "trajectories turn by themselves.", "", numbers)
    why = "trajectories were cut before they turned: draws are right, but more alike than need be."
    advice = "Raise max_tree_depth, or let warm-up run longer so that the metric fits."
    return Check("tree depth", LOOK, f"{share:.0%} at the maximum", why, advice, numbers)


def density_levelled(found: CumulativeLPPD) -> Check:
    """What the second half of the draws added to the LPPD, and the other chains to the first."""
    rise = found.still_rising
    gain = float(found.by_chain[-1] - found.by_draw[:, -1].mean())
    numbers = {"lppd": float(found.pooled[-1]), "still_rising": rise, "gain_of_pooling": gain}
    value = f"LPPD {found.pooled[-1]:.3f} a point; second half of the draws {rise:+.3f}"
    verdict = judged(abs(rise), STILL_RISING)
    name = "predictive density"
    if verdict == OK:
        return Check(name, OK, value, f"it has levelled off; pooling the chains gives {gain:+.3f}.", numbers=numbers)
    why = f"it has not levelled off: more draws still change the predictions (pooling the chains gives {gain:+.3f})."
    return Check(name, verdict, value, why, "Take more draws, or more chains.", numbers)


def leave_one_out(pareto_k: Array, good: float) -> Check:
    """Pareto k of PSIS-LOO (Vehtari et al. 2024): how far leaving a point out can be had by reweighting."""
    bad = int((pareto_k > good).sum())
    share = bad / pareto_k.size
    numbers = {"worst_pareto_k": float(pareto_k.max()), "bad": float(bad), "share": share}
    value = f"{bad} of {pareto_k.size} Pareto k above {good:.2f}"
    if bad == 0:
        return Check("leave-one-out", OK, value, "PSIS-LOO can be trusted.", numbers=numbers)
    why = "for these points PSIS-LOO is unreliable: each moves the posterior much by itself, as a flexible net lets it."
    advice = "Score on held-out data instead of az.loo, or refit without these points (az.reloo)."
    return Check("leave-one-out", LOOK if share <= BAD_K_SHARE else STOP, value, why, advice, numbers)


def units_alive(dead: Mapping[str, Array]) -> Check:
    """The share of ReLU units that are 0 on all the data, in the layer where it is largest."""
    shares = {name: float(np.mean(units)) for name, units in dead.items()}
    worst = max(shares, key=lambda name: shares[name])
    numbers = {f"dead_share[{name}]": share for name, share in shares.items()}
    value = f"{shares[worst]:.0%} dead in {worst!r} (worst layer)"
    verdict = judged(shares[worst], DEAD_SHARE)
    if verdict == OK:
        return Check("ReLU units", OK, value, "most units respond to the data.", numbers=numbers)
    why = "they are 0 for every input: the network is smaller than it looks, and their weights follow the prior."
    advice = "Standardise the inputs, narrow the biases' prior, or use tanh."
    return Check("ReLU units", verdict, value, why, advice, numbers)


def _not_moving(name: str) -> Check:
    return Check(
        name,
        STOP,
        "no variation",
        "all draws are the same, or too few to tell (at least 4 a chain).",
        "Take more draws; if there are enough, every proposal was rejected: lower the step size.",
    )


def _worst_and_median(values: Array, key: str) -> dict[str, float]:
    return {f"worst_{key}": float(np.nanmax(values)), f"median_{key}": float(np.nanmedian(values))}


def _spoken(label: str, values: Array, form: str) -> str:
    if np.isnan(values).all():
        return f"{label} not known"
    worst = format(float(np.nanmax(values)), form)
    return f"{label} {worst}" if values.size == 1 else f"{label} {worst} (worst of {values.size})"
