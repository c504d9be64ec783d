"""Where ASTRA, ODL and TIGRE have the pixels of images, against the formulas of their documentation."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from operators import ConeBeam, ParallelBeam, Radon, fdk
from operators.ct import from_tigre, image_from_astra, image_from_odl, image_from_tigre, to_tigre

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
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
