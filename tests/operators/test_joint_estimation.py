"""Nonlinear inversion on analytic multi-coil scans whose image and maps are known."""

import functools
import math

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operators import (
    SENSE,
    CartesianFourier,
    Identity,
    LinearOperator,
    cg_sense,
    ellipse_kspace,
    equispaced_mask,
    ifft2c,
    rasterize,
    rss,
)
from operators.algebra import frozen_pytree, static
from operators.mri import compress, estimate_coil_maps, nlinv, svd_compression
from operators.phantoms import Ellipses

SHAPE, COILS = (33, 37), 6
BODY = Ellipses(
    center=np.array([[0, 0], [0.2, 0.3], [-0.3, -0.1]]),
    axes=np.array([[0.7, 0.8], [0.2, 0.15], [0.15, 0.3]]),
    angle=np.array([0, 0.4, -0.3]),
    value=np.array([1.0, 0.6, -0.4]),
)
invert = jax.jit(nlinv, static_argnums=2)


@functools.cache
def scan():
    """Exact k-space, image and maps (sum |S|^2 = 1); odd sizes have a pixel in the center."""
    rng = np.random.default_rng(3)
    coefficients = rng.normal(size=(COILS, 3, 3)) + 1j * rng.normal(size=(COILS, 3, 3))
    coefficients[:, 1, 1] *= 2
    large = tuple(n + 2 for n in SHAPE)
    body = np.asarray(ellipse_kspace(BODY, large)) * math.sqrt(math.prod(SHAPE) / math.prod(large))
    kspace = sum(
        coefficients[:, p, q, None, None] * body[2 - p : 2 - p + SHAPE[0], 2 - q : 2 - q + SHAPE[1]]
        for p in range(3)
        for q in range(3)
    ).astype(np.complex64)
    t = [(np.arange(n) - n // 2) / n for n in SHAPE]
    waves = [np.exp(2j * np.pi * np.outer(np.arange(-1, 2), axis)) for axis in t]
    maps = np.einsum("cpq,py,qx->cyx", coefficients, *waves)
    size = np.sqrt((np.abs(maps) ** 2).sum(0))
    return kspace, np.asarray(rss(ifft2c(kspace))), maps / size


@frozen_pytree
class DenseFourier(LinearOperator):
    """The non-uniform transform by its definition, a dense matrix."""

    matrix: jax.Array
    image_shape: tuple[int, int] = static()

    in_shape = property(lambda self: self.image_shape)
    out_shape = property(lambda self: self.matrix.shape[:1])
    in_dtype = out_dtype = property(lambda self: self.matrix.dtype)

    def _forward(self, x):
        return jnp.einsum("mn,...n->...m", self.matrix, x.reshape(*x.shape[:-2], -1))

    def _adjoint(self, y):
        return jnp.einsum("mn,...m->...n", self.matrix.conj(), y).reshape(*y.shape[:-1], *self.image_shape)


def radial_transform(views):
    angles = np.pi * np.arange(views) / views
    radii = np.arange(-48, 48) / 96
    trajectory = np.stack([np.outer(np.sin(angles), radii), np.outer(np.cos(angles), radii)], -1).reshape(
        -1, 2
    )
    t = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in SHAPE), indexing="ij"), -1).reshape(-1, 2)
    matrix = np.exp(-2j * np.pi * trajectory @ t.T) / math.sqrt(len(t))
    return DenseFourier(jnp.asarray(matrix, jnp.complex64), SHAPE)


def image_error(image):
    truth = scan()[1]
    return np.linalg.norm(np.abs(image) - truth) / np.linalg.norm(truth)


def map_errors(maps):
    """Distance of the maps inside the body when the phase of each pixel is free."""
    inside = np.asarray(rasterize(BODY, SHAPE)) > 0.3
    overlap = np.abs(np.sum(np.asarray(maps).conj() * scan()[2], axis=0))[inside]
    return np.sqrt(np.maximum(2 - 2 * overlap, 0))


@pytest.mark.slow
def test_cartesian_undersampling_with_a_narrow_center():
    kspace, _, truth = scan()
    mask = np.asarray(equispaced_mask(SHAPE[1], 3, 0.22))
    assert mask.sum() < 20
    F, measured = CartesianFourier(SHAPE, mask), kspace * mask
    image, maps = invert(F, measured, 10)
    np.testing.assert_allclose(rss(maps), 1, rtol=1e-4)
    assert np.median(map_errors(maps)) < 0.03 and np.quantile(map_errors(maps), 0.95) < 0.12
    error = image_error(image)
    assert error < 0.04 and error < 0.25 * image_error(rss(F.H(measured)))
    # Maps from the same center leave aliases; the true maps are what an estimate strives for.
    sense = jax.jit(lambda maps: cg_sense(SENSE(F, maps), measured, regularization=1e-3))
    assert error < 0.5 * image_error(sense(estimate_coil_maps(measured, (8, 8))))
    assert error < 3 * image_error(sense(truth.astype(np.complex64)))


def test_complete_data_are_explained():
    kspace, _, _ = scan()
    F = CartesianFourier(SHAPE)
    residuals = []
    for iterations in (6, 10):
        image, maps = invert(F, kspace, iterations)
        residuals.append(np.linalg.norm(SENSE(F, maps)(image) - kspace) / np.linalg.norm(kspace))
    assert residuals[1] < 0.04 and residuals[1] < residuals[0]
    assert image_error(image) < 0.02


@pytest.mark.slow
def test_radial_undersampling():
    _, truth, maps = scan()
    F = radial_transform(19)
    measured = F((maps * truth).astype(np.complex64))
    image, found = invert(F, measured, 12)
    plain = np.asarray(rss(F.H(measured)))
    scale = np.vdot(plain, truth) / np.vdot(plain, plain)
    assert image_error(image) < 0.06 and image_error(image) < 0.2 * image_error(scale * plain)
    assert np.median(map_errors(found)) < 0.03


def test_scale_of_operator_and_data_batches_and_padded_coils():
    kspace, _, _ = scan()
    F = CartesianFourier(SHAPE)
    padded = np.pad(kspace, [(0, 1), (0, 0), (0, 0)])
    image, maps = invert(F, padded, 4)
    np.testing.assert_array_equal(maps[COILS], 0)
    both, more = invert(1e-2 * F, np.stack([1e-6 * padded, 0 * padded]), 4)
    np.testing.assert_allclose(both[0], 1e-4 * image, atol=1e-6 * np.abs(image).max())
    np.testing.assert_allclose(more[0], maps, atol=1e-2)
    np.testing.assert_array_equal(both[1], 0)
    np.testing.assert_allclose(more[1], (COILS + 1) ** -0.5, rtol=1e-5)


def test_steps_are_those_of_gauss_newton_with_a_dense_jacobian(x64, normal):
    """The problem is holomorphic: every step solves the normal equations of its complex Jacobian."""
    shape, coils, order, smoothness = (4, 5), 2, 4.0, 0.1
    kspace = normal((coils, *shape), complex)
    options = {"smoothness": smoothness, "order": order, "cg_iterations": 200, "cg_tolerance": 1e-13}
    image, maps = jax.jit(lambda y: nlinv(CartesianFourier(shape), y, 5, **options))(kspace)
    waves = [np.exp(-2j * np.pi * np.outer(np.arange(n) - n // 2, np.arange(n) - n // 2) / n) for n in shape]
    fourier = np.kron(*waves) / math.sqrt(20)
    q = [np.fft.fftfreq(n) * n for n in shape]
    decay = (1 + smoothness * (q[0][:, None] ** 2 + q[1] ** 2)).ravel() ** (-order / 2)
    back = np.kron(*(np.exp(2j * np.pi * np.outer(np.arange(n), np.fft.fftfreq(n))) for n in shape))
    coefficients = back / math.sqrt(20) * decay
    scale = np.linalg.norm(kspace) / math.sqrt(20)
    y = (kspace / scale).reshape(coils, 20)
    x = start = np.concatenate([np.ones(20), np.zeros(coils * 20)]).astype(complex)
    for n in range(5):
        object_, sensitivities = x[:20], x[20:].reshape(coils, 20) @ coefficients.T
        rows = [
            np.hstack(
                [
                    fourier * sensitivities[c],
                    *(
                        (fourier * object_) @ coefficients if c == other else np.zeros((20, 20))
                        for other in range(coils)
                    ),
                ]
            )
            for c in range(coils)
        ]
        jacobian = np.vstack(rows)
        misfit = (y - (sensitivities * object_) @ fourier.T).ravel()
        left = jacobian.conj().T @ jacobian + 0.5**n * np.eye(len(x))
        x = x + np.linalg.solve(left, jacobian.conj().T @ misfit + 0.5**n * (start - x))
    expected = scale * x[:20] * (x[20:].reshape(coils, 20) @ coefficients.T)
    assert np.abs(x[:20].imag).max() > 0.1
    np.testing.assert_allclose((image * maps).reshape(coils, 20), expected, atol=1e-8)


def test_double_precision_and_gradients(x64, normal):
    """Central differences confirm the gradient through the steps when each is solved to the end."""
    F = CartesianFourier((5, 4), np.ones(4))
    kspace, direction = normal((2, 5, 4), complex), normal((2, 5, 4), complex, 1)

    @jax.jit
    def size(t):
        image, maps = nlinv(F, kspace + t * direction, 2, cg_iterations=100, cg_tolerance=1e-12)
        assert image.dtype == maps.dtype == np.complex128
        return jnp.sum(jnp.abs(image) ** 2) + jnp.sum(maps[0].real)

    difference = (size(1e-5) - size(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(size))(0.0), difference, rtol=1e-5)


@pytest.mark.slow
def test_a_measured_head(measured_data):
    with h5py.File(measured_data("mri/brain_cimax3t_16ch.h5")) as file:
        kspace = file["kspace"][0]
    kspace = np.asarray(compress(kspace, svd_compression(kspace, 8)))
    truth = np.asarray(rss(ifft2c(kspace)))
    inside = truth > 0.15 * truth.max()
    mask = np.asarray(equispaced_mask(128, 3, 0.1))
    F, measured = CartesianFourier((128, 128), mask), kspace * mask

    def error(image):
        return np.linalg.norm((np.abs(image) - truth)[inside]) / np.linalg.norm(truth[inside])

    maps = estimate_coil_maps(measured, (12, 12))
    found = error(invert(F, measured, 9)[0])
    assert found < 0.06 and found < 0.4 * error(rss(F.H(measured)))
    assert found < 0.5 * error(cg_sense(SENSE(F, maps), measured, regularization=1e-3))


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda F, y: nlinv(Identity((4, 5)), y), TypeError, ["fourier", "complex", "float32"]),
        (lambda F, y: nlinv(3, y), TypeError, ["fourier", "int"]),
        (lambda F, y: nlinv(F, y[..., 1:]), ValueError, ["kspace", "coils, 4, 5", "(2, 4, 4)"]),
        (lambda F, y: nlinv(F, y[0]), ValueError, ["kspace", "(4, 5)"]),
        (lambda F, y: nlinv(F, y, 0), ValueError, ["iterations", "0"]),
        (lambda F, y: nlinv(F, y, reduction=1.0), ValueError, ["reduction", "1.0"]),
        (lambda F, y: nlinv(F, y, smoothness=-1.0), ValueError, ["smoothness", "-1"]),
        (lambda F, y: nlinv(F, y, cg_iterations=2.0), TypeError, ["cg_iterations", "float"]),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make(CartesianFourier((4, 5)), jnp.ones((2, 4, 5), jnp.complex64))
    for word in words:
        assert word in str(caught.value)
