"""Filtered back-projection of few views beside scikit-image, from exact line integrals of discs and ellipses.

scikit-image blanks what lies outside of the circle that all views see. Streaks there count against those who
show them, so both are compared within it.
"""

import numpy as np
import pytest

import operators

SIZE = 65
DISCS = operators.phantoms.Ellipses(
    np.array([[0.0, 0], [7, 5], [-10, 4], [3, -12]]),
    np.array([[25.0, 25], [4, 7], [3, 3], [10, 3]]),
    np.array([0.0, 0.4, 0, 1]),
    np.array([1.0, 0.5, -0.6, 0.8]),
)


@pytest.mark.parametrize("views", [24, 60])
def test_few_views_are_as_near_as_those_of_scikit_image(views):
    transform = pytest.importorskip("skimage.transform")
    angles = np.pi * np.arange(views) / views
    geometry = operators.ParallelBeam(angles, SIZE, 1.0)
    truth, sinogram = np.asarray(DISCS.rasterize((SIZE, SIZE), 1.0)), np.asarray(DISCS.project(geometry))
    other = transform.iradon(sinogram.T.astype(float), np.rad2deg(angles), circle=True)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    inside = x**2 + y**2 < (SIZE / 2 - 1) ** 2
    ours, same = (
        np.asarray(operators.fbp(sinogram, geometry, (SIZE, SIZE), method=method))
        for method in ("fourier", "interpolation")
    )
    errors = [np.linalg.norm((image - truth)[inside]) for image in (ours, same, other)]
    assert errors[0] < 1.02 * errors[2] and errors[1] == pytest.approx(errors[2], rel=1e-3)
    # Ours ends at the edge of the image, not at the circle.
    assert np.abs(ours[~inside]).max() > 0 and not other[~inside & (x**2 + y**2 > (SIZE / 2) ** 2)].any()
