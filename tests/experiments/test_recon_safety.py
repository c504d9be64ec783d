"""Lesions that are added to scans, and what data did not determine of a network's images."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.pipeline.recon_safety import contrast_of_lesions, undetermined
from fedrecon.data import ClientData
from fedrecon.tasks import ct_measure, mri_measure
from operators import fft2c, ifft2c

SIZE = 24


def references():
    """Disks in images of two sites, the second example of the second site being padding."""
    y, x = np.meshgrid(np.arange(SIZE) - 12, np.arange(SIZE) - 12, indexing="ij")
    body = (1 + 0.02 * x + 0.01 * y) * (np.hypot(y, x) < 10)
    return np.tile(body.astype(np.float32), (2, 2, 1, 1)), np.array([[True, True], [True, False]])


def scans(mask):
    target, valid = references()
    phase = np.exp(0.3j + 0.02j * np.arange(SIZE))
    image = jnp.asarray(target * phase, jnp.complex64)
    examples = {
        "target": target,
        "volume": np.array([[0, 1], [0, 0]], np.int32),
        "mask": np.broadcast_to(mask, target.shape).astype(np.float32),
        "coil_maps": np.ones((2, 2, 1, SIZE, SIZE), np.complex64),
        "kspace": np.asarray(fft2c(image) * mask)[:, :, None],
        "image": np.asarray(image),
    }
    return ClientData(examples, valid, ("a", "b"))


def test_contrast_is_that_of_the_lesions_that_are_measured():
    """Fully sampled, the inverse recovers all of it, half of the inverse the half, and nothing none."""
    part = scans(np.ones((SIZE, SIZE)))

    def inverse(data):
        return np.abs(np.asarray(ifft2c(jnp.asarray(data.examples["kspace"][:, :, 0]))))

    methods = {
        "inverse": inverse,
        "half": lambda data: 0.5 * inverse(data),
        "reference": lambda data: data.examples["target"],
    }
    found = contrast_of_lesions(methods, mri_measure, (part,), 1.5, 0.3, 0)
    for method, want in (("inverse", 1), ("half", 0.5), ("reference", 0)):
        assert [found[method][site]["patients"] for site in "ab"] == [2, 1]
        for site in "ab":
            assert found[method][site]["mean"] == pytest.approx(want, abs=1e-3)


def test_sinograms_get_the_integrals_of_lesions():
    """Each view sees the same sum of the lesion; padded views and examples stay what they are."""
    target, valid = references()
    views, elements = 5, 36
    examples = {
        "target": target,
        "volume": np.zeros((2, 2), np.int32),
        "angles": np.tile(np.pi * np.arange(views) / views, (2, 2, 1)).astype(np.float32),
        "view_mask": np.tile(np.arange(views) < 4, (2, 2, 1)).astype(np.float32),
        "sinogram": np.zeros((2, 2, views, elements), np.float32),
    }
    seen = []

    def recording(data):
        seen.append(np.asarray(data.examples["sinogram"]))
        return target

    part = ClientData(examples, valid, ("a", "b"))
    contrast_of_lesions({"any": recording}, ct_measure((SIZE, SIZE), elements), (part,), 1.5, 0.3, 0)
    with_lesions, without = seen
    sums = with_lesions[0, 0, :4].sum(1)
    assert not without.any() and not with_lesions[:, :, 4].any() and not with_lesions[1, 1].any()
    # 9 pixels of 0.3 of about 1.
    np.testing.assert_allclose(sums, sums[0], rtol=0.02)
    assert sums[0] == pytest.approx(9 * 0.3, rel=0.3)


def test_what_is_not_measured_is_not_determined():
    mask = (np.arange(SIZE) % 3 != 0) | (np.abs(np.arange(SIZE) - 12) < 3)
    part = scans(mask[None])
    found = undetermined(lambda model, batch: batch["image"], mri_measure, {}, 0.5, part)
    kspace = np.asarray(fft2c(jnp.asarray(part.examples["image"])))
    energy = np.square(np.abs(kspace)).sum((2, 3))
    missed = np.square(np.abs(kspace * ~mask)).sum((2, 3))
    np.testing.assert_allclose(found.null["a"], (missed / energy)[0], rtol=1e-3)
    # A third of what is measured is below the cutoff, in amplitude.
    weak = (missed + (energy - missed) / 9) / energy
    np.testing.assert_allclose(found.weak["a"], weak[0], rtol=1e-3)
    assert np.isnan(found.null["b"][1]) and not found.shares["b"][1].any()
    magnitudes = np.square(found.magnitudes["a"]).sum((1, 2))
    np.testing.assert_allclose(magnitudes, (weak * energy)[0], rtol=1e-3)
    # Magnitudes get the phases of the start, which are nearly those of the image.
    other = undetermined(lambda model, batch: jnp.abs(batch["image"]), mri_measure, {}, 0.5, part)
    assert other.null["a"][0] == pytest.approx(found.null["a"][0], abs=0.02)
