"""Where ASTRA, ODL and TIGRE have the pixels of images, against the formulas of their documentation."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from operators import ConeBeam, ParallelBeam, Radon, fdk
from operators.ct import (
    from_tigre,
    image_from_astra,
    image_from_odl,
    image_from_tigre,
    image_to_astra,
    image_to_odl,
    image_to_tigre,
    to_tigre,
)

project = jax.jit(lambda A, x: A(x))
WINDOW = {"WindowMinX": -3.0, "WindowMaxX": 9.0, "WindowMinY": 2.0, "WindowMaxY": 5.0}
HEIGHTS = {"WindowMinZ": -1.0, "WindowMaxZ": 5.0}


def test_a_pixel_of_a_window_of_astra_casts_its_shadow_there():
    """Column c is between ``WindowMinX + c dx`` and a dx more, row r as far below ``WindowMaxY``."""
    place = image_from_astra({"GridRowCount": 6, "GridColCount": 8, "option": WINDOW})
    scan = ParallelBeam(np.array([0.0, np.pi / 2]), 200, 0.1)
    image = np.zeros(place["image_shape"], np.float32)
    image[1, 5] = 1
    for view, center in zip(
        project(Radon(scan, **place), image), (-3 + 5.5 * 1.5, 5 - 1.5 * 0.5), strict=True
    ):
        view = np.asarray(view, np.float64)
        assert np.sum(scan.ray_positions() * view) / view.sum() == pytest.approx(center, abs=1e-4)
        assert view.sum() * 0.1 == pytest.approx(1.5 * 0.5, rel=1e-3)


def test_volumes_of_astra_and_odl_have_the_same_bounds():
    counts = {"GridRowCount": 6, "GridColCount": 8, "GridSliceCount": 4}
    expected = {"image_shape": (4, 6, 8), "pixel_size": (1.5, 0.5, 1.5), "image_center": (3.0, 3.5, 2.0)}
    assert image_from_astra({**counts, "option": WINDOW | HEIGHTS}) == expected
    bounds = {"min_pt": np.array([-3.0, 2.0, -1.0]), "max_pt": np.array([9.0, 5.0, 5.0])}
    assert image_from_odl(SimpleNamespace(shape=(8, 6, 4), **bounds)) == expected
    plain = {"image_shape": (4, 6, 8), "pixel_size": 1.0, "image_center": (0.0, 0.0, 0.0)}
    assert image_from_astra({**counts, "option": {}}) == plain


@pytest.mark.slow
def test_an_image_of_tigre_off_the_origin_is_reconstructed(normal):
    """The scan moves around the image there; around the origin, the image is moved."""
    geometry = ConeBeam(np.arange(60) * (2 * np.pi / 60), (6, 30), (1.6, 1.2), 40.0, 20.0)
    fields = to_tigre(geometry)
    geo = {
        **fields,
        "offOrigin": np.array([0.5, -2.0, 3.0]),
        "nVoxel": np.array([3, 8, 10]),
        "dVoxel": [1.2, 0.7, 0.9],
    }
    place = image_from_tigre(geo)
    assert place == {
        "image_shape": (3, 8, 10),
        "pixel_size": (1.2, 0.7, 0.9),
        "image_center": (0.0, 0.0, 0.0),
    }
    there, y = from_tigre(geo, geo["angles"]), normal(geometry.shape)
    here = {**place, "image_center": (3.0, -2.0, 0.5)}
    expected = np.asarray(fdk(y, geometry, **here))
    np.testing.assert_allclose(fdk(y, there, **place), expected, atol=2e-3 * np.abs(expected).max())


GRID = {"image_shape": (4, 6, 8), "pixel_size": (1.5, 0.5, 1.25), "image_center": (3.0, -3.5, 2.0)}


def test_windows_are_half_a_voxel_around_the_outermost_ones():
    """Voxel (k, i, c) is at x = X + (c - 3.5) 1.25, y = Y - (i - 2.5) 0.5, z = Z + (k - 1.5) 1.5."""
    low = [3 - 3.5 * 1.25 - 0.625, -3.5 - 2.5 * 0.5 - 0.25, 2 - 1.5 * 1.5 - 0.75]
    high = [3 + 3.5 * 1.25 + 0.625, -3.5 + 2.5 * 0.5 + 0.25, 2 + 1.5 * 1.5 + 0.75]
    volume = image_to_astra(**GRID)
    assert [volume[f"Grid{name}Count"] for name in ("Col", "Row", "Slice")] == [8, 6, 4]
    for end, bounds in (("Min", low), ("Max", high)):
        assert [volume["option"][f"Window{end}{axis}"] for axis in "XYZ"] == bounds
    assert image_to_odl(**GRID) == {"min_pt": low, "max_pt": high, "shape": [8, 6, 4]}
    flat = image_to_astra((6, 8), 0.5, (2.0, -1.0))
    window = {"WindowMinX": 0.0, "WindowMaxX": 4.0, "WindowMinY": -2.5, "WindowMaxY": 0.5}
    assert flat == {"GridColCount": 8, "GridRowCount": 6, "option": window}


def test_grids_come_back_from_every_package():
    assert image_from_astra(image_to_astra(**GRID)) == GRID
    assert image_from_odl(SimpleNamespace(**image_to_odl(**GRID))) == GRID
    fan = to_tigre(ConeBeam(np.arange(4.0), (6, 30), (1.6, 1.2), 40.0, 20.0))
    fields = image_to_tigre(fan, **GRID)
    np.testing.assert_array_equal(fields["offOrigin"], [2.0, -3.5, 3.0])
    np.testing.assert_array_equal(fields["sVoxel"], [6.0, 3.0, 10.0])
    assert image_from_tigre(fields) == {**GRID, "image_center": (0.0, 0.0, 0.0)}


def test_a_helix_of_tigre_moves_the_image_by_both(normal):
    turns = np.arange(60) * (4 * np.pi / 60)
    geometry = ConeBeam(turns, (6, 30), (1.6, 1.2), 40.0, 20.0, pitch=3.0, axial_offset=-2.0)
    here = {"image_shape": (3, 8, 10), "pixel_size": (1.2, 0.7, 0.9), "image_center": (3.0, -2.0, 0.5)}
    fields = image_to_tigre(to_tigre(geometry), **here)
    there, y = from_tigre(fields, fields["angles"]), normal(geometry.shape)
    expected = np.asarray(fdk(y, geometry, **here))
    found = fdk(y, there, **image_from_tigre(fields))
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: image_from_astra({"GridRowCount": 6}),
            "image_from_astra: volume_geometry: expected the keys",
        ),
        (
            lambda: image_from_astra(
                {"GridRowCount": 6, "GridColCount": 8, "option": {"WindowMinX": 2.0, "WindowMaxX": 1.0}}
            ),
            "image_from_astra: option: expected upper bounds above",
        ),
        (lambda: image_from_tigre({"nVoxel": (3, 4, 5)}), "image_from_tigre: dVoxel: expected \\(z, y, x\\)"),
        (
            lambda: image_from_odl(SimpleNamespace(shape=(8,), min_pt=[0.0], max_pt=[1.0])),
            "image_from_odl: space: image_shape",
        ),
        (lambda: image_to_astra((4, 5), (1.0, 2.0)), "image_to_astra: pixel_size: expected square pixels"),
        (lambda: image_to_odl((4, 5), -1.0), "image_to_odl: pixel_size"),
        (lambda: image_to_tigre({}, (4, 5)), "image_to_tigre: image_shape: expected \\(nz, ny, nx\\)"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
