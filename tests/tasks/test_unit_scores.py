"""Scores between 0 and 1 against counts by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.tasks.unit_scores import macro_f1, unit_score
from fedrecon.types import Task, Variables


def test_macro_f1_is_the_mean_over_classes_that_occur():
    predicted, label = jnp.array([0, 0, 1, 1, 2, 3]), jnp.array([0, 1, 1, 1, 0, 3])
    valid = jnp.array([True] * 5 + [False])
    # Class 0: TP 1, FP 1, FN 1; class 1: TP 2, FN 1; class 2: FP 1; class 3 is padding alone.
    np.testing.assert_allclose(macro_f1(predicted, label, valid, 5), (2 / 4 + 4 / 5 + 0) / 3, rtol=1e-6)
    assert macro_f1(predicted, label, jnp.zeros(6, bool), 5) == 0


def test_the_score_is_of_the_task_and_finite():
    def predict(params, stats, batch):
        return params["p"][None] * jnp.ones((len(batch["x"]), 1))

    def metrics(params, stats, batch):
        return {"dice": (params["p"].sum(), jnp.float32(2))}

    task = Task(lambda key: Variables({}, {}), None, metrics, predict, None)
    batch = {"x": jnp.ones(3), "valid": jnp.array([True, True, False])}
    score, p = unit_score(task), jnp.array([0.1, 0.9])
    np.testing.assert_allclose(score({"p": p}, {}, {**batch, "label": jnp.array([1, 1, 0])}), 1)
    assert score({"p": p * jnp.nan}, {}, {**batch, "label": jnp.array([0, 0, 0])}) == 0
    np.testing.assert_allclose(score({"p": p}, {}, {**batch, "segmentation": jnp.ones((3, 2, 2))}), 0.5)
    assert score({"p": p * jnp.nan}, {}, {**batch, "segmentation": jnp.ones((3, 2, 2))}) == 0
    with pytest.raises(ValueError, match=r"^task: expected a segmentation or a classification"):
        score({"p": p}, {}, batch)
