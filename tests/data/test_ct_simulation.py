"""The simulated CT cohort: shapes, padding, counts, and that the measurement commits no inverse crime."""

import dataclasses

import numpy as np
import pytest

from fedrecon.data import CTSite, ct_detector_count, simulate_ct_cohort, simulate_ct_patient
from fedrecon.data.clients.cohort import PARTS
from operators import ParallelBeam, Radon, fbp

SHAPE = (48, 48)
ABDOMEN = CTSite("abdomen", "abdomen", 380, views=90)


def patient(site=ABDOMEN, lesions=False, index=0, slices=1, **changes):
    return simulate_ct_patient(dataclasses.replace(site, **changes), index, lesions, SHAPE, slices, 0)


def geometry(example):
    return ParallelBeam(example["angles"][0], ct_detector_count(SHAPE))


@pytest.fixture(scope="module")
def cohort():
    return simulate_ct_cohort(3, 3, 2, SHAPE, views=40, size_skew=0.0)


def test_examples_have_the_shapes_and_types_that_networks_expect(cohort):
    views, detectors = max(site.views for site in cohort.sites), ct_detector_count(SHAPE)
    expected = {
        "sinogram": ((views, detectors), np.float32),
        "angles": ((views,), np.float32),
        "view_mask": ((views,), np.float32),
        "target": (SHAPE, np.float32),
        "segmentation": (SHAPE, np.float32),
        "scale": ((), np.float32),
        "pixel_size": ((), np.float32),
        "data_range": ((), np.float32),
        "volume": ((), np.int32),
        "label": ((), np.int32),
    }
    for part in PARTS:
        examples = getattr(cohort, part).examples
        assert {k: (v.shape[2:], v.dtype.type) for k, v in examples.items()} == expected
        assert all(np.isfinite(v).all() for v in examples.values())


def test_padded_views_are_zero_and_the_others_span_half_a_turn(cohort):
    assert len({site.views for site in cohort.sites}) > 1
    data = cohort.train
    for index, site in enumerate(cohort.sites):
        sinogram, angles, mask = (data.examples[k][index][0] for k in ("sinogram", "angles", "view_mask"))
        np.testing.assert_array_equal(mask, np.arange(len(mask)) < site.views)
        np.testing.assert_allclose(
            angles[: site.views], np.pi * np.arange(site.views) / site.views, rtol=1e-6
        )
        assert not sinogram[site.views :].any() and not angles[site.views :].any()
        assert np.abs(sinogram[: site.views]).max(axis=1).all()


def test_padding_does_not_change_the_measurement():
    alone = patient()
    padded = simulate_ct_patient(ABDOMEN, 0, False, SHAPE, 1, 0, padded_views=97)
    np.testing.assert_allclose(padded["target"], alone["target"])
    bright = patient(photons=1e12)["sinogram"]
    padded = simulate_ct_patient(dataclasses.replace(ABDOMEN, photons=1e12), 0, False, SHAPE, 1, 0, 97)
    np.testing.assert_allclose(padded["sinogram"][:, :90], bright, atol=1e-2)
    with pytest.raises(ValueError, match="padded_views"):
        simulate_ct_patient(ABDOMEN, 0, False, SHAPE, 1, 0, padded_views=80)


@pytest.mark.slow
def test_the_measurement_is_of_the_target_but_not_by_the_reconstructions_model():
    bright = patient(photons=1e12, electronic_noise=0.0)
    brighter = patient(photons=4e12, electronic_noise=0.0)
    model = np.asarray(Radon(geometry(bright), SHAPE)(bright["target"]))
    size = np.linalg.norm(model)
    mismatch = np.linalg.norm(bright["sinogram"] - model) / size
    noise = np.linalg.norm(bright["sinogram"] - brighter["sinogram"]) / size
    assert 0.002 < mismatch < 0.05
    assert mismatch > 10 * noise


def test_filtered_back_projection_finds_the_attenuation_of_the_target():
    e = patient(photons=1e9, electronic_noise=0.0, views=180)
    image = np.asarray(fbp(e["sinogram"][0], geometry(e), SHAPE))
    assert np.corrcoef(image.ravel(), e["target"][0].ravel())[0, 1] > 0.97
    body = e["target"][0] > 0.8
    np.testing.assert_allclose(image[body].mean(), e["target"][0][body].mean(), rtol=0.03)
    # Attenuation in units of water: soft tissue near 1.
    np.testing.assert_allclose(np.median(e["target"][0][body]), 1.0, atol=0.12)
    np.testing.assert_allclose(e["pixel_size"], 380 / 48, rtol=1e-6)


def test_noise_is_that_of_the_photon_counts():
    """Variance of -log(counts / photons) is 1 / counts for many counts, plus that of the electronics."""
    truth = patient(photons=1e12, electronic_noise=0.0, slices=3)
    unit = ABDOMEN.water_attenuation * 380 / 48
    for photons, electronic in ((1e6, 0.0), (1e6, 100.0)):
        e = patient(photons=photons, electronic_noise=electronic, slices=3)
        counts = photons * np.exp(-truth["sinogram"] * unit)
        expected = np.sqrt(1 / counts + (electronic / counts) ** 2)
        many = counts > 1000
        ratio = ((e["sinogram"] - truth["sinogram"]) * unit / expected)[many]
        np.testing.assert_allclose(ratio.std(), 1, rtol=0.05)


def test_starved_rays_stay_finite():
    e = patient(photons=20.0, electronic_noise=10.0)
    assert np.isfinite(e["sinogram"]).all()
    unit = ABDOMEN.water_attenuation * 380 / 48
    assert e["sinogram"].max() * unit <= np.log(20.0) + 1e-4


def test_the_same_seed_gives_the_same_arrays_and_labels_have_both_classes(cohort):
    again = simulate_ct_cohort(3, 3, 2, SHAPE, views=40, size_skew=0.0)
    for part in PARTS:
        for key, value in getattr(cohort, part).examples.items():
            np.testing.assert_array_equal(value, getattr(again, part).examples[key])
    for part in ("train", "test"):
        data = getattr(cohort, part)
        for index, valid in enumerate(data.valid):
            label = data.examples["label"][index][valid]
            marked = data.examples["segmentation"][index][valid].any(axis=(1, 2))
            np.testing.assert_array_equal(label, marked)
            assert set(label.tolist()) == {0, 1}


@pytest.mark.parametrize("arguments", [{"views": 1}, {"dose": 0.0}, {"dose": float("nan")}])
def test_impossible_cohorts_are_refused(arguments):
    with pytest.raises(ValueError, match="views and dose"):
        simulate_ct_cohort(**arguments)
