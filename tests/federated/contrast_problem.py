"""A small contrastive problem, and the methods' rounds derived again in numpy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import rankdata

from fedrecon import federated as fl
from fedrecon.alignment import Contrast
from fedrecon.types import Task, Variables

WIDTH, FEATURES = 5, 3


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def embed(params, stats, batch):
    return jnp.tanh(batch["x"] @ params["w"])


def views(batch, key):
    """The example, and it with its entries turned by one place."""
    return batch, {**batch, "x": 0.8 * batch["x"] + 0.2 * jnp.roll(batch["x"], 1, axis=1)}


def noisy_views(batch, key):
    keys = jax.random.split(key)
    return tuple({**batch, "x": batch["x"] + 0.1 * jax.random.normal(k, batch["x"].shape)} for k in keys)


def contrast(of=views):
    return Contrast(of, lambda p, s, b, key: (embed(p, s, b), s), embed, FEATURES)


TASK = Task(
    init=lambda key: Variables({"w": 0.5 * jax.random.normal(key, (WIDTH, FEATURES))}, {}),
    loss=lambda params, stats, batch, key: (0 * params["w"].sum(), (stats, {})),
    metrics=lambda params, stats, batch: {},
    predict=embed,
    normalization=Variables({"w": False}, {}),
)


def data(counts=(4, 3, 4), padding=1, seed=0):
    """Vectors, and for each its slice of a volume of all examples of the client; padding is large."""
    rng = np.random.default_rng(seed)
    size = max(counts) + padding
    x = np.full((len(counts), size, WIDTH), 1e3, np.float32)
    number, of = (np.zeros((len(counts), size), np.int32) for _ in range(2))
    for i, count in enumerate(counts):
        x[i, :count] = rng.normal(size=(count, WIDTH)) + i
        number[i, :count], of[i, :count] = np.arange(count), count
    examples = {"x": jnp.asarray(x), "slice": jnp.asarray(number), "slices": jnp.asarray(of)}
    return Clients(examples, jnp.arange(size)[None] < jnp.asarray(counts)[:, None])


def rounds_of(algorithm, *, batch_size=4, parallel="scan"):
    """``run(clients, rounds, start=None) -> [(state, info)]`` after every round, compiled once."""
    round = fl.make_round(algorithm, batch_size=batch_size, epochs=1, donate=False, parallel=parallel)

    def run(clients, rounds, start=None):
        state = start or fl.init_state(algorithm, TASK.init(jax.random.key(1)), clients)
        found = []
        for _ in range(rounds):
            state, info = round(state, clients, jax.random.key(0))
            found.append((state, info))
        return found

    return run


def unit(x):
    return x / np.sqrt(np.maximum((x**2).sum(-1, keepdims=True), 1e-12))


def info_nce(query, keys, positive, negative, temperature):
    """(loss, gradient) of one query of length 1, positive and negative being lists of keys' numbers."""
    if not len(positive) or not len(negative):
        return 0.0, np.zeros_like(query)
    scores = keys @ query / temperature
    value, gradient = 0.0, np.zeros_like(query)
    for p in positive:
        among = [p, *(n for n in negative if n != p)]
        chance = np.exp(scores[among] - scores[among].max())
        chance /= chance.sum()
        value -= np.log(chance[0]) / len(positive)
        gradient += (chance @ keys[among] - keys[p]) / temperature / len(positive)
    return value, gradient


def spearman(before, after):
    upper = np.triu_indices(len(before), 1)
    a, b = (rankdata(1 - np.corrcoef(h)[upper]) for h in (before, after))
    return np.corrcoef(a, b)[0, 1]


class Client:
    """A client in float64: one step a round over all its examples."""

    def __init__(self, x, tags, start, queue):
        self.x, self.tags, self.slow = np.asarray(x, float), np.asarray(tags), np.asarray(start, float)
        self.bank, self.bank_tags, self.queue = np.zeros((0, FEATURES)), np.zeros(0, int), queue

    def step(self, received, value, rate, momentum):
        """The model after one step; ``value(query, number, client, keys) -> (loss, gradient)``."""
        hidden = np.tanh(self.x @ received)
        second = np.tanh((0.8 * self.x + 0.2 * np.roll(self.x, 1, axis=1)) @ self.slow)
        queries, keys = unit(hidden), unit(second)
        step = np.zeros_like(received)
        for i, query in enumerate(queries):
            gradient = value(query, i, self, keys)[1]
            through = (gradient - query * (query @ gradient)) / np.linalg.norm(hidden[i])
            step += np.outer(self.x[i], through * (1 - hidden[i] ** 2)) / len(queries)
        new = received - rate * step
        self.bank = np.concatenate([self.bank, keys])[-self.queue :]
        self.bank_tags = np.concatenate([self.bank_tags, self.tags])[-self.queue :]
        self.slow = momentum * self.slow + (1 - momentum) * new
        return new
