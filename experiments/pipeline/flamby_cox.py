"""Cox models of all sites by Newton's method on sums, with penalties chosen on the training patients.

Baseline hazards are the sites' own, so that the partial likelihood of all is a sum over sites and a step
needs the sum of their gradients and Hessians alone (Lu et al. 2015, "WebDISCO"): no patient, time or risk set
leaves a site. Models of single sites are drawn to the shared one, as in Ditto.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pipeline.flamby import Setting
from fedrecon.types import Variables

FOLDS, REPETITIONS = 5, 4
PENALTIES = tuple(2.0**power for power in np.arange(-3, 2.25, 0.5))
STRENGTHS = (1.0, 3.0, 10.0, 30.0)
_STEPS, _SMALL = 30, 1e-9


class Site(NamedTuple):
    """Patients of a site: x (patients, features), event bool, time."""

    x: np.ndarray
    event: np.ndarray
    time: np.ndarray


class Sums(NamedTuple):
    """What a site tells of a model: minus its log partial likelihood, with derivatives, and its events."""

    loss: float
    gradient: np.ndarray
    hessian: np.ndarray
    events: int


def sums(weights: np.ndarray, site: Site) -> Sums:
    """Breslow's partial likelihood: at risk are those whose time is not before the event's."""
    order = np.argsort(-site.time, kind="stable")
    x, event, time = (array[order] for array in site)
    # Of tied times all are at risk.
    last = np.searchsorted(-time, -time, side="right") - 1
    score = x @ weights
    top = score.max(initial=0.0)
    risk = np.exp(score - top)
    total = np.cumsum(risk)[last][event]
    mean = np.cumsum(risk[:, None] * x, 0)[last][event] / total[:, None]
    # The sum of second moments over events, without a matrix for each.
    share = np.zeros(len(time))
    np.add.at(share, last[event], 1 / total)
    second = x.T @ (x * (risk * np.cumsum(share[::-1])[::-1])[:, None])
    loss = float((np.log(total) + top - score[event]).sum())
    return Sums(loss, (mean - x[event]).sum(0), second - mean.T @ mean, int(event.sum()))


def fit(sites: Sequence[Site], penalty: float, center: np.ndarray | None = None) -> np.ndarray:
    """Minimizes the sites' mean loss over events plus ``penalty / 2 * |weights - center|^2``.

    Args:
      sites: at least one, of standardized features.
      penalty: above 0.
      center: what weights are drawn to; zero by default.
    """
    features = sites[0].x.shape[1]
    center = np.zeros(features) if center is None else center
    weights, step = center, np.full(features, np.inf)
    events = max(1, sum(int(site.event.sum()) for site in sites))

    def of(weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        told = [sums(weights, site) for site in sites]
        apart = weights - center
        loss = sum(s.loss for s in told) / events + penalty / 2 * float(apart @ apart)
        gradient = np.sum([s.gradient for s in told], 0) / events + penalty * apart
        return loss, gradient, np.sum([s.hessian for s in told], 0) / events + penalty * np.eye(features)

    loss, gradient, hessian = of(weights)
    for _ in range(_STEPS):
        step = np.linalg.solve(hessian, gradient)
        if np.abs(step).max() < _SMALL:
            break
        # The loss is convex: half of a step that is too long goes down.
        while (found := of(weights - step))[0] > loss:
            step = step / 2
            if np.abs(step).max() < _SMALL:
                return weights
        weights, (loss, gradient, hessian) = weights - step, found
    return weights


def personal(sites: Sequence[Site], penalty: float, strength: float) -> list[np.ndarray]:
    """A model of each site's own, drawn to the shared one."""
    shared = fit(sites, penalty)
    return [fit([site], strength, shared) for site in sites]


class Chosen(NamedTuple):
    """Penalties, and minus the cross-validated log partial likelihood; strength is None of a shared model."""

    penalty: float
    strength: float | None
    score: float


def choose(sites: Sequence[Site], own: bool, seed: int = 0) -> Chosen:
    """The penalty, and then the strength, of the best cross-validated partial likelihood.

    A fold's score is what it adds to the likelihood of its site (Verweij and van Houwelingen 1993), which
    uses every patient at risk: concordance within folds has too few pairs where few die. Sites make their
    folds themselves and tell sums.

    Args:
      sites: training patients, of standardized features.
      own: whether sites have models of their own.
      seed: of the folds, which are drawn several times.
    """

    def score(train: Callable[[Sequence[Site]], list[np.ndarray]]) -> float:
        return float(np.mean([_cross_validated(sites, train, seed + k) for k in range(REPETITIONS)]))

    shared = {p: score(lambda parts, p=p: [fit(parts, p)] * len(parts)) for p in PENALTIES}
    penalty = min(shared, key=shared.__getitem__)
    if not own:
        return Chosen(penalty, None, shared[penalty])
    drawn = {s: score(lambda parts, s=s: personal(parts, penalty, s)) for s in STRENGTHS}
    strength = min(drawn, key=drawn.__getitem__)
    return Chosen(penalty, strength, drawn[strength])


def _cross_validated(sites: Sequence[Site], train: Callable, seed: int) -> float:
    folds = [
        np.random.default_rng([seed, i]).permutation(np.arange(len(site.time)) % FOLDS)
        for i, site in enumerate(sites)
    ]
    added = 0.0
    for number in range(FOLDS):
        parts = [Site(*(array[f != number] for array in site)) for site, f in zip(sites, folds, strict=True)]
        for weights, site, part in zip(train(parts), sites, parts, strict=True):
            added += sums(weights, site).loss - sums(weights, part).loss
    return added


def training_sites(setting: Setting) -> tuple[list[Site], np.ndarray]:
    """(the sites, standardized by moments that are sums over sites; the deviations)."""
    arrays = setting.sites.as_arrays()
    x = np.concatenate([site["x"] for site in arrays.values()]).astype(float)
    mean, deviation = x.mean(0), x.std(0)
    deviation[deviation == 0] = 1
    return [
        Site((site["x"] - mean) / deviation, site["event"] > 0.5, site["time"].astype(float))
        for site in arrays.values()
    ], deviation


def models(setting: Setting, chosen: Chosen) -> list[Variables]:
    """The model that each site tests, of features as they are in the table."""
    sites, deviation = training_sites(setting)
    if chosen.strength is None:
        found = [fit(sites, chosen.penalty)] * len(sites)
    else:
        found = personal(sites, chosen.penalty, chosen.strength)
    shapes = jax.eval_shape(setting.task.init, jax.random.key(0))

    def variables(weights: np.ndarray) -> Variables:
        raw = jnp.asarray(weights / deviation, jnp.float32)[:, None]
        params = jax.tree.map(lambda x: raw if x.shape == raw.shape else jnp.zeros(x.shape), shapes.params)
        return Variables(params, shapes.stats)

    return [variables(weights) for weights in found]
