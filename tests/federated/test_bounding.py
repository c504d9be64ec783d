"""Bounded norms, centered clipping, FLTrust and bucketing, against direct computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.federated.messages import Context, Reducer, Reduction
from fedrecon.types import Variables
from tests.federated.test_robust import uploads_of

R = fl.reducers


def context(rows=None):
    return Context(jnp.int32(0), jax.random.key(3), rows=rows)


def flat(upload):
    return np.concatenate([upload.delta.params["a"], upload.delta.params["b"][:, 0]])


@pytest.fixture(scope="module")
def updates():
    return np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32) + 1


def reduced(reducer, updates, included=None, state=None, rows=None):
    uploads = uploads_of(updates)
    state = reducer.init(jax.tree.map(lambda x: x[0], uploads)) if state is None else state
    included = np.ones(len(updates), bool) if included is None else included
    return reducer.reduce(uploads, jnp.asarray(included), state, context(rows))


def test_norms_are_bounded_by_their_running_median(updates):
    updates[3] *= 100
    included = np.array([1, 1, 1, 1, 0, 1], bool)
    norms = np.linalg.norm(updates, axis=1)
    bound = np.sort(norms[included])[2]
    expected = np.mean(
        [u * min(1, bound / n) for u, n in zip(updates[included], norms[included], strict=True)], 0
    )
    found = reduced(R.norm_bound(), updates, included)
    np.testing.assert_allclose(flat(found.upload), expected, rtol=1e-5)
    assert float(found.state) == pytest.approx(bound, rel=1e-6)
    # The next round remembers.
    later = reduced(R.norm_bound(2.0), 10 * updates, included, state=found.state)
    assert float(later.state) == pytest.approx(0.9 * bound + bound, rel=1e-5)
    assert float(later.info["bound"]) == pytest.approx(2 * 1.9 * bound, rel=1e-5)


def test_centered_clipping_moves_from_the_last_aggregate(updates):
    center = np.full(5, 0.5, np.float32)
    state = Variables({"a": jnp.asarray(center[:2]), "b": jnp.asarray(center[2:, None])}, {})
    found = reduced(R.centered_clipping(0.7, iterations=2), updates, state=state)
    for _ in range(2):
        apart = updates - center
        sizes = np.linalg.norm(apart, axis=1)
        bound = 0.7 * np.sort(sizes)[2]
        center = center + np.mean(apart * np.minimum(1, bound / sizes)[:, None], 0)
    np.testing.assert_allclose(flat(found.upload), center, rtol=1e-5)
    np.testing.assert_allclose(found.state.params["a"], center[:2], rtol=1e-5)


def test_the_radius_must_be_below_the_ratio_of_honest_to_malicious():
    """Where honest and false pulls balance: s a / sqrt(1 - a^2), a = max(r, 1) d / (1 - d); else the mean."""
    rng = np.random.default_rng(0)
    size, part = 500, 0.2
    mean = np.full(size, 0.5)
    sent = (mean + rng.normal(size=(10, size))).astype(np.float32)
    sent[:2] = -50 * mean
    honest, spread = sent[2:].mean(0), np.sqrt(size)

    def away(radius):
        center = flat(reduced(R.centered_clipping(radius, iterations=100), sent).upload)
        return np.linalg.norm(center - honest) / spread

    for radius in (1.0, 3.0):
        a = radius * part / (1 - part)
        # The eight honest updates are no whole sphere.
        assert away(radius) == pytest.approx(a / np.sqrt(1 - a**2), rel=0.1)
    assert away(5.0) == pytest.approx(np.linalg.norm(sent.mean(0) - honest) / spread, rel=1e-3)


def test_fltrust_scales_to_the_root_and_weighs_by_cosine(updates):
    updates[2] *= -30
    rows = jnp.array([4, 0, 7, 9, 3, 5])
    found = reduced(R.fltrust(9), updates, rows=rows)
    root = updates[3]
    norms = np.linalg.norm(updates, axis=1)
    cosines = updates @ root / norms / np.linalg.norm(root)
    trust = np.maximum(np.delete(cosines, 3), 0)
    others = np.delete(updates / norms[:, None] * np.linalg.norm(root), 3, 0)
    np.testing.assert_allclose(flat(found.upload), trust @ others / trust.sum(), rtol=1e-4)
    assert found.info["trust"][3] == 0 and found.info["trust"][2] == 0
    # Without the root nothing is applied.
    assert reduced(R.fltrust(8), updates, rows=rows).upload.weight == 0


def test_buckets_hold_everybody_once(updates):
    seen = {}

    def keep(uploads, included, state, context):
        seen.update(x=np.hstack([uploads.delta.params["a"], uploads.delta.params["b"][..., 0]]), n=included)
        return R.median().reduce(uploads, included, state, context)

    included = np.array([1, 1, 0, 1, 1, 1], bool)
    found = reduced(R.bucketing(Reducer(lambda upload: (), keep), 2), updates, included)
    assert seen["n"].tolist() == [True, True, True]
    # Buckets of 2, 2 and 1 of the five.
    np.testing.assert_allclose(
        2 * seen["x"][0] + 2 * seen["x"][1] + seen["x"][2], updates[included].sum(0), rtol=1e-5
    )
    np.testing.assert_allclose(flat(found.upload), np.median(seen["x"], 0), rtol=1e-5)
    assert isinstance(found, Reduction) and found.flagged is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: R.norm_bound(0),
        lambda: R.centered_clipping(-1),
        lambda: R.centered_clipping(1, 0),
        lambda: R.fltrust(-1),
        lambda: R.bucketing(R.median(), 0),
    ],
)
def test_wrong_arguments_are_named(make):
    with pytest.raises(ArgumentError, match=r"expected .*, found"):
        make()
