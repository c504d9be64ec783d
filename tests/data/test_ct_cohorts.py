"""Cohorts of sinograms: few views of the files' own, of all geometries that one network can take."""

import jax
import numpy as np
import pytest

from fedrecon.data import DataError, read_cohort, read_ct_measurement
from fedrecon.data.folders import sinograms
from fedrecon.data.folders.loading import load_volumes
from fedrecon.tasks import measure_of
from tests.data.raw_files import chords, write_fan, write_parallel
from tests.data.test_folders import examples

DISCS = [(3.0, 4.0, 5.0, 0.02), (-4.0, -1.0, 3.0, 0.03)]


def moved(patient):
    return [(x + 0.5 * patient, y, r, a) for x, y, r, a in DISCS]


def write_hospitals(folder):
    """Half turns of two detectors' places of the axis, a whole turn, and a fan."""
    for site in ("half", "whole", "fan"):
        (folder / site).mkdir(parents=True)
        for patient in range(3):
            path, discs = folder / site / f"p{patient}.h5", moved(patient)
            if site == "fan":
                write_fan(path, discs)
            elif site == "half":
                write_parallel(path, [discs, discs[:1]], axis=15.0 + patient)
            else:
                write_parallel(path, [discs], views=80, arc=360.0)
    return folder


def test_rays_of_a_fan_become_those_of_parallel_beams(tmp_path):
    measurement = read_ct_measurement(write_fan(tmp_path / "p.h5", DISCS))
    assert sinograms._widest_gap(measurement.geometry, fan=True) is None
    rays = sinograms._rebinned(measurement)
    assert rays.values.shape == (1, 60, 32)
    # Chords of the discs along parallel rays, by hand.
    t, s = rays.angles[:, None], (np.arange(32) - 15.5) * rays.pixel_size
    points = np.stack([s * np.cos(t), s * np.sin(t)], -1)
    right = chords(points, np.stack([-np.sin(t), np.cos(t)], -1), DISCS)
    assert rays.pixel_size == pytest.approx(1) and np.linalg.norm(right) > 5
    assert np.linalg.norm(rays.values[0] - right) < 0.04 * np.linalg.norm(right)
    half = sinograms._binned(rays._replace(axis_offset=0.5), 3)
    assert half.values.shape == (1, 60, 10) and half.pixel_size == pytest.approx(3)
    # Elements 0 to 29 remain: their middle is 14.5, that of the axis was 15.5 + 0.5.
    assert half.axis_offset == pytest.approx((16.0 - 14.5) / 3)
    np.testing.assert_allclose(half.values[0, :, 0], rays.values[0, :, :3].mean(-1), rtol=1e-5)


@pytest.mark.slow
def test_few_views_and_the_image_of_all_are_one_measurement(tmp_path):
    cohort = read_cohort(write_hospitals(tmp_path), "reconstruction")
    assert cohort.image_shape == (32, 32) and [site.gridded for site in cohort.sites] == [3, 0, 0]
    for site, views, count in (("fan", 15, 1), ("half", 12, 2), ("whole", 20, 1)):
        for patient, found in examples(cohort, site).items():
            assert len(found["target"]) == count and found["sinogram"].shape[1:] == (20, 32)
            assert (found["view_mask"].sum(1) == views).all()
            batch = {**found, "valid": np.ones(count, bool)}
            stacked, measured, _ = measure_of(batch)(batch)
            # The reference, projected, is what was measured, to what such coarse pixels of discs allow.
            projected = np.asarray(jax.vmap(lambda A, x: A(x))(stacked, found["target"]))
            assert np.linalg.norm(projected - measured) < 0.2 * np.linalg.norm(measured), (site, patient)
            # A disc is where it was written, with its attenuation.
            x, y, _, attenuation = moved(int(patient[1:]))[0]
            rows, columns = 15.5 - y, 15.5 + x
            shown = found["target"][0, int(rows) : int(rows) + 2, int(columns) : int(columns) + 2].mean()
            assert shown * found["scale"][0] == pytest.approx(attenuation, rel=0.1), (site, patient)


@pytest.mark.slow
def test_smaller_images_have_elements_of_several(tmp_path):
    cohort = read_cohort(write_hospitals(tmp_path), "reconstruction", matrix=(16, 16))
    found = examples(cohort, "half")["p0"]
    assert found["target"].shape[1:] == (16, 16) and found["sinogram"].shape[-1] == 16
    assert found["pixel_size"][0] == 2.0


@pytest.mark.slow
def test_what_cannot_be_brought_together_is_named(tmp_path):
    write_hospitals(tmp_path)
    path = tmp_path / "half" / "p1.h5"
    write_parallel(path, [DISCS], elements=40)
    with pytest.raises(DataError, match=r"half/p1.h5.* a detector of 32 elements, as .* found 40 elements"):
        read_cohort(tmp_path, "reconstruction")
    write_parallel(path, [DISCS], arc=100.0)
    with pytest.raises(DataError, match=r"half/p1.h5.* views over 180 degrees .* none within 82 degrees"):
        read_cohort(tmp_path, "reconstruction")
    loaded = load_volumes(tmp_path, "reconstruction", skip_bad=True)
    assert len(loaded.skipped) == 1 and "p1.h5" in str(loaded.skipped[0])
