"""Features of other clients in momentum contrast: which are drawn, and the losses with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.alignment import Bank, empty_bank
from fedrecon.federated.methods.momentum_contrast import (
    Given,
    Remote,
    drawn,
    one_positive,
)
from fedrecon.federated.methods.wu_dermatology import others_of, remote_contrast
from fedrecon.federated.methods.wu_volumetric import partition_of, structural_matching
from tests.federated import contrast_problem as problem


def given(bank=(), bank_tags=(), remote=(), remote_tags=(), *, keys, tags=None, rounds=0):
    """What two queries are compared with."""
    features = problem.FEATURES
    bank, remote = (np.asarray(x, np.float32).reshape(-1, features) for x in (bank, remote))
    own = Bank(bank, jnp.asarray(bank_tags, jnp.int32).reshape(-1), jnp.int32(0))
    there = Remote(jnp.asarray(remote), jnp.asarray(remote_tags, jnp.int32).reshape(-1))
    tags = jnp.zeros(len(keys), jnp.int32) if tags is None else jnp.asarray(tags, jnp.int32)
    return Given({}, jnp.asarray(keys), tags, own, there, jnp.int32(rounds), {}, jax.random.key(0))


def units(seed, count):
    return problem.unit(np.random.default_rng(seed).normal(size=(count, problem.FEATURES))).astype(np.float32)


def test_remote_features_are_drawn_once_each_without_those_that_are_absent():
    features = jnp.asarray(units(0, 9))
    tags = jnp.asarray([0, -1, 0, 0, -1, 0, 0, 0, -1])
    seen = set()
    for seed in range(40):
        found = drawn(jax.random.key(seed), Remote(features, tags), 4)
        rows = [int(np.flatnonzero((np.asarray(features) == f).all(1))[0]) for f in found.features]
        assert len(set(rows)) == 4 and (found.tags == 0).all()
        seen |= set(rows)
    assert seen == {0, 2, 3, 5, 6, 7}
    more = drawn(jax.random.key(0), Remote(features, tags), 8)
    assert int((more.tags >= 0).sum()) == 6 and len(more.tags) == 8


def test_of_the_banks_a_client_leaves_out_its_own_and_what_is_not_filled():
    sent = jnp.asarray(units(0, 12).reshape(3, 4, 3)).at[2, 3].set(0)
    found = others_of(sent, jnp.int32(0))
    np.testing.assert_array_equal(found.tags, [-1] * 4 + [0] * 7 + [-1])


def test_remote_positives_wait_for_the_warm_up_and_are_no_negatives():
    keys, queries = units(1, 2), jnp.asarray(units(2, 2))
    remote = units(3, 5)
    valid = jnp.ones(2, bool)
    near = jax.jit(remote_contrast(5, 2, 0.7, 3, 0.1))
    early, late = (
        near(queries, valid, given(units(4, 3), [0] * 3, remote, [0] * 5, keys=keys, rounds=r))
        for r in (2, 3)
    )
    plain = jax.jit(remote_contrast(5, 0, 0.7, 3, 0.1))(
        queries, valid, given(units(4, 3), [0] * 3, remote, [0] * 5, keys=keys)
    )
    np.testing.assert_allclose(early, plain, rtol=1e-6)
    for i in range(2):
        among = np.concatenate([keys[i : i + 1], units(4, 3), remote]).astype(float)
        best = 4 + np.argsort(-(remote @ np.asarray(queries[i])))[:2]
        far = [n for n in range(1, 9) if n not in best]
        query = np.asarray(queries[i], float)
        view, others = (problem.info_nce(query, among, p, far, 0.1)[0] for p in ([0], best))
        np.testing.assert_allclose(late[i], view + 0.7 * others, rtol=1e-5)


def test_slices_have_partitions_of_equal_sizes():
    for count in (1, 5, 6, 8, 13):
        for parts in (1, 2, 4):
            found = partition_of(jnp.arange(count), jnp.full(count, count), parts)
            np.testing.assert_array_equal(found, [parts * z // count for z in range(count)])
            sizes = np.bincount(found, minlength=parts)
            assert sizes.max() - sizes.min() <= 1


def test_of_one_client_the_remote_part_is_contrast_by_partition_with_its_bank():
    keys, queries, bank = units(1, 2), units(2, 2), units(3, 6)
    tags, own = [0, 1, 0, 1, 1, 0], [1, 0]
    value = jax.jit(structural_matching(6, True, 0.1))
    found = value(jnp.asarray(queries), jnp.ones(2, bool), given(bank, tags, keys=keys, tags=own))
    for i in range(2):
        same = [n for n in range(6) if tags[n] == own[i]]
        far = [n for n in range(6) if tags[n] != own[i]]
        remote = problem.info_nce(queries[i].astype(float), bank, same, far, 0.1)[0]
        both = np.concatenate([bank, keys[i : i + 1]])
        local = problem.info_nce(queries[i].astype(float), both, [*same, 6], far, 0.1)[0]
        np.testing.assert_allclose(found[i], local + remote, rtol=1e-5)


def test_without_partitions_the_loss_is_constant_and_the_order_of_banks_does_not_matter():
    keys, queries, bank, remote = units(1, 2), jnp.asarray(units(2, 2)), units(3, 6), units(4, 5)
    valid = jnp.ones(2, bool)
    value = jax.jit(structural_matching(20, True, 0.1))
    alone = given(bank, [0] * 6, remote, [0] * 5, keys=keys)
    losses, gradient = jax.value_and_grad(lambda q: value(q, valid, alone).sum())(queries)
    assert losses == 0 and (gradient == 0).all()
    tags, others = np.array([0, 1, 0, 1, 1, 0]), np.array([0, 1, 2, 1, 0])
    for other in (value, *map(jax.jit, (remote_contrast(20, 2, 1.0, 0, 0.1), one_positive(0.2)))):
        one = other(queries, valid, given(bank, tags, remote, others, keys=keys, tags=[0, 1]))
        turned = other(
            queries, valid, given(bank[::-1], tags[::-1], remote[::-1], others[::-1], keys=keys, tags=[0, 1])
        )
        np.testing.assert_allclose(one, turned, rtol=1e-5)


def test_random_features_at_a_high_temperature_have_the_logarithm_of_their_number():
    keys, queries = units(1, 2), jnp.asarray(units(2, 2))
    found = one_positive(1e4)(queries, jnp.ones(2, bool), given(units(3, 30), [0] * 30, keys=keys))
    np.testing.assert_allclose(found, np.log(31), rtol=1e-3)


@pytest.mark.slow
def test_queries_without_negatives_have_no_loss_and_no_gradient():
    keys, queries = units(1, 2), jnp.asarray(units(2, 2))
    bank = empty_bank(4, 3)
    start = given(keys=keys)._replace(bank=bank)
    value, gradient = jax.value_and_grad(lambda q: one_positive(0.2)(q, jnp.ones(2, bool), start).sum())(
        queries
    )
    assert value == 0 and (gradient == 0).all()
