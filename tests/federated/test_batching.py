"""Which examples a client's steps visit, for any pattern of padding."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon import federated as fl

SIZE = 9
MASKS = st.lists(st.booleans(), min_size=SIZE, max_size=SIZE).map(np.array)
SEEDS = st.integers(0, 2**31 - 1)
EPOCHS = {b: jax.jit(fl.batching.shuffled_epochs(b, 2)) for b in (1, 4, 20)}
STEPS = jax.jit(fl.batching.shuffled_steps(4, 7))


@pytest.mark.parametrize("batch_size", EPOCHS)
@given(valid=MASKS, seed=SEEDS)
def test_an_epoch_visits_every_valid_example_once(batch_size, valid, seed):
    index, mask = map(np.asarray, EPOCHS[batch_size](valid, jax.random.key(seed)))
    per_epoch = -(-SIZE // batch_size)
    assert index.shape == mask.shape == (2 * per_epoch, batch_size)
    for epoch in range(2):
        rows = slice(epoch * per_epoch, (epoch + 1) * per_epoch)
        assert sorted(index[rows][mask[rows]]) == np.flatnonzero(valid).tolist()
        real = -(-valid.sum() // batch_size)
        filled = mask[rows].sum(1)
        assert (filled[: max(real - 1, 0)] == batch_size).all() and (filled[real:] == 0).all()


@given(valid=MASKS, seed=SEEDS)
def test_fixed_steps_run_through_whole_passes(valid, seed):
    index, mask = map(np.asarray, STEPS(valid, jax.random.key(seed)))
    n = valid.sum()
    per_epoch = max(-(-n // 4), 1)
    assert mask.any(1).sum() == (7 if n else 0)
    for start in range(0, 7 - per_epoch + 1, per_epoch):
        rows = slice(start, start + per_epoch)
        assert sorted(index[rows][mask[rows]]) == np.flatnonzero(valid).tolist()


def test_passes_of_fixed_steps_are_reshuffled():
    index, _ = STEPS(np.ones(SIZE, bool), jax.random.key(0))
    # Three steps are a pass.
    assert (index[:3] != index[3:6]).any()


def test_passes_are_reshuffled_and_every_order_is_as_likely():
    valid = np.array([True, False, True, True])
    batching = fl.batching.shuffled_epochs(4, 2)
    index, _ = jax.jit(jax.vmap(batching, in_axes=(None, 0)))(
        valid, jax.random.split(jax.random.key(0), 6000)
    )
    orders, counts = np.unique(np.asarray(index)[:, 0, :3], axis=0, return_counts=True)
    assert len(orders) == 6
    # Six equally likely orders: five degrees of freedom, p = 1e-5.
    assert ((counts - 1000) ** 2 / 1000).sum() < 30.9
    same = (np.asarray(index)[:, 0, :3] == np.asarray(index)[:, 1, :3]).all(1).mean()
    np.testing.assert_allclose(same, 1 / 6, atol=0.025)
