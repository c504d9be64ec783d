"""Losses of held-out samples: weighted and robust SSDU of k-space, Noise2Inverse of sinograms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.tasks import ct_measure, mri_measure
from fedrecon.tasks.held_out_losses import divided, noise2inverse, sampling_probability, weighted_ssdu
from operators import fft2c, ifft2c

once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(5)
SHAPE = (6, 8)
MANY = 6000


def drawn(image, probability, seed, deviation=0.0):
    """Many draws of mask and noise of single-coil measurements of images (MANY, ny, nx)."""
    rng = np.random.default_rng(seed)
    mask = rng.random(image.shape) < probability
    noise = deviation * (rng.normal(size=image.shape) + 1j * rng.normal(size=image.shape)) / 2**0.5
    kspace = mask * (np.asarray(fft2c(jnp.asarray(image))) + noise)
    arrays = {
        "mask": mask.astype(np.float32),
        "kspace": kspace[:, None].astype(np.complex64),
        "coil_maps": np.ones((MANY, 1, *SHAPE), np.complex64),
        "valid": np.ones(MANY, bool),
        "sampling_probability": np.broadcast_to(probability, image.shape).astype(np.float32),
        "noise_level": np.full(MANY, deviation, np.float32),
        "target": np.full(image.shape, np.nan, np.float32),
    }
    return {name: jnp.asarray(x) for name, x in arrays.items()}


def centers_and_others():
    probability = np.linspace(0.25, 0.9, SHAPE[0] * SHAPE[1]).reshape(SHAPE)
    probability[1:5, 2:6] = 1
    return probability


def smoothed(seen, theta):
    """k-space that is not given is ``theta`` times the mean of its neighbors that are; an image of it."""
    given, y = seen["mask"], seen["kspace"][:, 0]
    shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    near, count = (sum(jnp.roll(x, s, (1, 2)) for s in shifts) for x in (y, given))
    return ifft2c(jnp.where(given != 0, y, theta * near / jnp.maximum(count, 1)))


def energy(batch):
    return jnp.square(jnp.abs(batch["kspace"])).sum((1, 2, 3))


def test_weights_make_the_gradient_that_of_supervision():
    """Over masks and divisions, of a network with one number, within five standard errors."""
    rng = np.random.default_rng(0)
    image = np.broadcast_to(rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE), (MANY, *SHAPE))
    batch = drawn(image.astype(np.complex64), centers_and_others(), 1)
    full = fft2c(jnp.asarray(image[0]))

    @once
    def gradients(batch, part):
        kept = []

        def losses(theta):
            def reconstruct(seen):
                kept.append(seen)
                return smoothed(seen, theta)

            return weighted_ssdu(0.4)(reconstruct, mri_measure, batch, KEY)[0] * energy(batch)

        def supervised(theta, seen):
            missed = fft2c(smoothed(seen, theta)) - full
            return jnp.square(jnp.abs(missed * (seen["mask"] == 0))).sum((1, 2))

        found = jax.jvp(losses, (part,), (jnp.ones(()),))[1]
        return found, jax.jvp(lambda t: supervised(t, kept[0]), (part,), (jnp.ones(()),))[1]

    found, want = (np.asarray(x, np.float64) for x in gradients(batch, jnp.float32(0.3)))
    error = (found - want).std() / MANY**0.5
    assert abs(found.mean() - want.mean()) < 5 * error < 0.2 * abs(want.mean())


def test_noise_is_left_out_of_what_robust_networks_learn():
    """Samples are scaled by one number: the best is that for samples without noise, not for noisy ones."""
    rng = np.random.default_rng(2)
    image = 2 * (rng.normal(size=(MANY, *SHAPE)) + 1j * rng.normal(size=(MANY, *SHAPE))) / 2**0.5
    batch = drawn(image.astype(np.complex64), 1.0, 3, deviation=1.5)

    @partial(once, static_argnums=1)
    def best(batch, noise):
        def total(theta):
            def reconstruct(seen):
                return theta * ifft2c(seen["kspace"][:, 0])

            losses, _ = weighted_ssdu(0.2, noise)(reconstruct, mri_measure, batch, KEY)
            # Of samples that are given alone: others of this model are zero, whatever the number.
            return (losses * energy(batch)).mean()

        slope = jax.grad(total)
        return slope(0.0) / (slope(0.0) - slope(1.0))

    signal, noise = 4.0, 1.5**2
    for alpha in (0.5, 1.0):
        wiener = signal / (signal + (1 + alpha**2) * noise)
        learned_from_noise = (signal + noise) / (signal + (1 + alpha**2) * noise)
        found = float(best(batch, alpha))
        assert abs(found - wiener) < 0.01
        assert abs(found - learned_from_noise) > 0.1


def test_nothing_held_out_is_seen_and_given_samples_are_noisier():
    rng = np.random.default_rng(4)
    image = (rng.normal(size=(MANY, *SHAPE)) + 0j).astype(np.complex64)
    batch = {k: x[:4] for k, x in drawn(image, centers_and_others(), 5, deviation=0.3).items()}

    @partial(once, static_argnums=1)
    def shown(batch, noise):
        seen = []

        def recording(given):
            seen.append(given)
            return ifft2c(batch["kspace"][:, 0])

        loss, _ = weighted_ssdu(0.4, noise)(recording, mri_measure, batch, KEY)
        return loss, seen[0]["mask"], seen[0]["kspace"]

    _, mask, kspace = shown(batch, 0.0)
    assert (kspace[:, 0][mask == 0] == 0).all() and 0 < mask.sum() < batch["mask"].sum()
    np.testing.assert_array_equal(kspace[:, 0], batch["kspace"][:, 0] * mask)
    loss, same, noisier = shown(batch, 2.0)
    np.testing.assert_array_equal(same, mask)
    added = np.asarray(noisier - kspace)
    size = np.square(np.abs(added)).sum((1, 2, 3))
    assert (np.abs(added[:, 0])[mask == 0] == 0).all()
    assert np.sqrt(size.sum() / mask.sum()) == pytest.approx(0.6, rel=0.2)
    # An image of what was measured misses the targets by the noise, divided by alpha^2.
    np.testing.assert_allclose(loss, size / 16 / energy(batch), rtol=1e-3)


def test_lines_are_held_out_as_a_whole():
    """Columns of columns, rows of rows, samples of samples; the chance is as said, and none in the center."""
    rng = np.random.default_rng(0)
    line = (rng.random(12) < 0.7).astype(np.float32)
    line[4:8] = 1
    points = (rng.random((12, 12)) < 0.7).astype(np.float32)
    draw = once(jax.vmap(lambda key, mask: divided(key, mask, 0.3), in_axes=(0, None)))
    for mask, axis in ((np.tile(line, (12, 1)), 1), (np.tile(line[:, None], (1, 12)), 2), (points, None)):
        held, chance = (np.asarray(x) for x in draw(jax.random.split(KEY, 400), jnp.asarray(mask)))
        assert not held[:, mask == 0].any() and not held[:, 4:8, 4:8].any()
        if axis is None:
            assert (held.any(2) != held.all(2)).any()
        else:
            assert (held.any(axis) == (held | (mask == 0)).all(axis))[:, line > 0].all()
            assert chance[0].mean() == pytest.approx(0.3 * 8 / 12)
        free = (mask > 0) & (chance[0] > 0)
        assert held[:, free].mean() == pytest.approx(0.3, abs=0.03)


def test_probabilities_are_told_by_the_mask():
    """The center is always measured, other columns as often as in this mask; 1 where nothing else is."""
    find = once(sampling_probability)
    line = np.zeros(16, np.float32)
    line[[1, 6, 7, 8, 9, 12, 14]] = 1
    want = np.where((np.arange(16) >= 6) & (np.arange(16) <= 9), 1, 3 / 12)
    np.testing.assert_allclose(find(jnp.tile(line, (6, 1))), np.tile(want, (6, 1)), rtol=1e-6)
    assert (find(jnp.ones((6, 16))) == 1).all()
    block = np.zeros((16, 16), np.float32)
    block[6:10, 6:10] = 1
    assert (find(jnp.asarray(block)) == 1).all()
    block[::3, 1::5] = 1
    # Column 6 is measured at row 12, too, which does not touch the center.
    found = np.asarray(find(jnp.asarray(block)))
    assert (found[6:10, 6:10] == 1).all() and found[0, 0] == pytest.approx((block.sum() - 16) / 240)


def test_the_expected_loss_of_views_is_that_without_noise():
    """Noise2Inverse: over noise, and up to a constant, of networks that scale what they are given."""
    many, views, elements = 1500, 12, 14
    rng = np.random.default_rng(7)
    angles = np.pi * np.arange(views) / views
    measure = ct_measure((8, 8), elements)
    image = np.zeros((8, 8), np.float32)
    image[2:6, 3:7] = 1 + rng.random((4, 4))
    base = {
        "angles": jnp.asarray(np.tile(np.append(angles, [0, 0]), (many, 1)), jnp.float32),
        "view_mask": jnp.asarray(np.tile(np.arange(views + 2) < views, (many, 1)), jnp.float32),
        "valid": jnp.ones(many, bool),
        "target": jnp.full((many, 8, 8), jnp.nan),
    }
    A = measure({**base, "sinogram": jnp.zeros((many, views + 2, elements))})[0]
    clean = jax.tree.map(lambda x: x[0], A).radon(jnp.asarray(image))
    noise = rng.normal(size=(many, views + 2, elements)).astype(np.float32)
    batch = {**base, "sinogram": (clean + noise) * base["view_mask"][..., None]}

    @once
    def slopes(batch, quiet, theta):
        kept = []

        def losses(theta, reference):
            def reconstruct(seen):
                kept.append(seen)
                B, y, _ = measure(seen)
                return theta * jax.vmap(lambda B, y: B.H(y))(B, y)

            held = {}

            def recorded(given):
                found = measure(given)
                held["operators"], held["y"] = found[0], found[1]
                return found

            loss, counted = noise2inverse(3)(reconstruct, recorded, batch, KEY)
            target = jax.vmap(lambda B, y: B.H(y))(held["operators"], held["y"])
            if not reference:
                return loss * jnp.square(target).sum((1, 2)), counted
            # The same views without noise; those given are known from what the network got.
            held_mask = batch["view_mask"] - kept[-1]["view_mask"]
            B, y, _ = measure({**batch, "view_mask": held_mask, "sinogram": quiet * held_mask[..., None]})
            wanted = jax.vmap(lambda B, y: B.H(y))(B, y)
            return jnp.square(reconstruct(kept[0]) - wanted).sum((1, 2)), held_mask

        one = jnp.ones(())
        found, counted = jax.jvp(lambda t: losses(t, False)[0], (theta,), (one,))[1], losses(theta, False)[1]
        want, held = jax.jvp(lambda t: losses(t, True)[0], (theta,), (one,))[1], losses(theta, True)[1]
        return found, want, held, counted

    quiet = jnp.broadcast_to(clean, batch["sinogram"].shape)
    for theta in (0.2, 1.5):
        found, want, held, counted = (np.asarray(x) for x in slopes(batch, quiet, jnp.float32(theta)))
        assert counted.all() and (held[:, :views].sum(1) == views / 3).all() and not held[:, views:].any()
        assert len({tuple(row) for row in held}) == 3
        error = (found - want).std() / many**0.5
        assert abs(found.mean() - want.mean()) < 5 * error < 0.3 * abs(want.mean())
