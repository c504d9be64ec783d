"""Walsh's and ESPIRiT's maps against slow references, analytic multi-coil data and measured data."""

import functools
import math

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operators import ellipse_kspace, espirit_maps, ifft2c, rasterize, rss
from operators.mri import coil_combine, espirit_support, walsh_maps
from operators.phantoms import Ellipses

SHAPE, COILS = (45, 37), 6
BODY = Ellipses(
    center=np.array([[0, 0], [0.2, 0.3], [-0.3, -0.1]]),
    axes=np.array([[0.7, 0.8], [0.2, 0.15], [0.15, 0.3]]),
    angle=np.array([0, 0.4, -0.3]),
    value=np.array([1.0, 0.6, -0.4]),
)
espirit = jax.jit(espirit_maps, static_argnums=(1, 2), static_argnames="sets")
walsh = jax.jit(walsh_maps, static_argnums=1)


def coefficients():
    """Fourier coefficients (coils, 3, 3) of maps of one period per field of view."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(COILS, 3, 3)) + 1j * rng.normal(size=(COILS, 3, 3))
    values[:, 1, 1] *= 2
    return values


def maps_at(y, x):
    """The maps at positions in fields of view from the center: (coils, *positions)."""
    waves = [np.exp(2j * np.pi * np.multiply.outer(np.arange(-1, 2), t)) for t in (y, x)]
    maps = np.einsum("cpq,p...,q...->c...", coefficients(), *waves)
    return maps / np.sqrt((np.abs(maps) ** 2).sum(0))


def textured_body(details=40):
    """The same large ellipse full of small ones: patches of its k-space excite all directions."""
    rng = np.random.default_rng(1)
    radius, turn = 0.7 * np.sqrt(rng.uniform(size=details)), rng.uniform(0, 2 * np.pi, details)
    return Ellipses(
        center=np.vstack([[0, 0], np.stack([0.9 * radius * np.cos(turn), radius * np.sin(turn)], axis=1)]),
        axes=np.vstack([[0.7, 0.8], rng.uniform(0.03, 0.12, (details, 2))]),
        angle=np.zeros(details + 1),
        value=np.append(1.0, rng.choice([-0.6, 0.8], details)),
    )


@functools.cache
def scan(body=BODY, shape=SHAPE):
    """Exact k-space of a body seen by the unnormalized maps; odd sizes have a pixel in the center."""
    large = tuple(n + 2 for n in shape)
    body = np.asarray(ellipse_kspace(body, large)) * math.sqrt(math.prod(shape) / math.prod(large))
    kspace = sum(
        coefficients()[:, p, q, None, None] * body[2 - p : 2 - p + shape[0], 2 - q : 2 - q + shape[1]]
        for p in range(3)
        for q in range(3)
    )
    return kspace.astype(np.complex64)


def pixels(shape):
    return np.meshgrid(*((np.arange(n) - n // 2) / n for n in shape), indexing="ij")


def aligned_error(found, expected):
    """Distance of unit vectors (coils, pixels) when the phase of each pixel is free."""
    overlap = np.abs(np.sum(found.conj() * expected, axis=0))
    return np.sqrt(np.maximum(2 - 2 * overlap, 0))


def projectors(vectors):
    """(pixels, coils, coils) from (sets, coils, *pixels)."""
    flat = np.asarray(vectors).reshape(*vectors.shape[:2], -1)
    return np.einsum("sap,sbp->pab", flat, flat.conj())


def slow_espirit(kspace, block, kernel, threshold):
    """The matrix of every pixel (pixels, coils, coils) from the definition, on periodic k-space."""
    coils, shape, ndim = kspace.shape[0], kspace.shape[1:], kspace.ndim - 1
    start = [(n - c + 1) // 2 for n, c in zip(shape, block, strict=True)]
    center = kspace[(slice(None), *(slice(s, s + c) for s, c in zip(start, block, strict=True)))]
    patches = np.array(
        [
            center[(slice(None), *(slice(m, m + k) for m, k in zip(corner, kernel, strict=True)))].ravel()
            for corner in np.ndindex(*(c - k + 1 for c, k in zip(block, kernel, strict=True)))
        ]
    )
    _, values, vh = np.linalg.svd(patches, full_matrices=False)
    rows = vh[values >= threshold * values[0]]
    result = np.zeros((*shape, coils, coils), complex)
    axes = tuple(range(1, ndim + 1))
    for coil in range(coils):
        # A pixel of one coil at a time would do; ones in all pixels give all of them at once.
        image = np.zeros((coils, *shape), complex)
        for pixel in np.ndindex(*shape):
            image[:] = 0
            image[(coil, *pixel)] = 1
            source = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(image, axes), axes=axes), axes)
            total = np.zeros_like(source)
            for corner in np.ndindex(*shape):
                index = np.ix_(
                    range(coils),
                    *((m + np.arange(k)) % n for m, k, n in zip(corner, kernel, shape, strict=True)),
                )
                patch = source[index].ravel()
                total[index] += ((patch @ rows.conj().T) @ rows).reshape(coils, *kernel)
            total = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(total, axes), axes=axes), axes)
            result[(*pixel, slice(None), coil)] = total[(slice(None), *pixel)] / math.prod(kernel)
    return result.reshape(-1, coils, coils)


@pytest.mark.parametrize(
    "shape, block, kernel",
    [((8, 7), (6, 5), (3, 2)), ((4, 3, 5), (4, 3, 4), (2, 2, 3))],
)
def test_espirit_is_the_projection_onto_patches(x64, normal, shape, block, kernel):
    kspace = normal((3, *shape), complex, 4)
    matrices = slow_espirit(kspace, block, kernel, 0.5)
    values, vectors = np.linalg.eigh(matrices)
    assert values.min() > -1e-12 and values.max() < 1 + 1e-12
    maps, found = espirit(kspace, block, kernel, 0.5, 0.0, sets=3)
    assert maps.dtype == np.complex128
    np.testing.assert_allclose(np.reshape(found, (3, -1)).T, values[:, ::-1], atol=1e-10)
    weighted = np.einsum("spc,spd,sp->pcd", *_flat(maps), np.reshape(found, (3, -1)))
    np.testing.assert_allclose(weighted, matrices, atol=1e-10)
    first, _ = espirit(kspace, block, kernel, 0.5, 0.0, sets=1)
    expected = np.einsum("pc,pd->pcd", vectors[..., -1], vectors[..., -1].conj())
    np.testing.assert_allclose(projectors(first[None]), expected, atol=1e-8)


def _flat(maps):
    flat = np.moveaxis(np.asarray(maps).reshape(*maps.shape[:2], -1), 1, 2)
    return flat, flat.conj()


@pytest.mark.slow
def test_espirit_finds_the_maps_of_an_analytic_scan():
    kspace = scan()
    maps, values = (np.asarray(a) for a in espirit(kspace, (20, 20), (5, 5)))
    inside = np.asarray(rasterize(BODY, SHAPE)) > 0.3
    error = aligned_error(maps, maps_at(*pixels(SHAPE)))
    assert np.median(error[inside]) < 0.01 and np.quantile(error[inside], 0.99) < 0.05
    assert values[inside].min() > 0.95 and values.max() < 1 + 1e-4
    far = np.asarray(rasterize(Ellipses(np.zeros((1, 2)), np.full((1, 2), 1.1), [0.0], [1.0]), SHAPE)) == 0
    assert far.sum() > 100 and values[far].max() < 0.95
    np.testing.assert_array_equal(maps[:, values < 0.95], 0)
    np.testing.assert_allclose(rss(maps)[values >= 0.95], 1, rtol=1e-5)
    images = np.asarray(ifft2c(kspace))
    residual = images - maps * np.asarray(coil_combine(images, maps))
    assert np.linalg.norm(residual[:, inside]) < 0.02 * np.linalg.norm(images[:, inside])


def test_the_reference_coil_is_real_and_positive():
    kspace = scan().astype(complex)
    block = kspace[:, 13:33, 9:29].reshape(COILS, -1)
    reference = np.linalg.svd(block, full_matrices=False)[0][:, 0]
    reference *= np.exp(-1j * np.angle(reference[np.argmax(np.abs(reference))]))
    maps, _ = espirit(scan(), (20, 20), (5, 5))
    seen = np.einsum("c,cyx->yx", reference.conj(), maps)
    np.testing.assert_allclose(seen.imag, 0, atol=1e-4)
    assert seen.real.min() > -1e-4 and seen.real.max() > 0.5


@pytest.mark.slow
def test_two_sets_explain_an_object_that_folds_over():
    full = scan(textured_body(), (61, 37))
    folded = full[:, ::2] * np.float32(np.sqrt(0.5))  # half the field of view along y
    shape = folded.shape[1:]
    maps, values = (np.asarray(a) for a in espirit(folded, (25, 25), (6, 6), crop=0.9, sets=2))
    y, x = pixels(shape)
    near, over = maps_at(y / 2, x), maps_at(y / 2 + 0.5, x)

    def covered(offset):
        moved = Ellipses(np.array([[0, -offset]]), BODY.axes[:1], [0.0], [1.0])
        return np.asarray(rasterize(moved, shape, (1.0, 2.0))) > 0.99

    # Positions count rows downwards, the phantom's y upwards: half a field of view either way is one alias.
    twice = covered(0) & (covered(1) | covered(-1))
    once = covered(0) & ~twice & (np.abs(y) < 0.05)
    assert twice.sum() > 100 and once.sum() > 20
    for truth in (near, over):
        weights = np.einsum("scyx,cyx->syx", maps.conj(), truth)
        residual = truth - np.einsum("syx,scyx->cyx", weights, maps)
        assert np.median(np.linalg.norm(residual[:, twice], axis=0)) < 0.05
    assert np.median(values[1][twice]) > 0.97 and values[1][once].max() < 0.9
    images = np.asarray(ifft2c(folded))

    def unexplained(maps):
        weights = np.einsum("scyx,cyx->syx", maps.conj(), images)
        residual = images - np.einsum("syx,scyx->cyx", weights, maps)
        return np.linalg.norm(residual[:, twice]) / np.linalg.norm(images[:, twice])

    assert unexplained(maps) < 0.05 and unexplained(maps) < 0.2 * unexplained(maps[:1])


@pytest.mark.parametrize("shape, window", [((6, 9), (3, 5)), ((3, 5, 4), (1, 3, 3))])
def test_walsh_is_the_eigenvector_of_the_local_covariance(normal, shape, window):
    images = normal((2, 3, *shape), np.complex64, 1)
    maps = np.asarray(walsh(images, window))
    pad = [(0, 0), *((n // 2, n // 2) for n in window)]
    for found, coils in zip(maps, images.astype(complex), strict=True):
        padded, expected = np.pad(coils, pad), np.zeros(coils.shape, complex)
        for pixel in np.ndindex(*shape):
            around = padded[(slice(None), *(slice(p, p + n) for p, n in zip(pixel, window, strict=True)))]
            expected[(slice(None), *pixel)] = np.linalg.svd(around.reshape(3, -1))[0][:, 0]
        flat = expected.reshape(3, -1)
        overlap = np.abs(np.sum(found.reshape(3, -1).conj() * flat, axis=0))
        np.testing.assert_allclose(overlap, 1, atol=1e-4)
        np.testing.assert_allclose(rss(found.reshape(3, -1), 0), 1, rtol=1e-5)
        reference = np.linalg.svd(coils.reshape(3, -1))[0][:, 0]
        reference *= np.exp(-1j * np.angle(reference[np.argmax(np.abs(reference))]))
        seen = np.einsum("c,cp->p", reference.conj(), found.reshape(3, -1))
        np.testing.assert_allclose(seen.imag, 0, atol=1e-4)
        assert seen.real.min() > -1e-4


def test_walsh_finds_the_maps_of_an_analytic_scan():
    rng = np.random.default_rng(0)
    images = np.asarray(ifft2c(scan()))
    noise = rng.normal(size=images.shape) + 1j * rng.normal(size=images.shape)
    images = (images + 0.05 * np.abs(images).max() * noise).astype(np.complex64)
    inside = np.asarray(rasterize(BODY, SHAPE)) > 0.3
    truth = maps_at(*pixels(SHAPE))
    error = aligned_error(np.asarray(walsh(images, (5, 5))), truth)[inside]
    own = aligned_error(images / np.asarray(rss(images)), truth)[inside]
    assert np.median(error) < 0.1 and np.median(error) < np.median(own) / 2


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_any_scale_and_padded_coils_are_finite(normal, scale):
    data = np.complex64(scale) * normal((2, 3, 8, 7), np.complex64)
    data[:, 2] = 0
    maps = walsh(data, (3, 5))
    np.testing.assert_allclose(rss(maps), 1, rtol=1e-4)
    sensitivities, values = espirit(data, (6, 5), (3, 2))
    assert sensitivities.shape == data.shape and values.shape == (2, 8, 7)
    assert bool(jnp.all(jnp.isfinite(sensitivities))) and bool(jnp.all(jnp.isfinite(values)))
    if scale:
        np.testing.assert_allclose(maps[:, 2], 0, atol=1e-6)
        np.testing.assert_allclose(sensitivities[:, 2], 0, atol=1e-5)
        _, same = espirit(data[1] / np.float32(scale), (6, 5), (3, 2))
        np.testing.assert_allclose(values[1], same, atol=1e-4)
    else:
        np.testing.assert_array_equal(sensitivities, 0)


def test_espirit_reads_only_the_center(normal):
    kspace = normal((3, 8, 7), np.complex64)
    spoiled = np.full_like(kspace, 100)
    spoiled[:, 1:7, 1:6] = kspace[:, 1:7, 1:6]
    found, expected = espirit(spoiled, (6, 5), (3, 2)), espirit(kspace, (6, 5), (3, 2))
    np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.slow
def test_combined_images_of_a_measured_head_are_those_of_all_coils(measured_data):
    with h5py.File(measured_data("mri/brain_cimax3t_16ch.h5")) as file:
        kspace = file["kspace"][0]
    images = ifft2c(kspace)
    reference = np.asarray(rss(images))
    inside = reference > 0.3 * reference.max()
    maps, values = espirit(kspace, (24, 24), (5, 5))
    assert np.median(values[inside]) > 0.99 and np.mean(np.asarray(values) > 0.95) < 0.6
    for sensitivities, tolerance in ((maps, 0.05), (walsh(images, (5, 5)), 0.02)):
        combined = np.abs(np.asarray(coil_combine(images, sensitivities)))
        assert np.all(combined <= reference * (1 + 1e-4))
        error = np.linalg.norm((combined - reference)[inside]) / np.linalg.norm(reference[inside])
        assert error < tolerance


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda k: walsh_maps(k, (4, 3)), ValueError, ["window_shape", "odd", "(4, 3)"]),
        (lambda k: walsh_maps(k, (3,)), ValueError, ["window_shape", "(3,)"]),
        (lambda k: walsh_maps(k, (3, 3, 3)), ValueError, ["images", "nz, ny, nx", "(3, 8, 7)"]),
        (lambda k: espirit_maps(k, (9, 5)), ValueError, ["calibration_shape", "(8, 7)", "(9, 5)"]),
        (lambda k: espirit_maps(k, (6, 5.0)), TypeError, ["calibration_shape", "float"]),
        (lambda k: espirit_maps(k, (6, 5)), ValueError, ["kernel_shape", "(6, 5)", "(6, 6)"]),
        (lambda k: espirit_maps(k, (6, 5), (2, 2, 2)), ValueError, ["kernel_shape", "(2, 2, 2)"]),
        (lambda k: espirit_maps(k, (6, 5), (2, 2), sets=4), ValueError, ["sets", "3", "4"]),
        (lambda k: espirit_maps(k[0], (6, 5), (2, 2)), ValueError, ["kspace", "(8, 7)"]),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make(jnp.ones((3, 8, 7), jnp.complex64))
    for word in words:
        assert word in str(caught.value)


def test_support_steps_smoothly_from_the_floor_to_one():
    """Relative to the largest eigenvalue; halfway up at 0.925 of it."""
    values = 0.4 * jnp.array([[0.0, 0.85, 0.925], [1.0, 1.0, 1.0]])
    expected = [[0.2, 0.2, 0.6], [1, 1, 1]]
    np.testing.assert_allclose(espirit_support(values, 0.2), expected, atol=1e-5)
    near = espirit_support(0.4 * jnp.array([0.85 + 0.15 / 4, 1.0]), 0.0)
    # 3 t^2 - 2 t^3 at a quarter.
    assert near[0] == pytest.approx(5 / 32, abs=1e-4)
    np.testing.assert_array_equal(espirit_support(jnp.zeros((2, 2))), np.full((2, 2), 0.5, np.float32))
