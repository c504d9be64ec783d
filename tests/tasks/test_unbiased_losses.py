"""Stein's estimate of the error without noise, levels of noise, and equivariant imaging of sinograms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.data.simulation import CTSite, MRISite, simulate_ct_patient, simulate_mri_patient
from fedrecon.tasks import RECONSTRUCTION_LOSSES, ct_measure, mri_measure
from fedrecon.tasks.equivariance_losses import equivariant, stein_risk, sure
from fedrecon.tasks.noise_levels import detector_deviation, noise_level

once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(3)
MANY = 3000
OF_SINOGRAMS = [
    name for name, of in RECONSTRUCTION_LOSSES.items() if "sinogram" in of.samples and not of.reference
]


def kspace_batch(deviation):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / 2**0.5

    image, maps = normal(5, 6), normal(2, 5, 6)
    maps /= np.linalg.norm(maps, axis=0)
    mask = rng.random((5, 6)) < 0.6
    one = {"mask": mask.astype(np.float32), "coil_maps": maps.astype(np.complex64)}
    batch = {name: jnp.asarray(np.broadcast_to(x, (MANY, *x.shape))) for name, x in one.items()}
    A = jax.tree.map(lambda x: x[0], mri_measure({**batch, "kspace": batch["mask"]})[0])
    clean = A(jnp.asarray(image.astype(np.complex64)))
    noise = deviation * mask * normal(MANY, 2, 5, 6)
    batch |= {"kspace": jnp.asarray((clean + noise).astype(np.complex64)), "valid": jnp.ones(MANY, bool)}
    return batch | {"noise_level": jnp.full(MANY, deviation)}, A, clean, int(2 * mask.sum())


def sinogram_batch(count, rng, size=8, views=6):
    """Different angles in each example, the last view of which is padding."""
    angles = np.pi * (np.arange(views) + rng.random((count, 1))) / views
    batch = {
        "angles": jnp.asarray(angles, jnp.float32),
        "view_mask": jnp.asarray(np.tile(np.arange(views) < views - 1, (count, 1)), jnp.float32),
        "valid": jnp.ones(count, bool),
        "scale": jnp.full(count, 0.1),
        "pixel_size": jnp.ones(count),
        "volume": jnp.arange(count),
        "data_range": jnp.ones(count),
        "target": jnp.full((count, size, size), jnp.nan),
    }
    measure = ct_measure((size, size), 3 * size // 2)
    A = measure({**batch, "sinogram": jnp.zeros((count, views, 3 * size // 2))})[0]
    image = np.zeros((size, size), np.float32)
    image[2:6, 3:7] = 1 + rng.random((4, 4))
    clean = jax.vmap(lambda A: A.radon(jnp.asarray(image)))(A) * batch["view_mask"][..., None]
    return {**batch, "sinogram": clean}, measure, image


def test_the_risk_of_a_linear_network_is_its_error():
    """Multi-coil k-space: the expectation is the closed form of bias and variance, the noise not in it."""
    deviation, theta = 0.5, 0.7
    batch, A, clean, count = kspace_batch(deviation)

    def reconstruct(seen):
        A, y, _ = mri_measure(seen)
        return theta * jax.vmap(lambda A, y: A.H(y))(A, y)

    risk, power = once(lambda batch: stein_risk(reconstruct, mri_measure, batch, KEY))(batch)
    basis = jnp.eye(clean.size, dtype=jnp.complex64).reshape(-1, *clean.shape)
    G = np.asarray(jax.vmap(lambda v: A(A.H(v)))(basis)).reshape(clean.size, -1)
    x = np.asarray(clean).ravel()
    want = np.sum(abs(theta * G.T @ x - x) ** 2) / count
    want += deviation**2 * theta**2 * np.sum(abs(G) ** 2) / count
    risk = np.asarray(risk, np.float64)
    error = risk.std() / MANY**0.5
    assert abs(risk.mean() - want) < 4 * error < 0.05 * want
    # Without the derivative it would be too small, without the noise too large.
    assert 2 * deviation**2 * theta * np.trace(G).real / count > 20 * error < deviation**2
    np.testing.assert_allclose(
        power, (abs(np.asarray(batch["kspace"])) ** 2).sum((1, 2, 3)) / count, rtol=1e-4
    )
    found, valid = once(lambda batch: sure(reconstruct, mri_measure, batch, KEY))(batch)
    np.testing.assert_allclose(found, risk / np.asarray(power), rtol=1e-3, atol=1e-5)
    assert valid.all()


def test_the_risk_of_filtered_sinograms_is_their_error():
    """Deviations differ from ray to ray, and the filter makes noise of neighbors alike."""
    rng = np.random.default_rng(1)
    one, measure, _ = sinogram_batch(1, rng)
    batch = {k: jnp.broadcast_to(x, (1000, *x.shape[1:])) for k, x in one.items()}
    level = 0.2 + rng.random(one["sinogram"].shape[1:]).astype(np.float32)
    noise = level * rng.normal(size=batch["sinogram"].shape).astype(np.float32)
    noisy = (batch["sinogram"] + noise) * batch["view_mask"][..., None]
    batch |= {"sinogram": noisy, "noise_level": jnp.broadcast_to(level, noise.shape)}

    def reconstruct(seen):
        B, y, _ = measure(seen)
        return 0.6 * jax.vmap(lambda B, y: B.H(y))(B, y)

    @once
    def compared(batch, clean):
        B = measure(batch)[0]
        missed = jax.vmap(lambda B, x: B(x))(B, reconstruct(batch)) - measure({**batch, "sinogram": clean})[1]
        risk, _ = stein_risk(reconstruct, measure, batch, KEY)
        count = batch["view_mask"].sum(1) * batch["sinogram"].shape[-1]
        return risk, jnp.square(missed).sum((1, 2)) / count

    clean = jnp.broadcast_to(one["sinogram"], noise.shape)
    risk, want = (np.asarray(x, np.float64) for x in compared(batch, clean))
    error = (risk - want).std() / len(risk) ** 0.5
    assert abs((risk - want).mean()) < 4 * error < 0.05 * want.mean()


def test_levels_are_those_that_data_come_with_or_those_estimated():
    batch, *_ = kspace_batch(0.5)
    few = {name: x[:2] for name, x in batch.items()}
    assert noise_level(few).shape == (2, 1, 1, 1)
    del few["noise_level"]
    few["kspace"] = few["kspace"].at[1].set(0)
    found = np.asarray(noise_level(few))
    assert found[0] > 0 and found[1] == 0
    # Of air the deviation is s, behind an object larger by the root of the attenuation; padding has none.
    rng = np.random.default_rng(0)
    p = np.zeros((2, 400, 40), np.float32)
    p[..., 10:30] = 2.0
    sinogram = (p + 0.1 * np.exp(p / 2) * rng.normal(size=p.shape)).astype(np.float32) / 0.5
    view_mask = np.ones((2, 400), np.float32)
    view_mask[:, 300:] = 0
    deviation = np.asarray(once(detector_deviation)(sinogram, view_mask, jnp.full(2, 0.5)))
    np.testing.assert_allclose(deviation[:, :300, :10].mean((1, 2)), 0.2, rtol=0.1)
    np.testing.assert_allclose(deviation[:, :300, 10:30].mean((1, 2)), 0.2 * np.e, rtol=0.15)
    assert not deviation[:, 300:].any()


@pytest.mark.slow
def test_levels_of_simulated_scans_are_found():
    """K-space's is an upper bound, close of many pixels; sinograms' are right in air and behind objects."""
    for size, snr, low, high in ((128, 10.0, 1.0, 1.25), (32, 30.0, 2.5, 4.0)):
        scans = []
        for ratio in (snr, 1e6):
            site = MRISite("a", "head", 220.0, 1.5, 500.0, 15.0, coils=4, snr=ratio)
            scans.append(simulate_mri_patient(site, 0, False, (size, size), 2, 0))
        noisy, clean = (scan.kspace for scan in scans)
        want = np.sqrt(np.mean(np.abs(noisy - clean)[np.abs(noisy) > 0] ** 2))
        # The simulation tells it; this is for data that do not.
        assert scans[0].attributes["noise_deviation"] == pytest.approx(want, rel=0.03)
        found = np.ravel(noise_level({"kspace": jnp.asarray(noisy), "mask": 0, "coil_maps": 0}))
        assert (found > low * want).all() and (found < high * want).all()
    ct = CTSite("b", "head", 220.0, views=200, photons=1e5)
    found = simulate_ct_patient(ct, 0, False, (64, 64), 1, 0)
    still = simulate_ct_patient(CTSite("b", "head", 220.0, views=200, photons=1e12), 0, False, (64, 64), 1, 0)
    deviation = np.asarray(noise_level({name: jnp.asarray(x) for name, x in found.items()}))[0]
    error = found["sinogram"][0] - still["sinogram"][0]
    thick = still["sinogram"][0] > 0.8 * still["sinogram"][0].max()
    for rays in (thick, still["sinogram"][0] < 1e-3):
        assert np.sqrt(np.mean(deviation[rays] ** 2)) == pytest.approx(error[rays].std(), rel=0.15)


def test_sinograms_of_rotated_images_and_of_others_views_are_undone():
    """The network that always answers the image undoes other views, not rotations; padded views stay zero."""
    batch, measure, image = sinogram_batch(3, np.random.default_rng(0))
    images = jnp.broadcast_to(jnp.asarray(image), (3, 8, 8))

    @partial(once, static_argnums=1)
    def shown(batch, weights):
        calls = []

        def recording(given):
            calls.append(given)
            return images

        loss, valid = equivariant(*weights)(recording, measure, batch, KEY)
        return loss, calls[-1]["angles"], calls[-1]["sinogram"], valid

    loss, angles, sinogram, valid = shown(batch, (0.0, 1.0))
    np.testing.assert_allclose(loss, 0, atol=1e-5)
    places = [int(np.argmin(np.abs(np.asarray(batch["angles"])[:, 0] - row[0]))) for row in angles]
    assert all(place != own for own, place in enumerate(places)) and valid.all()
    np.testing.assert_allclose(sinogram, batch["sinogram"][np.array(places)], rtol=1e-4, atol=1e-4)
    assert (shown(batch, (1.0, 0.0))[0] > 1e-3).all()


@pytest.mark.slow
def test_networks_of_sinograms_are_trained_without_a_reference():
    """References are not numbers, gradients are: of the factor of a filtered back-projection."""
    batch, measure, _ = sinogram_batch(2, np.random.default_rng(0))
    batch["sinogram"] += 0.1 * jax.random.normal(KEY, batch["sinogram"].shape) * batch["view_mask"][..., None]

    def total(factor, name):
        def reconstruct(seen):
            B, y, _ = measure(seen)
            return factor * jax.vmap(lambda B, y: B.H(y))(B, y)

        losses, counted = RECONSTRUCTION_LOSSES[name].function(reconstruct, measure, batch, KEY)
        return jnp.where(counted, losses, 0).sum()

    found = once(lambda factor: {name: jax.grad(total)(factor, name) for name in OF_SINOGRAMS})(0.5)
    assert len(found) == 7 and all(np.isfinite(x) and abs(x) > 1e-3 for x in found.values())
