"""Networks of two institutions: each alone, pooled, divided, and divided with privacy at the cut.

All rows are one network with the same first weights and decay, those without privacy with the same steps and
rate, too; what an institution alone does not know is 0. Rates, decay, clipping and the few steps with privacy
were chosen on the simulated problem.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import rankdata

from experiments.pipeline.vertical_problems import Problem
from fedrecon.privacy import default_delta
from fedrecon.reporting import bootstrap_interval
from fedrecon.types import PyTree
from fedrecon.vertical import (
    Guest,
    Host,
    Protection,
    SplitBatch,
    SplitNetwork,
    SplitParams,
    activations,
    calibrated,
    guest_epsilon,
    init,
    split_gradient,
    undivided_loss,
)

FOLDS = 5
WIDTH, DECAY = 8, 3.0
# With privacy few steps are left, which are larger.
RATE, PRIVATE_RATE = 0.005, 0.05
# Bounds on an example's activations, on its gradient, and on its inputs over the root of their number.
CLIPPING, GRADIENT_CLIPPING, INPUT_CLIPPING = 1.0, 0.2, 0.8
_RESAMPLES = 1000
GUEST, HOST, POOLED, FEDERATED = "guest alone", "host alone", "pooled", "federated"


class Way(NamedTuple):
    """How a row is trained.

    Attributes:
      sees: factors of the guest's and the host's inputs.
      steps: passes over the training patients.
      rate: of Adam.
      divided: whether messages cross the cut.
      once: the guest sends its inputs once, and the host trains all layers.
      protection: of the guest's data.
    """

    sees: tuple[float, float] = (1.0, 1.0)
    steps: int = 200
    rate: float = RATE
    divided: bool = False
    once: bool = False
    protection: Protection = Protection()


def make_network(guest: int, host: int, once: bool = False) -> SplitNetwork:
    """A hidden layer at either institution and a linear one on both.

    Args:
      guest: number of features.
      host: number of features.
      once: cut before the guest's layer, not behind it.
    """

    def layer(key: jax.Array, inputs: int) -> PyTree:
        return {"w": jax.random.normal(key, (inputs, WIDTH)) / math.sqrt(inputs), "b": jnp.zeros(WIDTH)}

    def hidden(params: PyTree, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ params["w"] + params["b"])

    def host_init(key: jax.Array) -> PyTree:
        own = {"hidden": layer(key, host), "out": jnp.zeros(2 * WIDTH), "bias": jnp.zeros(())}
        return {**own, "guest": layer(jax.random.fold_in(key, 1), guest)} if once else own

    def host_apply(params: PyTree, cut: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
        first = hidden(params["guest"], cut[0]) if once else cut[0]
        return jnp.concatenate([first, hidden(params["hidden"], x)], 1) @ params["out"] + params["bias"]

    own = Guest(lambda key: {}, lambda params, x: x) if once else Guest(lambda key: layer(key, guest), hidden)
    return SplitNetwork((own,), Host(host_init, host_apply, optax.sigmoid_binary_cross_entropy))


def ways(problem: Problem, steps: int, epsilons: Sequence[float], private_steps: int) -> dict[str, Way]:
    """The rows by name.

    Args:
      problem: whose patients are protected.
      steps: of every row but those of a network that is trained with privacy.
      epsilons: budgets of the guest's data on a patient.
      private_steps: of a network that is trained with privacy.

    Raises:
      ArgumentError: arguments out of range.
    """
    examples = training_size(problem)
    rows = {
        GUEST: Way((1.0, 0.0), steps),
        HOST: Way((0.0, 1.0), steps),
        POOLED: Way(steps=steps),
        FEDERATED: Way(steps=steps, divided=True),
    }
    for epsilon in epsilons:
        options = {"examples": examples, "passes": private_steps}
        cut, own = calibrated(epsilon, clipping=(CLIPPING, GRADIENT_CLIPPING), **options)
        trained = Protection(cut, own)
        rows[f"{FEDERATED}, ε = {epsilon:g}"] = Way(
            steps=private_steps, rate=PRIVATE_RATE, divided=True, protection=trained
        )
        bound = INPUT_CLIPPING * math.sqrt(problem.guest.shape[1])
        sent, _ = calibrated(epsilon, clipping=(bound, 1.0), trained=False, **options)
        rows[f"{FEDERATED}, ε = {epsilon:g}, inputs sent once"] = Way(
            steps=steps, divided=True, once=True, protection=Protection(sent)
        )
    return rows


def training_size(problem: Problem) -> int:
    """Patients of the smallest training part, by which sums are divided."""
    return len(problem.labels) - -(-len(problem.labels) // FOLDS)


def cost(way: Way, problem: Problem) -> dict[str, float]:
    """Epsilon of a patient's data at the guest, and its delta; nothing without privacy."""
    if way.protection == Protection():
        return {}
    size = training_size(problem)
    return {
        "epsilon": guest_epsilon(way.protection, size),
        "delta": default_delta(None, size),
        "noise_multiplier": way.protection.activations.noise_multiplier,
    }


def folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """bool (FOLDS, patients): who is trained on; tests are stratified by label."""
    rng = np.random.default_rng([seed, 3])
    part = np.empty(len(labels), int)
    start = 0
    for value in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == value))
        part[rows] = (start + np.arange(len(rows))) % FOLDS
        start += len(rows)
    return part != np.arange(FOLDS)[:, None]


def scores(problem: Problem, way: Way, seed: int) -> np.ndarray:
    """(patients,): the logit of each, of the network that was not trained on them."""
    trained_on = folds(problem.labels, seed)
    batch = SplitBatch(
        (way.sees[0] * problem.guest,),
        way.sees[1] * problem.host,
        problem.labels,
        np.ones(len(problem.labels), bool),
    )
    # First weights and noise, both of the seed alone: rows differ in what is known.
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(jnp.arange(FOLDS))
    found = _trained(way._replace(sees=(1.0, 1.0)), batch, trained_on, keys)
    return np.asarray(found)[trained_on.argmin(0), np.arange(len(problem.labels))]


@functools.partial(jax.jit, static_argnums=0)
def _trained(way: Way, batch: SplitBatch, trained_on: jax.Array, keys: jax.Array) -> jax.Array:
    network = make_network(batch.guests[0].shape[1], batch.host.shape[1], way.once)
    optimizer = optax.adamw(way.rate, weight_decay=DECAY)
    protection = way.protection

    def train(valid: jax.Array, key: jax.Array) -> jax.Array:
        own = batch._replace(valid=valid)
        start, send, noise = jax.random.split(key, 3)
        params = init(network, start)
        everybody = jnp.ones_like(valid)
        if way.once:
            # Whatever is sent of the patients of the test is sent once, too.
            sent = activations(
                network.guests[0], params.guests[0], batch.guests[0], everybody, protection.activations, send
            )
            own = own._replace(guests=(sent,))

        def gradient(params: SplitParams, step: jax.Array) -> SplitParams:
            if way.once or not way.divided:
                return jax.grad(lambda p: undivided_loss(network, p, own))(params)
            return split_gradient(network, params, own, protection, jax.random.fold_in(noise, step))[1]

        def step(carry: tuple[SplitParams, Any], number: jax.Array) -> tuple[tuple[SplitParams, Any], None]:
            params, state = carry
            updates, state = optimizer.update(gradient(params, number), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(way.steps))
        if way.once:
            last = own.guests[0]
        else:
            last = activations(
                network.guests[0], params.guests[0], batch.guests[0], everybody, protection.activations, send
            )
        return network.host.apply(params.host, (last,), batch.host)

    return jax.vmap(train)(trained_on, keys)


def area_under(logits: np.ndarray, ill: np.ndarray) -> float:
    """`fedrecon.reporting.auc` by ranks, which thousands of resamples take; NaN without a pair."""
    positive = int(ill.sum())
    pairs = positive * (len(ill) - positive)
    least = positive * (positive + 1) / 2
    return float((rankdata(logits)[ill].sum() - least) / pairs) if pairs else float("nan")


def summary(
    rows: Mapping[str, np.ndarray], labels: np.ndarray
) -> tuple[dict[str, dict[str, Any]], dict[str, list[float]]]:
    """Areas under the curve with intervals of 95 % over patients and seeds, and how rows differ.

    Args:
      rows: row -> (seeds, patients) logits.
      labels: (seeds, patients).

    Returns:
      (row -> "auc", "low", "high" and "per_seed"; difference or part -> [value, low, high]).
    """
    ill = labels > 0
    seeds, patients = next(iter(rows.values())).shape

    def area(name: str, drawn: np.ndarray, chosen: Sequence[int]) -> float:
        return float(np.mean([area_under(rows[name][seed, drawn], ill[seed, drawn]) for seed in chosen]))

    def with_interval(value: Callable[[np.ndarray, Sequence[int]], float]) -> list[float]:
        rng = np.random.default_rng(0)
        interval = bootstrap_interval(
            lambda drawn: value(drawn, rng.integers(seeds, size=seeds)), patients, _RESAMPLES
        )
        return [value(np.arange(patients), range(seeds)), *interval]

    found = {}
    for name, logits in rows.items():
        value, low, high = with_interval(functools.partial(area, name))
        each = [area_under(own, truth) for own, truth in zip(logits, ill, strict=True)]
        found[name] = {"auc": value, "low": low, "high": high, "per_seed": each}
    compared = {
        f"{FEDERATED} - {alone}": with_interval(
            lambda drawn, chosen, alone=alone: area(FEDERATED, drawn, chosen) - area(alone, drawn, chosen)
        )
        for alone in (GUEST, HOST)
    }
    compared[f"{FEDERATED} / {POOLED}"] = with_interval(
        lambda drawn, chosen: area(FEDERATED, drawn, chosen) / area(POOLED, drawn, chosen)
    )
    return found, compared
