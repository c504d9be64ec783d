"""Distances of images to those of a training, against closed forms and SciPy."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from fedrecon import ood
from fedrecon.data import ClientData, load_measured_chest_xray, load_measured_retina


@pytest.fixture(scope="module")
def statistics():
    return np.random.default_rng(0).normal(size=(40, 5)) @ np.diag([1.0, 2, 0.5, 3, 1])


def test_distances_are_those_of_mahalanobis_with_a_shrunk_covariance(statistics):
    train, new = statistics[:30], statistics[30:]
    reference = ood.reference_of(train, new)
    covariance = np.cov(train.T, bias=True)
    covariance = (1 - 5 / 30) * covariance + 5 / 30 * np.diag(np.diag(covariance))
    expected = [mahalanobis(x, train.mean(0), np.linalg.inv(covariance)) for x in new]
    assert ood.distances(new, reference) == pytest.approx(expected)
    assert reference.bound == pytest.approx(1.5 * max(expected))


def test_what_is_constant_in_training_has_a_floor_and_few_images_do(statistics):
    train = np.column_stack([statistics[:3], np.ones(3)])
    reference = ood.reference_of(train, train)
    changed = train[:1].copy()
    changed[0, -1] += 0.01
    # 0.01 / 1e-3, next to a distance from the others of a few.
    assert ood.distances(changed, reference)[0] == pytest.approx(10, rel=0.1)
    assert np.isnan(ood.reference_of(train, train[:0]).bound)


def test_a_sinusoid_has_its_energy_in_one_band_and_direction():
    y, x = np.mgrid[:32, :40]
    along_x = 2 + np.sin(2 * np.pi * x * 10 / 40)
    along_y = 2 + np.sin(2 * np.pi * y * 8 / 32)
    found = ood.image_statistics(np.stack([along_x, along_y])[..., None])
    bands = np.exp(found[:, 7:13])
    assert bands.argmax(1).tolist() == [4, 4] and bands.max(1) == pytest.approx(1, abs=1e-3)
    assert found[0, 13] > 10 and found[1, 13] < -10
    assert found[:, 0] == pytest.approx(2) and found[:, 1] == pytest.approx(np.sqrt(0.5))


def test_mass_has_its_center_and_spread_in_parts_of_the_image():
    image = np.zeros((1, 20, 40, 1))
    image[0, 5:15, 30:40] = 3
    (found,) = ood.image_statistics(image)
    assert found[14:16] == pytest.approx([0, 0.375])
    # Of a block of 10 pixels the deviation is sqrt((10^2 - 1) / 12).
    assert found[16:18] == pytest.approx(np.sqrt(99 / 12) / np.array([20, 40]))
    assert ood.image_statistics(np.zeros((2, 8, 8, 3))).shape == (2, 21)
    assert np.isfinite(ood.image_statistics(np.zeros((2, 8, 8, 3)))).all()


def test_statistics_hardly_depend_on_the_matrix():
    rng = np.random.default_rng(1)
    spectrum = np.zeros((64, 64), complex)
    spectrum[:5, :5] = rng.normal(size=(5, 5)) + 1j * rng.normal(size=(5, 5))
    image = np.fft.ifft2(spectrum).real * 64
    small, large = (ood.image_statistics(image[None, ::s, ::s, None])[0] for s in (2, 1))
    same = [*range(7), *range(13, 18)]
    assert small[same] == pytest.approx(large[same], abs=0.05)


def test_padding_is_not_looked_at_and_all_clients_are():
    rng = np.random.default_rng(2)
    image = rng.uniform(size=(2, 3, 8, 8, 1)).astype(np.float32)
    data = ClientData({"image": image}, np.array([[True, False, True], [True, True, False]]), ("A", "B"))
    expected = ood.image_statistics(image[[0, 0, 1, 1], [0, 2, 0, 1]])
    assert np.array_equal(ood.client_statistics(data), expected)


def test_images_that_are_not_finite_and_clients_without_any_are_left_out():
    image = np.random.default_rng(3).uniform(size=(2, 2, 8, 8, 1))
    image[0, 1, 0, 0] = np.nan
    data = ClientData({"image": image}, np.array([[True, True], [False, False]]), ("A", "B"))
    found = ood.client_statistics(data)
    assert found.shape == (1, 18) and found == pytest.approx(ood.image_statistics(image[0, :1]), rel=1e-9)
    nobody = ClientData({"image": image}, np.zeros((2, 2), bool), ("A", "B"))
    assert len(ood.client_statistics(nobody)) == 0
    assert np.isnan(ood.reference_of(np.ones((2, 3)), ood.client_statistics(nobody)).bound)


def test_verdicts_name_what_is_above_the_bound_and_survive_json(statistics):
    reference = ood.reference_of(statistics, statistics)
    again = ood.from_document(json.loads(json.dumps(ood.as_document(reference))))
    assert np.array_equal(again.whitening, reference.whitening) and again.bound == reference.bound
    assert ood.verdict([0.2, 1.0]) == [] and ood.verdict([np.nan]) == []
    assert ood.verdict([0.2, 2.0, np.inf])[0].startswith("2 of 3 images are unlike those of the training")
    with pytest.raises(ValueError, match="shapes"):
        ood.from_document({"mean": [0.0], "whitening": [[1.0, 2.0]], "bound": 1.0})


@pytest.mark.slow
def test_radiographs_and_photographs_are_strangers_to_each_other(measured_data):
    folder = measured_data("multisite/retina_vessels.h5").parents[1]
    cohorts = [load_measured_retina(folder, size=64), load_measured_chest_xray(folder, size=56)]
    parts = [[_gray(getattr(c, part)) for part in ("train", "validation", "test")] for c in cohorts]
    for (train, validation, test), (_, _, foreign) in zip(parts, parts[::-1], strict=True):
        reference = ood.reference_of(ood.image_statistics(train), ood.image_statistics(validation))
        known, strange = (ood.strangeness(images, reference) for images in (test, foreign))
        assert known.max() < min(1, strange.min()) and np.median(strange) > 1


def _gray(data):
    return np.asarray(data.examples["image"])[np.asarray(data.valid)].mean(-1, keepdims=True)
