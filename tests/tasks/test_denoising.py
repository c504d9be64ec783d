"""The task of denoisers, and reconstruction with what it trains."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.models import PlugAndPlay
from fedrecon.models.plug_and_play import NoiseUNet
from fedrecon.priors import noise_levels, plug_and_play
from fedrecon.tasks import denoising_task, mri_measure
from fedrecon.tasks.denoising import with_phases
from fedrecon.training import named_task

once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
MODEL = PlugAndPlay(2, 1, 0.5, steps=3, cg_iterations=8)


@pytest.fixture(scope="module")
def batch():
    """Images whose parts have the root mean square that the denoiser is told, and a padded one."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(3, 2, 16, 16)) + 1j * rng.normal(size=(3, 2, 16, 16))
    maps /= np.linalg.norm(maps, axis=1, keepdims=True)
    mask = (rng.random((3, 16, 16)) < 0.6).astype(np.float32)
    kspace = mask[:, None] * (rng.normal(size=maps.shape) + 1j * rng.normal(size=maps.shape))
    return {
        "mask": mask,
        "coil_maps": maps.astype(np.complex64),
        "kspace": kspace.astype(np.complex64),
        "target": np.full((3, 16, 16), 0.5 * 2**0.5, np.float32),
        "data_range": np.ones(3, np.float32),
        "volume": np.arange(3, dtype=np.int32),
        "valid": np.array([True, True, False]),
    }


def test_the_loss_is_one_at_all_levels_where_nothing_is_learned(batch):
    """Measurements and padding change nothing; neither is there a level that counts for more."""
    task = denoising_task(MODEL, mri_measure, batch)
    params = once(task.init)(jax.random.key(0)).params

    @once
    def losses(batch):
        return jax.vmap(lambda key: task.loss(params, {}, batch, key)[0])(
            jax.random.split(jax.random.key(1), 16)
        )

    found = losses(batch)
    assert (abs(found - 1) < 0.25).all() and abs(found.mean() - 1) < 0.03
    other = {
        **batch,
        "kspace": 2 * batch["kspace"],
        "target": batch["target"] * np.float32([[[1]], [[1]], [[9]]]),
    }
    np.testing.assert_allclose(losses(other), found, rtol=1e-5)


def test_reconstruction_is_plug_and_play_with_the_denoiser(batch):
    """With parameters that are those of the denoiser."""
    A, y, _ = mri_measure(batch)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), A, y)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), s.dtype), shapes)
    network = NoiseUNet(2, 1, 0.5)

    @once
    def both():
        def D(v, s):
            return network.apply(variables, v[None], s[None])[0]

        one, data = jax.tree.map(lambda leaf: leaf[1], (A, jnp.asarray(y)))
        levels = noise_levels(MODEL.largest, MODEL.smallest, 3)
        options = {"noise": MODEL.noise, "cg_iterations": 8}
        return MODEL.apply(variables, A, y)[1], plug_and_play(one, data, D, levels, **options)

    got, want = both()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_untrained_denoisers_are_the_best_linear_ones():
    """d^2 / (s^2 + d^2) v, each example at its own level."""
    v = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6)), jnp.float32) * (1 + 1j)
    levels, network = jnp.array([0.1, 2.0]), NoiseUNet(1, 0, 0.5)
    got = once(lambda: network.init_with_output(jax.random.key(0), v, levels)[0])()
    np.testing.assert_allclose(got, v * (0.25 / (levels**2 + 0.25))[:, None, None], rtol=1e-5)


def test_phases_are_random_and_smooth():
    images = jnp.ones((2, 9, 8))

    @once
    def drawn():
        key, turned = jax.random.key(0), images * 1j
        pairs = (images, jnp.complex64), (turned, jnp.float32), (turned, jnp.complex64)
        return [with_phases(key, x, dtype) for x, dtype in pairs]

    found, real, constant = map(np.asarray, drawn())
    np.testing.assert_allclose(abs(found), 1, rtol=1e-6)
    steps = np.angle(found[:, 1:] / found[:, :-1])
    # Second differences of a quadratic polynomial are constant.
    np.testing.assert_allclose(np.ptp(np.diff(steps, axis=1), axis=1), 0, atol=1e-5)
    assert abs(found[0] - found[1]).max() > 0.1 and abs(steps).max() > 0.01
    assert real.dtype == np.float32 and (real == 1).all()
    assert (np.ptp(np.angle(constant), axis=(1, 2)) < 1e-5).all()


def test_plug_and_play_has_a_loss_of_its_own(batch):
    example = {name: x for name, x in batch.items() if name != "valid"}
    with pytest.raises(ValueError, match=r"loss: expected the default with plug-and-play"):
        named_task("reconstruction", example, network="plug-and-play", loss="ssim")
