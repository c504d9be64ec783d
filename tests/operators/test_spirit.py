"""SPIRiT against k-space convolutions, dense least squares in float64, exact relations and phantoms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import CartesianFourier, Identity, equispaced_mask, fft2c, ifft2c, rasterize, rss, shepp_logan
from operators.mri import SPIRiT, cg_spirit, spirit, spirit_kernel

SHIFTS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def phantom(coils, shape):
    """A head in an array of coils around it: k-space (coils, ny, nx)."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    t = 2 * np.pi * np.arange(coils)[:, None, None] / coils
    distance = (x - 1.2 * np.cos(t)) ** 2 + (y - 1.2 * np.sin(t)) ** 2
    maps = np.exp(-distance / 2 + 1j * (x * np.sin(t) + t))
    return np.asarray(fft2c(maps * np.asarray(rasterize(shepp_logan(), shape)))).astype(np.complex64)


def harmonic_coils(normal, shape):
    """Coils of pure harmonics: each measures the periodic spectrum of one image, moved by its shift."""
    spectrum = normal(shape, complex)
    return np.stack([np.roll(spectrum, (-dy, -dx), (0, 1)) for dy, dx in SHIFTS])


def error(found, expected):
    return float(np.linalg.norm(np.ravel(found - expected)) / np.linalg.norm(np.ravel(expected)))


@pytest.mark.slow
@pytest.mark.parametrize("double", [False, True])
@settings(max_examples=2)
@given(coils=st.integers(1, 3), ny=st.integers(3, 6), nx=st.integers(5, 7), seed=st.integers(0, 9))
def test_spirit_is_a_convolution_of_kspace(normal, assert_linear_operator, double, coils, ny, nx, seed):
    with jax.enable_x64(double):
        kernel = normal((coils, coils, 3, 5), np.complex128 if double else np.complex64, seed)
        A = SPIRiT(kernel, (ny, nx))
        assert_linear_operator(A)
        kspace = normal((coils, ny, nx), np.complex64, 1)
        expected = -kspace.astype(complex)
        for dy in range(-1, 2):
            for dx in range(-2, 3):
                moved = np.roll(kspace, (-dy, -dx), (1, 2))
                expected += np.einsum("cd,dyx->cyx", kernel[:, :, 1 + dy, 2 + dx], moved)
        np.testing.assert_allclose(fft2c(A(ifft2c(kspace))), expected, atol=1e-4)


@pytest.mark.parametrize("l2", [1e-6, 0.1])
def test_kernel_is_the_regularized_regression_on_all_neighbors(l2, x64, normal):
    block = normal((2, 3, 7, 8), complex)
    found = spirit_kernel(block, (3, 3), l2)
    for calibration, kernel in zip(block, found, strict=True):
        views = np.lib.stride_tricks.sliding_window_view(calibration, (3, 3), (1, 2))
        rows = views.transpose(1, 2, 0, 3, 4).reshape(-1, 27)
        weight = l2 * np.linalg.norm(rows) ** 2 / 27
        for coil in range(3):
            others = np.delete(np.arange(27), 9 * coil + 4)
            system = np.concatenate([rows[:, others], np.sqrt(weight) * np.eye(26)])
            right = np.concatenate([rows[:, 9 * coil + 4], np.zeros(26)])
            expected = np.linalg.lstsq(system, right, rcond=None)[0]
            np.testing.assert_allclose(np.ravel(kernel[coil])[others], expected, atol=1e-9)
            assert kernel[coil, coil, 1, 1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("steps", [(1, 2), (2, 2)])
def test_harmonic_coils_are_recovered_exactly(steps, x64, normal):
    kspace = harmonic_coils(normal, (14, 16))
    G = SPIRiT(spirit_kernel(kspace, (3, 3), 1e-12), (14, 16))
    assert error(G(ifft2c(kspace)) + ifft2c(kspace), ifft2c(kspace)) < 1e-8
    mask = np.zeros((14, 16), bool)
    mask[:: steps[0], :: steps[1]] = True
    found = spirit(
        np.where(mask, kspace, np.nan),
        mask,
        kspace,
        kernel_shape=(3, 3),
        regularization=1e-12,
        tolerance=1e-12,
        iterations=500,
    )
    assert error(found, kspace) < 1e-6


@pytest.mark.slow
def test_spirit_is_the_constrained_least_squares_solution(x64, normal, dense_matrix):
    kspace = normal((2, 6, 7), complex)
    mask = np.ones((6, 7), bool)
    mask[2, 1:3] = mask[4:, 5] = False
    found = spirit(
        np.where(mask, kspace, 0), mask, kspace, kernel_shape=(3, 3), regularization=0.01, tolerance=1e-13
    )
    F = dense_matrix(CartesianFourier((6, 7)))
    G = dense_matrix(SPIRiT(spirit_kernel(kspace, (3, 3), 0.01), (6, 7))) @ np.kron(np.eye(2), F.conj().T)
    free = np.broadcast_to(~mask, kspace.shape).ravel()
    right = -G[:, ~free] @ kspace.ravel()[~free]
    expected = kspace.ravel().copy()
    expected[free] = np.linalg.lstsq(G[:, free], right, rcond=None)[0]
    np.testing.assert_allclose(np.ravel(found), expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_array_equal(found[:, mask], kspace[:, mask])


def test_cg_spirit_is_the_weighted_least_squares_solution(x64, normal, dense_matrix):
    kernel = 0.2 * normal((2, 2, 3, 3), complex)
    F = CartesianFourier((4, 5), (np.arange(5) != 3).astype(float))
    G = SPIRiT(kernel, (4, 5))
    y, density = normal((2, 2, 4, 5), complex, 1), np.abs(normal((4, 5), float, 2))
    found = cg_spirit(F, y, G, regularization=0.3, density=density, tolerance=1e-13, iterations=300)
    roots = np.kron(np.eye(2), np.diag(np.sqrt(density.ravel())))
    system = np.concatenate([roots @ np.kron(np.eye(2), dense_matrix(F)), np.sqrt(0.3) * dense_matrix(G)])
    for image, data in zip(found, y, strict=True):
        right = np.concatenate([roots @ data.ravel(), np.zeros(40)])
        expected = np.linalg.lstsq(system, right, rcond=None)[0]
        np.testing.assert_allclose(np.ravel(image), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.slow
def test_phantom_is_far_better_than_zero_filled():
    kspace = phantom(6, (40, 36))
    mask = np.asarray(equispaced_mask(36, 2, 0.34))
    found = np.asarray(jax.jit(lambda k: spirit(k, mask, regularization=1e-4))(kspace))
    np.testing.assert_array_equal(found[..., mask > 0], kspace[..., mask > 0])
    assert error(found, kspace) < 0.1 * error(mask * kspace, kspace)


@pytest.mark.slow
def test_measured_head(measured_data):
    import h5py

    with h5py.File(measured_data("mri/brain_cimax3t_16ch.h5")) as file:
        kspace = file["kspace"][0, ::4, 32:96]
    expected = np.asarray(rss(ifft2c(kspace)))
    mask = np.asarray(equispaced_mask(128, 2, 0.19))
    found = np.asarray(rss(ifft2c(spirit(kspace, mask, iterations=20))))
    assert error(found, expected) < 0.5 * error(np.asarray(rss(ifft2c(mask * kspace))), expected)


@pytest.mark.slow
def test_batches_traced_masks_and_degenerate_data():
    first = phantom(2, (10, 14))
    zero_coil = first.copy()
    zero_coil[1] = 0
    kspace = np.stack([first, zero_coil, np.zeros_like(first), np.ones_like(first)])
    mask = np.asarray(equispaced_mask(14, 2, 0.4))
    solve = jax.jit(lambda k, mask: spirit(k, mask, k[..., 4:10], kernel_shape=(3, 3), regularization=1e-20))
    found = np.asarray(solve(kspace, mask))
    assert np.isfinite(found).all() and not found[1, 1].any() and not found[2].any()
    assert error(np.asarray(solve(kspace[::-1], mask))[::-1], found) < 1e-5
    gradient = jax.jit(jax.grad(lambda k: jnp.sum(jnp.abs(solve(k, mask)) ** 2)))(kspace)
    assert np.isfinite(gradient).all()


@pytest.mark.slow
def test_gradients_in_the_calibration(x64, normal):
    kspace, direction = normal((2, 6, 7), complex), normal((2, 6, 7), complex, 1)
    mask, target = np.arange(7) != 3, normal((2, 6, 7), complex, 2)

    @jax.jit
    @jax.value_and_grad
    def along(step):
        data = kspace + step * direction
        found = spirit(
            data, mask, data, kernel_shape=(3, 3), regularization=0.1, tolerance=1e-14, iterations=300
        )
        return jnp.sum((target.conj() * found).real)

    step = 1e-5
    slope = (along(step)[0] - along(-step)[0]) / (2 * step)
    np.testing.assert_allclose(along(0.0)[1], slope, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, kind, words",
    [
        (lambda k: SPIRiT(k, (6, 8)), ValueError, ["kernel", "(2, 6, 8)"]),
        (lambda k: SPIRiT(np.ones((2, 2, 3, 4)), (6, 8)), ValueError, ["kernel", "(2, 2, 3, 4)"]),
        (lambda k: SPIRiT(np.ones((2, 2, 7, 3)), (6, 8)), ValueError, ["(7, 3)", "(6, 8)"]),
        (lambda k: spirit_kernel(k[:, :4]), ValueError, ["(5, 5)", "(4, 8)"]),
        (lambda k: spirit_kernel(k, regularization=-1.0), ValueError, ["regularization", "-1.0"]),
        (lambda k: spirit(k, np.ones(7)), ValueError, ["mask", "(6, 8)", "(7,)"]),
        (lambda k: jax.jit(spirit)(k, np.ones(8)), TypeError, ["mask", "concrete"]),
        (lambda k: spirit(k, np.ones(8), kernel_shape=(7, 5)), ValueError, ["kernel_shape", "(7, 5)"]),
        (lambda k: spirit(k, np.arange(8) % 2), ValueError, ["calibration", "(5, 5)"]),
        (
            lambda k: cg_spirit(CartesianFourier((6, 7)), k, SPIRiT(np.ones((2, 2, 3, 3)), (6, 8))),
            ValueError,
            ["fourier", "(6, 8)", "(6, 7)"],
        ),
        (
            lambda k: cg_spirit(Identity((6, 8)), k, SPIRiT(np.ones((2, 2, 3, 3)), (6, 8))),
            ValueError,
            ["fourier", "complex", "float32"],
        ),
    ],
)
def test_errors(make, kind, words, normal):
    with pytest.raises(kind) as caught:
        make(normal((2, 6, 8), np.complex64))
    for word in words:
        assert word in str(caught.value)
