"""Sampling masks are what their names say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import equispaced_mask, poisson_disc_mask, random_mask
from operators.mri import acceleration_of, equispaced_fraction_mask, magic_fraction_mask, magic_mask

ACCELERATIONS = [(4, 0.08), (8, 0.04)]


def fastmri_center(columns, fraction):
    """The center columns as fastMRI places them."""
    count = round(columns * fraction)
    start = (columns - count + 1) // 2
    return np.arange(start, start + count)


@settings(max_examples=15)
@given(columns=st.integers(40, 400), choice=st.sampled_from(ACCELERATIONS), offset=st.integers(0, 9))
def test_equispaced_is_equispaced(columns, choice, offset):
    acceleration, fraction = choice
    mask = np.asarray(equispaced_mask(columns, acceleration, fraction, offset))
    center = fastmri_center(columns, fraction)
    lines = np.arange(offset % acceleration, columns, acceleration)
    assert set(np.flatnonzero(mask)) == set(center) | set(lines)
    assert mask.dtype == np.float32 and set(mask) <= {0, 1}
    named = acceleration / (1 + fraction * (acceleration - 1))
    assert abs(acceleration_of(mask) / named - 1) < 0.2


def fastmri_lines(kind, columns, acceleration, count, offset):
    """The columns off the center of fastMRI's mask functions, in their own words; ``count`` central ones."""
    mask = np.zeros(columns)
    if kind == "fraction":
        spacing = (acceleration * (count - columns)) / (count * acceleration - columns)
        mask[np.around(np.arange(offset, columns - 1, spacing)).astype(np.uint)] = 1
        return mask
    ahead, behind = (offset + 1, offset + 2) if offset % 2 == 0 else (offset - 1 + 3, offset - 1 + 0)
    positive, negative = np.zeros((columns + 1) // 2), np.zeros(columns - (columns + 1) // 2)
    positive[ahead::acceleration] = 1
    negative[behind::acceleration] = 1
    return np.fft.fftshift(np.concatenate((positive, np.flip(negative))))


@settings(max_examples=40)
@given(columns=st.integers(40, 400), choice=st.sampled_from(ACCELERATIONS), offset=st.integers(0, 3))
def test_the_other_equispaced_masks_are_those_of_fastmri(columns, choice, offset):
    acceleration, fraction = choice
    center = np.isin(np.arange(columns), fastmri_center(columns, fraction))
    lines = fastmri_lines("fraction", columns, acceleration, center.sum(), offset)
    found = np.asarray(equispaced_fraction_mask(columns, acceleration, fraction, offset))
    np.testing.assert_array_equal(found, np.maximum(center, lines))
    assert found.dtype == np.float32 and abs(acceleration_of(found) / acceleration - 1) < 0.2
    lines = fastmri_lines("magic", columns, acceleration, 0, offset)
    found = np.asarray(magic_mask(columns, acceleration, fraction, offset))
    np.testing.assert_array_equal(found, np.maximum(center, lines))
    # The fraction variant: the center is bounded by the target, the spacing adjusted to it and rounded.
    target = round(columns / acceleration)
    count = max(min(round(columns * fraction), target), 1)
    start = (columns - count + 1) // 2
    expected = fastmri_lines("magic", columns, round(columns / (target - count)), 0, offset)
    expected[start : start + count] = 1
    np.testing.assert_array_equal(magic_fraction_mask(columns, acceleration, fraction, offset), expected)


def test_no_magic_column_mirrors_another():
    for columns in (64, 65):
        for offset in range(4):
            steps = np.flatnonzero(magic_mask(columns, 4, 0.0, offset)) - columns // 2
            assert len(steps) > columns / 4 - 3 and not set(steps) & set(-steps)


@settings(max_examples=10)
@given(columns=st.integers(8, 100), acceleration=st.floats(1, 8), seed=st.integers(0, 99))
def test_an_exact_random_mask_has_the_number_of_columns_asked_for(columns, acceleration, seed):
    fraction = 0.5 / acceleration
    mask = np.asarray(random_mask(jax.random.key(seed), columns, acceleration, fraction, exact=True))
    center = fastmri_center(columns, fraction)
    assert mask[center].all() and mask.sum() == max(round(columns / acceleration), len(center))


@settings(max_examples=5)
@given(columns=st.sampled_from([100, 368]), choice=st.sampled_from(ACCELERATIONS))
def test_random_mask_meets_the_acceleration_on_average(columns, choice):
    acceleration, fraction = choice
    keys = jax.random.split(jax.random.key(columns), 400)
    masks = np.asarray(jax.vmap(lambda k: random_mask(k, columns, acceleration, fraction))(keys))
    center = fastmri_center(columns, fraction)
    assert masks[:, center].all()
    # Lines off the center are independent, of equal probability: a binomial count.
    free = np.delete(masks, center, axis=1)
    probability = (columns / acceleration - len(center)) / (columns - len(center))
    spread = np.sqrt(probability * (1 - probability))
    assert abs(free.mean() - probability) < 5 * spread / np.sqrt(free.size)
    assert np.abs(free.mean(0) - probability).max() < 5 * spread / np.sqrt(len(keys))
    assert 0.8 < free.sum(1).var() / (free.shape[1] * spread**2) < 1.25


@settings(max_examples=6)
@given(
    shape=st.sampled_from([(64, 64), (96, 50), (31, 80)]),
    acceleration=st.sampled_from([2, 3.5, 6, 12]),
    block=st.sampled_from([(0, 0), (8, 9)]),
    seed=st.integers(0, 999),
)
def test_poisson_disc(shape, acceleration, block, seed):
    mask = np.asarray(poisson_disc_mask(seed, shape, acceleration, block))
    assert abs(acceleration_of(mask) / acceleration - 1) < 0.01
    center = tuple(fastmri_center(n, c / n) for n, c in zip(shape, block, strict=True))
    assert mask[np.ix_(*center)].all()
    outside = mask.copy()
    outside[np.ix_(*center)] = 0
    points = np.argwhere(outside)
    squared = ((points[:, None] - points[None]) ** 2).sum(-1) + 10**6 * np.eye(len(points), dtype=int)
    # Random points of this density would have neighbors at distance one; the density is uniform.
    free = mask.size - len(center[0]) * len(center[1])
    # Saturated random discs cover 0.547 of the plane; the last ones that fit may stay unused.
    assert squared.min() >= 0.4 * free / len(points)
    halves = outside[: shape[0] // 2].sum() / outside.sum()
    assert abs(halves - 0.5) < 0.12


def test_poisson_disc_is_deterministic_in_the_seed():
    a, b, c = (np.asarray(poisson_disc_mask(s, (40, 40), 4)) for s in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    np.testing.assert_array_equal(*(poisson_disc_mask(jax.random.key(5), (40, 40), 4) for _ in range(2)))


def test_masks_without_undersampling():
    assert acceleration_of(poisson_disc_mask(0, (6, 5), 1)) == 1
    assert acceleration_of(equispaced_mask(11, 1, 0.0)) == 1
    assert acceleration_of(random_mask(jax.random.key(0), 11, 1, 0.0)) == 1


def test_equispaced_offset_may_be_traced():
    offsets = jnp.arange(4)
    masks = jax.jit(jax.vmap(lambda o: equispaced_mask(20, 4, 0.0, o)))(offsets)
    np.testing.assert_array_equal(masks.sum(0), 1)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: random_mask(jax.random.key(0), 0, 4, 0.08), ["columns", "0"]),
        (lambda: random_mask(jax.random.key(0), 100, 0.5, 0.08), ["acceleration", "0.5"]),
        (lambda: random_mask(jax.random.key(0), 100, 4, 1.5), ["center_fraction", "1.5"]),
        (
            lambda: random_mask(jax.random.key(0), 100, 8, 0.2),
            ["center_fraction", "0.2", "20", "8"],
        ),
        (lambda: equispaced_mask(100, 2.5, 0.08), ["integer", "2.5"]),
        (lambda: equispaced_mask(100, 0, 0.08), ["acceleration", "0"]),
        (lambda: equispaced_fraction_mask(100, 8, 0.5), ["center_fraction", "50 columns"]),
        (lambda: equispaced_fraction_mask(100, 4, 0.08, -1), ["offset", "-1"]),
        (lambda: magic_mask(100, 2.5, 0.08), ["magic_mask", "integer", "2.5"]),
        (lambda: magic_mask(100, 4, 0.08, -1), ["offset", "-1"]),
        (lambda: poisson_disc_mask(0, (10,), 2), ["shape", "(10,)"]),
        (lambda: poisson_disc_mask(0, (10, 10), 2, (11, 1)), ["calibration_shape", "(11, 1)"]),
        (lambda: poisson_disc_mask(0, (10, 10), 4, (8, 8)), ["calibration_shape", "(8, 8)", "64", "25"]),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
