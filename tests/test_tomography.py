"""Measured CT files reconstructed by the name of a method: known objects at known places."""

import dataclasses
import math

import h5py
import numpy as np
import pytest

from fedrecon.data import DataError, read_ct_measurement
from fedrecon.errors import ArgumentError
from fedrecon.tomography import CT_METHODS, reconstruct_ct

# Radius, x, y (upwards) and attenuation of a disc, in elements of the detector or mm.
RADIUS, X, Y, VALUE = 6.0, 7.0, -4.0, 0.05


def chords(distance):
    return 2 * VALUE * np.sqrt(np.maximum(RADIUS**2 - distance**2, 0))


def write_parallel(path, rows=2, columns=64, views=60, axis=29.25):
    """Rays of direction (-sin, cos) at positions along (cos, sin), the axis at an element of its own."""
    angles = np.pi * np.arange(views) / views
    positions = np.arange(columns) - axis
    shadow = X * np.cos(angles) + Y * np.sin(angles)
    with h5py.File(path, "w") as file:
        scale = np.arange(1.0, rows + 1)[:, None, None]
        file["sinogram"] = scale * chords(positions - shadow[:, None])
        file["angles_deg"] = np.rad2deg(angles)
        file.attrs["detector_pixel"], file.attrs["rotation_centre_pixel"] = 1.0, axis
    return path


def middle(image, pixel):
    """Center of mass (x, y) and the mean value in the middle of the disc."""
    ny, nx = image.shape
    y, x = (ny - 1) / 2 - np.arange(ny)[:, None], np.arange(nx) - (nx - 1) / 2
    y, x = y * pixel, x * pixel
    weights = np.where(image > VALUE / 2, image, 0)
    core = image[(x - X) ** 2 + (y - Y) ** 2 < (RADIUS / 2) ** 2].mean()
    return (weights * x).sum() / weights.sum(), (weights * y).sum() / weights.sum(), core


@pytest.mark.parametrize("method", CT_METHODS)
def test_every_method_finds_the_disc(method, tmp_path):
    measurement = read_ct_measurement(write_parallel(tmp_path / "a.h5"))
    assert measurement.format == "tomography" and measurement.unit == "pixel"
    # The circle that all views see ends at the nearer edge of the detector.
    assert measurement.image_shape == (59, 59) and measurement.pixel_size == 1
    images = reconstruct_ct(measurement, method)
    assert images.shape == (2, 59, 59) and images.dtype == np.float32
    for slice_, image in enumerate(images / np.array([1, 2])[:, None, None]):
        x, y, core = middle(image, 1)
        assert x == pytest.approx(X, abs=0.1) and y == pytest.approx(Y, abs=0.1), slice_
        assert core == pytest.approx(VALUE, rel=0.05)


def test_the_grid_is_the_callers_where_he_says_so(tmp_path):
    path = write_parallel(tmp_path / "a.h5")
    measurement = read_ct_measurement(path, image_shape=(48, 40))
    assert measurement.image_shape == (48, 40)
    assert measurement.pixel_size == pytest.approx(2 * 29.75 / 48)
    image = reconstruct_ct(dataclasses.replace(measurement, values=measurement.values[:1]))[0]
    x, y, _ = middle(image, measurement.pixel_size)
    assert (x, y) == (pytest.approx(X, abs=0.15), pytest.approx(Y, abs=0.15))
    assert read_ct_measurement(path, pixel_size=2.0).image_shape == (29, 29)


def test_arcs_are_chosen_by_their_names(tmp_path):
    """Fans of a source at (sin, -cos): the stored angle is that of the view."""
    source, detector, views, columns = 60.0, 40.0, 90, 80
    angles = 2 * np.pi * np.arange(views) / views
    normal = np.stack([-np.sin(angles), np.cos(angles)], 1)
    along = np.stack([np.cos(angles), np.sin(angles)], 1)
    elements = np.arange(columns) - (columns - 1) / 2
    origin = -source * normal
    ray = (source + detector) * normal[:, None] + elements[:, None] * along[:, None]
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    to_disc = np.array([X, Y]) - origin[:, None]
    distance = to_disc[..., 0] * ray[..., 1] - to_disc[..., 1] * ray[..., 0]
    with h5py.File(tmp_path / "h.h5", "w") as file:
        for name in ("arc_a", "arc_b"):
            file[f"{name}/sinogram"] = chords(distance) * (1 if name == "arc_a" else 3)
            file[f"{name}/angles_deg"] = np.rad2deg(angles)
        file.attrs["source_to_origin_mm"], file.attrs["source_to_detector_mm"] = source, source + detector
        file.attrs["detector_pixel_mm"], file.attrs["recon_pixel_mm"] = 1.0, 0.5
    with pytest.raises(ArgumentError, match="group: expected one of arc_a, arc_b, found None"):
        read_ct_measurement(tmp_path / "h.h5")
    measurement = read_ct_measurement(tmp_path / "h.h5", group="arc_b")
    # The pixel size of the file; the circle in the fan has the radius source * sin(fan).
    fan = math.atan(40 / 100)
    assert measurement.pixel_size == 0.5 and measurement.image_shape == (int(4 * source * math.sin(fan)),) * 2
    x, y, core = middle(reconstruct_ct(measurement)[0] / 3, 0.5)
    assert (x, y) == (pytest.approx(X, abs=0.1), pytest.approx(Y, abs=0.1))
    assert core == pytest.approx(VALUE, rel=0.03)


def test_cones_of_dicom_projections(tmp_path):
    """Rays written down in the coordinates of the format, whose x is the negative of that of `operators`.

    Elements are less high than wide, and so are voxels.
    """
    pydicom = pytest.importorskip("pydicom")
    from tests.data.dicom_files import header, save

    near, far, views, rows, columns, step = 60.0, 100.0, 48, 18, 48, 1.0
    ball, height = np.array([5.0, -3.0, 42.0]), 40.0
    for view in range(views):
        angle = 2 * np.pi * view / views
        inward, along = (
            np.array([np.sin(angle), -np.cos(angle), 0]),
            np.array([np.cos(angle), np.sin(angle), 0]),
        )
        origin = -near * inward + [0, 0, height]
        alpha = (np.arange(columns) - 23.5) * 1.5 / far
        # Rows descend in z.
        up = -(np.arange(rows) - 8.5) * step
        ray = far * (np.cos(alpha)[:, None] * inward + np.sin(alpha)[:, None] * along)
        ray = ray + up[:, None, None] * np.array([0, 0, 1])
        ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        offset = ball - origin
        distance = np.linalg.norm(offset - (ray @ offset)[..., None] * ray, axis=-1)
        path = np.sqrt(np.maximum(3**2 - distance**2, 0)) * 2 * VALUE
        data = header(
            np.rint(path.T * 1e5).astype(np.uint16), index=view, RescaleSlope=1e-5, RescaleIntercept=0
        )
        for tag, value in {
            0x70291002: 1.5,
            0x70291006: step,
            0x70311001: angle,
            0x70311002: height,
            0x70311003: near,
            0x70311031: far,
            0x70311033: [24.5, 9.5],
        }.items():
            data.add_new(tag, "FL", value)
        data.add_new(0x7029100B, "CS", "CYLINDRICAL")
        data.add_new(0x70291010, "US", rows)
        data.add_new(0x70291011, "US", columns)
        save(data, tmp_path / f"{view}.dcm")
    measurement = read_ct_measurement(tmp_path, image_shape=(32, 32))
    assert measurement.format == "DICOM-CT-PD" and measurement.height == height and measurement.unit == "mm"
    images = reconstruct_ct(measurement)
    assert images.shape == measurement.image_shape and measurement.slices == len(images)
    pixel, distance = measurement.pixel_size, measurement.slice_distance
    assert measurement.slices == rows and distance == pytest.approx(step * near / far)
    weights = np.where(images > VALUE / 3, images, 0)
    z, y, x = (np.arange(n) - (n - 1) / 2 for n in images.shape)
    total = weights.sum()
    found = [
        (weights.sum((0, 1)) * x).sum() / total * pixel,
        (weights.sum((0, 2)) * -y).sum() / total * pixel,
        (weights.sum((1, 2)) * z).sum() / total * distance + height,
    ]
    np.testing.assert_allclose(found, ball * [-1, 1, 1], atol=0.4)
    assert pydicom


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"method": "tgv"}, "method: expected one of fbp, sirt, cgls, total-variation for CT, found 'tgv'"),
        ({"method": "fbp", "weight": 1.0}, "weight: expected none with method fbp, found 1.0"),
        ({"method": "sirt", "iterations": 0}, "iterations: expected a positive number, found 0"),
        ({"method": "total-variation", "weight": float("nan")}, "weight: expected a non-negative number"),
    ],
)
def test_settings_that_do_not_fit(arguments, words, tmp_path):
    with pytest.raises(ArgumentError, match=words):
        reconstruct_ct(read_ct_measurement(write_parallel(tmp_path / "a.h5")), **arguments)


def test_other_files_and_arguments(tmp_path):
    path = write_parallel(tmp_path / "a.h5")
    for arguments in ({"group": "a"}, {"image_shape": (0, 4)}, {"pixel_size": -1.0}):
        with pytest.raises(ArgumentError, match=next(iter(arguments))):
            read_ct_measurement(path, **arguments)
    (tmp_path / "b.h5").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"b\.h5.*expected 'sinogram'"):
        read_ct_measurement(tmp_path / "b.h5")
