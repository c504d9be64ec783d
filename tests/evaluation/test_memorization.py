"""Memorization: distances by hand, generators that copy, and ones that do not."""

import numpy as np
import pytest

from fedrecon.evaluation import memorization

RNG = np.random.default_rng(4)
TRAINING, HELD_OUT = RNG.normal(size=(2, 30, 4, 5))


def test_distances_are_those_to_the_nearest():
    samples = RNG.normal(size=(7, 4, 5))
    found = memorization(samples, TRAINING, HELD_OUT, permutations=19)
    for name, references in (("training", TRAINING), ("held_out", HELD_OUT)):
        expected = [min(np.linalg.norm(s - r) for r in references) for s in samples]
        np.testing.assert_allclose(getattr(found, name), expected)
    assert found.nearer == (found.training < found.held_out).mean()


def test_copies_are_found_and_chance_is_not():
    copies = TRAINING[:20] + 0.3 * RNG.normal(size=(20, 4, 5))
    found = memorization(copies, TRAINING, HELD_OUT)
    assert found.nearer == 1 and found.p_value == pytest.approx(0.001, abs=0.003)
    assert memorization(copies, HELD_OUT, TRAINING).p_value > 0.99


def test_a_generator_that_repeats_nothing_is_significant_no_more_often_than_stated():
    values = []
    for seed in range(60):
        rng = np.random.default_rng(100 + seed)
        drawn = rng.normal(size=(3, 12, 6))
        values.append(memorization(*drawn, permutations=99, seed=seed).p_value)
    assert np.mean(np.array(values) <= 0.1) <= 0.1 + 2.5 * np.sqrt(0.09 / 60)
    assert 0.35 < np.mean(values) < 0.75


def test_of_the_larger_kind_as_many_are_drawn():
    """Otherwise the nearest of more images would be of the training without a copy."""
    rng = np.random.default_rng(0)
    samples, training, held_out = (
        rng.normal(size=(200, 2)),
        rng.normal(size=(400, 2)),
        rng.normal(size=(40, 2)),
    )
    assert abs(memorization(samples, training, held_out).nearer - 0.5) < 0.2
    # Ties count half.
    both = np.zeros((3, 2))
    assert memorization(samples, both, both).nearer == 0.5
    assert memorization(samples, both, both).p_value == 1


@pytest.mark.parametrize("name", ["samples", "training", "held_out"])
def test_shapes_that_differ_are_named(name):
    arrays = {"samples": TRAINING, "training": TRAINING, "held_out": HELD_OUT}
    if name != "samples":
        with pytest.raises(ValueError, match=f"{name}: expected"):
            memorization(**{**arrays, name: np.zeros((3, 2))})
    with pytest.raises(ValueError, match=f"{name}: expected"):
        memorization(**{**arrays, name: arrays[name][:0]})


def test_patients_are_drawn_and_change_places_with_all_of_their_images():
    """Slices of a patient are alike: a generator that knows no patient is not blamed for them."""
    values = []
    for seed in range(60):
        rng = np.random.default_rng(300 + seed)
        samples, *centers = (rng.normal(size=(n, 4)) for n in (40, 6, 6))
        kinds = [np.repeat(x, 8, 0) + 0.01 * rng.normal(size=(48, 4)) for x in centers]
        groups = np.repeat(np.arange(6), 8), np.repeat(np.arange(6), 8)
        values.append([memorization(samples, *kinds, groups=g, permutations=99, seed=seed).p_value
                       for g in (groups, None)])  # fmt: skip
    grouped, single = (np.array(values) <= 0.1).mean(0)
    assert grouped <= 0.1 + 2.5 * np.sqrt(0.09 / 60) < single


def test_of_the_kind_with_more_patients_as_many_are_drawn():
    samples, groups = TRAINING[:8], (np.arange(30) % 15, np.arange(30) % 3 + 40)
    found = memorization(samples, TRAINING, HELD_OUT, groups=groups, permutations=19)
    drawn = [np.linalg.norm(samples[i] - TRAINING[i]) < 1 for i in range(8)]
    assert all(drawn) and 0 < (found.training == 0).sum() < 8
    again = memorization(samples, TRAINING, HELD_OUT, groups=(groups[1], groups[0]), permutations=19)
    assert (again.training == 0).all()
    with pytest.raises(ValueError, match=r"^groups: expected \[30, 30\] integers, found"):
        memorization(samples, TRAINING, HELD_OUT, groups=(groups[0][1:], groups[1]))
