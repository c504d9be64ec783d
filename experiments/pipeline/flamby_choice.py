"""A method and its rates for a clinical table, chosen by cross-validation on the training patients."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pipeline.flamby import Protocol, Setting, counts, scores, trainer
from fedrecon.data import ClientData

FOLDS = 5
_ADAPTIVE = {"first_decay": 0.9, "second_decay": 0.999, "floor": 1e-8}


def _server(rate: float, server_rate: float) -> dict[str, float]:
    return {"learning_rate": rate, "server_learning_rate": server_rate, **_ADAPTIVE}


# Around the rates of FLamby's own search, and personal models next to the shared one.
CANDIDATES: dict[str, list[tuple[str, dict[str, float]]]] = {
    "heart": [
        *(("fedyogi", _server(rate, server)) for rate in (1e-3, 3.162e-3, 1e-2) for server in (0.01, 0.03)),
        *(("fedavgm", {"learning_rate": rate}) for rate in (1e-3, 3.162e-3)),
        *(
            ("ditto", {"learning_rate": rate, "strength": strength})
            for rate in (3.162e-3, 1e-2, 3.162e-2)
            for strength in (0.03, 0.3, 3.0)
        ),
    ],
}


class Choice(NamedTuple):
    """What was chosen.

    Attributes:
      method, options: of the best candidate.
      score: its mean over sites in cross-validation.
      tried: (method, options, score) of all.
    """

    method: str
    options: Mapping[str, float]
    score: float
    tried: list[tuple[str, Mapping[str, float], float]]


def choose(dataset: str, protocol: Protocol, setting: Setting, seed: int = 0) -> Choice:
    """The candidate with the best mean over sites of the cross-validated metric; the test is not looked at.

    Args:
      dataset: key of `CANDIDATES`.
      protocol, setting: of the data set.
      seed: of the folds.
    """
    parts = [_fold(setting, number, seed) for number in range(FOLDS)]
    tried = []
    for name, options in CANDIDATES[dataset]:
        changed = protocol._replace(methods={**protocol.methods, name: options})
        train = trainer(name, changed, setting)
        found = np.sum([counts(changed, part, train(seed, part)) for part in parts], axis=0)
        tried.append((name, options, float(np.nanmean(scores(found)))))
    name, options, score = max(tried, key=lambda row: row[2])
    return Choice(name, options, score, tried)


def _fold(setting: Setting, number: int, seed: int) -> Setting:
    """Trains on the patients of the other folds and tests on this one's, in arrays of the same shapes."""
    valid = np.asarray(setting.sites.valid)
    draw = np.random.default_rng(seed).permuted(
        np.tile(np.arange(valid.shape[1]) % FOLDS, (len(valid), 1)), axis=1
    )
    held = draw == number
    tests: list[dict[str, Any]] = [
        {
            **{name: jnp.asarray(x[site]) for name, x in setting.sites.examples.items()},
            "valid": jnp.asarray(valid[site] & held[site]),
        }
        for site in range(len(valid))
    ]
    sites = ClientData(setting.sites.examples, jnp.asarray(valid & ~held), setting.sites.names)
    return setting._replace(sites=jax.tree.map(jnp.asarray, sites), tests=tests)
