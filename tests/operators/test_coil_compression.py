"""Pre-whitening and coil compression against singular value decompositions in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import fft2c, ifft2c, rasterize, rss, shepp_logan
from operators.mri import (
    birdcage_maps,
    compress,
    gcc_compression,
    noise_covariance,
    svd_compression,
    whiten,
    whitening_matrix,
)

svd = jax.jit(svd_compression, static_argnames=("virtual_coils", "coil_axis"))
gcc = jax.jit(gcc_compression, static_argnames=("virtual_coils", "coil_axis", "readout_axis"))
mix = jax.jit(compress, static_argnames=("coil_axis", "readout_axis"))


def mixed_noise(coils, samples, seed=0):
    """Circular Gaussian noise of known covariance, real and imaginary parts of half the variance each."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(coils, coils)) + 1j * rng.normal(size=(coils, coils))
    white = (rng.normal(size=(coils, samples)) + 1j * rng.normal(size=(coils, samples))) / np.sqrt(2)
    return mixing @ white, mixing @ mixing.conj().T


@pytest.fixture(scope="module")
def scan():
    """A noiseless scan of 12 coils, nine tenths of which are in a 28 x 20 grid's data: (coils, ny, nx)."""
    maps = np.asarray(birdcage_maps((28, 20), 12, 1.2)) * np.linspace(0.5, 2, 12)[:, None, None]
    return np.asarray(fft2c(maps * np.asarray(rasterize(shepp_logan(), (28, 20)))), np.complex64)


def test_covariance_is_that_of_complex_samples():
    noise, expected = mixed_noise(4, 200_000)
    found = noise_covariance(noise.astype(np.complex64).reshape(4, 500, 400), coil_axis=0)
    np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())
    np.testing.assert_allclose(found, noise @ noise.conj().T / 200_000, rtol=1e-3, atol=1e-3)
    # One in the real and one in the imaginary part make two.
    unit = noise_covariance(jnp.array([[1, -1, 1j, -1j]]) * np.sqrt(2))
    np.testing.assert_allclose(unit, [[2]], rtol=1e-6)


def test_a_noise_scan_with_fewer_samples_than_coils_is_refused():
    noise = mixed_noise(4, 10)[0].astype(np.complex64)
    with pytest.raises(ValueError, match="at least as many samples as the 4 coils, found 3"):
        noise_covariance(noise[:, :3])
    assert noise_covariance(noise[:, :4]).shape == (4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_whitened_noise_is_white(scale):
    noise, _ = mixed_noise(5, 4000)
    # Channels of very different gains, as receivers have them.
    noise = (noise * scale * np.array([1e-3, 1, 1e2, 1, 1])[:, None]).astype(np.complex64)
    matrix = whitening_matrix(noise_covariance(noise))
    found = noise_covariance(whiten(noise, matrix, coil_axis=0))
    np.testing.assert_allclose(found, np.eye(5), atol=1e-3)


def test_whitening_of_another_bandwidth_and_of_coils_without_noise(x64):
    _, covariance = mixed_noise(3, 1)
    covariance = np.pad(covariance, (0, 1))
    matrix = np.asarray(whitening_matrix(covariance, 4.0))
    expected = np.diag([1.0, 1, 1, 0])
    np.testing.assert_allclose(matrix @ (4 * covariance) @ matrix.conj().T, expected, atol=1e-10)
    np.testing.assert_array_equal(matrix[3], 0)
    np.testing.assert_array_equal(matrix[:, 3], 0)
    # Uncorrelated channels are scaled and not mixed.
    variances = np.array([4.0, 0.25, 1.0])
    np.testing.assert_allclose(whitening_matrix(np.diag(variances)), np.diag(variances**-0.5), atol=1e-12)
    # Two copies of one channel have one direction of noise.
    twins = np.asarray(whitening_matrix(np.ones((2, 2))))
    np.testing.assert_allclose(twins @ np.ones((2, 2)) @ twins.T, np.full((2, 2), 0.5), atol=1e-10)
    assert matrix.dtype == np.complex128


@pytest.mark.slow
def test_whitening_makes_the_combination_optimal(normal):
    """The matched filter of whitened data has the signal-to-noise ratio s^H C^-1 s of the best one."""
    _, covariance = mixed_noise(4, 1, seed=3)
    s = normal((4, 1, 1), complex, 5)
    whitened = np.asarray(whiten(s, whitening_matrix(covariance)))
    best = (s.ravel().conj() @ np.linalg.solve(covariance, s.ravel())).real
    np.testing.assert_allclose(np.sum(np.abs(whitened) ** 2), best, rtol=1e-3)


@settings(max_examples=4)
@given(coils=st.integers(1, 5), scale=st.sampled_from([0.0, 1e-25, 1e25]), data=st.data())
def test_svd_keeps_the_energy_of_the_largest_singular_values(normal, coils, scale, data):
    virtual = data.draw(st.integers(1, coils))
    unit = normal((2, coils, 4, 3), np.complex64, coils)
    kspace = np.complex64(scale) * unit
    matrix = np.asarray(svd(kspace, virtual))
    np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(virtual), atol=1e-5)
    if scale:
        values = np.linalg.svd(np.moveaxis(unit, 1, 0).reshape(coils, -1).astype(complex), compute_uv=False)
        rows = np.sum(np.abs(mix(unit, matrix)) ** 2, axis=(0, 2, 3))
        np.testing.assert_allclose(rows, values[:virtual] ** 2, rtol=1e-4)


@pytest.mark.slow
def test_as_many_virtual_coils_lose_nothing(scan):
    for matrix in (svd(scan, 12), gcc(scan, 12)):
        found = mix(scan, matrix)
        np.testing.assert_allclose(rss(ifft2c(found)), rss(ifft2c(scan)), rtol=1e-4, atol=1e-5)
    # The samples of a non-Cartesian scan have one axis.
    samples = scan.reshape(12, -1)
    found = mix(samples, svd(samples, 12, coil_axis=-2), coil_axis=-2)
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), np.linalg.norm(samples, axis=0), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("readout_axis", [-2, -1])
def test_geometric_compression_is_the_best_at_every_position(scan, readout_axis):
    virtual, positions = 3, scan.shape[readout_axis]
    matrices = np.asarray(gcc(scan, virtual, readout_axis=readout_axis))
    assert matrices.shape == (positions, virtual, 12)
    products = matrices @ matrices.conj().swapaxes(1, 2)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(virtual), products.shape), atol=1e-5)
    # The energy of a position is that of its image columns: a Fourier transform along the others keeps it.
    images = np.moveaxis(np.asarray(ifft2c(scan)), readout_axis, 0).astype(complex)
    values = np.linalg.svd(images.reshape(positions, 12, -1), compute_uv=False)
    compressed = mix(scan, matrices, readout_axis=readout_axis)
    kept = np.sum(np.abs(np.moveaxis(np.asarray(ifft2c(compressed)), readout_axis, 0)) ** 2, axis=(1, 2))
    np.testing.assert_allclose(kept, (values[:, :virtual] ** 2).sum(1), rtol=1e-3, atol=1e-3)
    common = mix(scan, svd(scan, virtual))
    reference = np.asarray(rss(ifft2c(scan)))

    def error(kspace):
        return np.linalg.norm(rss(ifft2c(kspace)) - reference) / np.linalg.norm(reference)

    assert error(compressed) < 0.02 and error(compressed) < error(common)


def test_neighboring_positions_are_aligned(scan):
    """Over all unitary P, |P A - B|^2 of matrices of v rows is at least 2 v - 2 |A B^H|_nuclear."""
    matrices = np.asarray(gcc(scan, 3)).astype(complex)
    principal = np.linalg.svd(np.moveaxis(np.asarray(ifft2c(scan)), 1, 0)[14])[0][:, :3].conj().T
    np.testing.assert_allclose(np.abs(matrices[14] @ principal.conj().T), np.eye(3), atol=1e-3)
    steps = np.linalg.norm(np.diff(matrices, axis=0), axis=(1, 2))
    products = matrices[1:] @ matrices[:-1].conj().swapaxes(1, 2)
    nuclear = np.linalg.svd(products, compute_uv=False).sum(1)
    np.testing.assert_allclose(steps**2, 6 - 2 * nuclear, atol=1e-4)


@pytest.mark.slow
def test_volumes_slices_and_transformations(scan, normal):
    matrix = np.asarray(svd(scan, 4))
    volume = normal((2, 12, 3, 5, 4), np.complex64)
    expected = np.einsum("vc,bczyx->bvzyx", matrix, volume)
    np.testing.assert_allclose(mix(volume, matrix, coil_axis=-4), expected, atol=1e-5)
    matrices = gcc(volume, 2, coil_axis=-4, readout_axis=-1)
    assert mix(volume, matrices, coil_axis=-4, readout_axis=-1).shape == (2, 2, 3, 5, 4)
    apart = jax.jit(jax.vmap(lambda k: svd(k, 2, coil_axis=0)))(volume)
    np.testing.assert_allclose(
        jnp.abs(apart[1] @ svd(volume[1], 2, coil_axis=0).conj().T), np.eye(2), atol=1e-4
    )
    zeros = jnp.zeros((3, 4, 4), jnp.complex64)
    gradient = jax.grad(lambda k: jnp.sum(jnp.abs(mix(k, gcc(k, 2)) - 1)))(zeros)
    assert bool(jnp.all(jnp.isfinite(gradient)))


@pytest.mark.slow
def test_precision_is_kept(x64, normal):
    for dtype in (np.complex64, np.complex128):
        kspace = normal((3, 5, 4), dtype)
        for matrix in (svd(kspace, 2), gcc(kspace, 2)):
            assert matrix.dtype == mix(kspace, matrix).dtype == dtype
        assert whitening_matrix(noise_covariance(kspace)).dtype == dtype


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda k: noise_covariance(k, coil_axis=4), ValueError, ["noise", "axis 4"]),
        (lambda k: noise_covariance(k[:, :0]), ValueError, ["noise", "(3, 0, 5)"]),
        (lambda k: whitening_matrix(k[0]), ValueError, ["covariance", "(4, 5)"]),
        (lambda k: whiten(k, jnp.eye(4)), ValueError, ["(3, 3)", "(4, 4)"]),
        (lambda k: svd_compression(k, 4), ValueError, ["virtual_coils", "3", "4"]),
        (lambda k: svd_compression(k, 0), ValueError, ["virtual_coils", "0"]),
        (lambda k: gcc_compression(k, 2.0), TypeError, ["virtual_coils", "float"]),
        (lambda k: gcc_compression(k[0], 2), ValueError, ["axis -3", "(4, 5)"]),
        (lambda k: compress(k, jnp.ones((2, 4))), ValueError, ["matrix", "(2, 4)"]),
        (lambda k: compress(k, jnp.ones((5, 2, 3))), ValueError, ["5 readout", "(3, 4, 5)"]),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make(jnp.ones((3, 4, 5), jnp.complex64))
    for word in words:
        assert word in str(caught.value)
