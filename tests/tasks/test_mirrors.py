"""Random mirroring of MRI examples: the measurement stays that of the image."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.tasks import random_mirrors, reconstruction_task

CENTERED = {"axes": (-2, -1), "norm": "ortho"}


def centered_fft(x):
    axes = CENTERED["axes"]
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(x, axes), **CENTERED), axes)


def complex_normal(rng, *shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.mark.parametrize("shape", [(6, 8), (5, 6), (7, 5)])
def test_mirrored_kspace_is_that_of_mirrored_images(shape):
    rng = np.random.default_rng(0)
    maps, image = complex_normal(rng, 12, 3, *shape), complex_normal(rng, 12, *shape)
    mask = (rng.random((12, *shape)) < 0.5).astype(np.float32)
    batch = {"kspace": mask[:, None] * centered_fft(maps * image[:, None]), "mask": mask, "coil_maps": maps}
    # The target is complex here, to be the image itself.
    found = random_mirrors(jax.random.key(0), {**batch, "target": image, "data_range": np.arange(12.0)})
    expected = np.asarray(found["mask"])[:, None] * centered_fft(
        found["coil_maps"] * found["target"][:, None]
    )
    np.testing.assert_allclose(found["kspace"], expected, atol=1e-5)
    np.testing.assert_array_equal(found["data_range"], np.arange(12.0))

    def mirror(x, axis):
        """Position n of the center goes to -n."""
        size = x.shape[axis]
        return np.take(x, [(2 * (size // 2) - i) % size for i in range(size)], axis)

    variants = [image, mirror(image, -1), mirror(image, -2), mirror(mirror(image, -1), -2)]
    drawn = [[np.array_equal(v[i], found["target"][i]) for v in variants].index(True) for i in range(12)]
    assert set(drawn) == {0, 1, 2, 3}


def test_examples_are_changed_in_training_alone():
    seen = []

    def measure(batch):
        return None, batch["kspace"], None

    class Scale(nn.Module):
        @nn.compact
        def __call__(self, operators, measurements, initial):
            return self.param("scale", nn.initializers.ones, ()) * measurements[:, 0]

    def augment(key, batch):
        seen.append(key)
        return {**batch, "kspace": 3 * batch["kspace"]}

    batch = {
        "kspace": jnp.ones((1, 1, 16, 16)),
        "target": jnp.ones((1, 16, 16)),
        "data_range": jnp.ones(1),
        "volume": jnp.zeros(1, jnp.int32),
        "valid": jnp.ones(1, bool),
    }
    task = reconstruction_task(Scale(), measure, batch, augment=augment, ssim_weight=0.0)
    variables = task.init(jax.random.key(0))
    value, _ = task.loss(variables.params, variables.stats, batch, jax.random.key(1))
    assert value == pytest.approx(2.0) and len(seen) == 1
    total, count = task.metrics(variables.params, variables.stats, batch)["loss"]
    assert total / count == pytest.approx(0.0) and len(seen) == 1
