"""The rotation center: known ones of exact line integrals, measured ones, and arguments that do not fit."""

import h5py
import numpy as np
import pytest

from operators.algebra import ArgumentError
from operators.ct import find_rotation_center

# x, y, radius and attenuation of discs.
DISCS = [(0, 0, 30, 1.0), (8, -10, 6, 0.5), (-12, 5, 4, 1.0), (3, 14, 2, -0.6)]
HALF = np.pi * np.arange(60) / 60


def integrals(angles, center, discs=DISCS, columns=96):
    positions = np.arange(columns) - center
    result = 0
    for x, y, radius, value in discs:
        distance = positions - (x * np.cos(angles) + y * np.sin(angles))[:, None]
        result = result + value * 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0))
    return result


@pytest.mark.parametrize("center", [47.5, 40.8, 55.05])
def test_known_centers(center):
    clean = integrals(HALF, center)
    noise = np.random.default_rng(0).normal(0, 2, clean.shape)
    assert find_rotation_center(clean, HALF) == pytest.approx(center, abs=0.05)
    assert find_rotation_center(clean + noise, HALF) == pytest.approx(center, abs=0.2)
    # An offset of the detector moves the centers of mass.
    assert find_rotation_center(clean + 3, HALF) == pytest.approx(center, abs=0.05)


def test_turns_rows_and_directions():
    full = np.pi * np.arange(120) / 60 + 0.3
    clean = integrals(full, 44.4)
    assert find_rotation_center(clean, full) == pytest.approx(44.4, abs=0.05)
    assert find_rotation_center(clean[:, ::-1], -full) == pytest.approx(95 - 44.4, abs=0.05)
    rows = np.stack([clean, 0.2 * integrals(full, 44.4, DISCS[1:])])
    assert find_rotation_center(rows, full) == pytest.approx(44.4, abs=0.05)


def test_an_object_larger_than_the_detector():
    wide = integrals(HALF, 44.4, [(0, 0, 80, 1.0), *DISCS])
    assert find_rotation_center(wide, HALF, start=47) == pytest.approx(44.4, abs=0.1)


def test_measured_centers(measured_data):
    """A tooth, whose center was published from views half a turn less one degree apart; a symmetric box."""
    with h5py.File(measured_data("ct/tooth_parallel.h5")) as file:
        rows, angles = file["sinogram"][()], np.deg2rad(file["angles_deg"][()])
        published = file.attrs["rotation_centre_pixel"]
    found = [find_rotation_center(row, angles, reach=4) for row in rows]
    assert found[0] == pytest.approx(found[1], abs=0.02) and found[0] == pytest.approx(published, abs=0.5)
    with h5py.File(measured_data("reference/tomopy_recon.h5")) as file:
        box = file["proj"][()].swapaxes(0, 1)
        assert find_rotation_center(box, file["angles_rad"][()]) == pytest.approx(23.5, abs=1e-3)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"angles": HALF[:-1]}, r"sinogram: expected \(..., views, detectors\)"),
        ({"sinogram": np.full((60, 96), np.nan)}, "sinogram: expected finite values"),
        ({"angles": HALF / 2}, "angles: expected half a turn, found 1.57"),
        ({"angles": HALF**2}, "angles: expected eight or more angles in even steps"),
        ({"start": 3.0}, "start: expected four elements on either side"),
        ({"reach": -1.0}, "start: expected four elements"),
    ],
)
def test_arguments_that_do_not_fit(change, words):
    arguments = {"sinogram": integrals(HALF, 47), "angles": HALF} | change
    with pytest.raises(ArgumentError, match=f"find_rotation_center: {words}"):
        find_rotation_center(**arguments)
