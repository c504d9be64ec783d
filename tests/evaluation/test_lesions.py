"""Lesions one by one, of shapes with known answers."""

import math

import numpy as np
import pytest

from fedrecon.evaluation import Lesions, match_lesions


def volume(*cubes):
    mask = np.zeros((8, 12, 12), bool)
    for z, y, x in cubes:
        mask[z : z + 2, y : y + 2, x : x + 2] = True
    return mask


def test_lesions_are_matched_by_their_overlap():
    reference = volume((0, 0, 0), (0, 6, 6), (4, 0, 6), (4, 8, 0))
    # The first is hit by one pixel, the second by half, the third exactly; one lesion is nowhere.
    prediction = volume((1, 1, 1), (0, 6, 7), (4, 0, 6), (5, 9, 9))
    found = match_lesions(prediction, reference)
    assert found == (3, 4, 3, 4) and found.f1 == 0.75
    assert match_lesions(prediction, reference, overlap=0.4) == (2, 4, 2, 4)
    assert match_lesions(prediction, reference, overlap=0.5) == (1, 4, 1, 4)


def test_corners_join_lesions_and_one_prediction_may_find_two():
    reference = volume((0, 0, 0), (2, 2, 2), (0, 6, 0))
    assert match_lesions(reference, reference) == (2, 2, 2, 2)
    both = volume((0, 0, 0), (2, 2, 2), (0, 6, 0))
    both[0, :8, 0] = True
    found = match_lesions(both, reference)
    assert found == (2, 2, 1, 1) and found.f1 == 1
    wide = match_lesions(volume((0, 0, 0)), reference)
    assert wide.sensitivity == 0.5 and wide.precision == 1 and wide.f1 == pytest.approx(2 / 3)


def test_patients_without_lesions():
    nothing, some = volume(), volume((0, 0, 0))
    assert math.isnan(match_lesions(nothing, nothing).f1)
    assert match_lesions(some, nothing).f1 == match_lesions(nothing, some).f1 == 0
    total = Lesions(*np.sum([match_lesions(some, some), match_lesions(some, nothing)], 0))
    assert total.f1 == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="prediction: expected the shape of the reference"):
        match_lesions(nothing, nothing[0])
