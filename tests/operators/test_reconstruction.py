"""Reconstructions against closed forms, optimality conditions and independent minimizers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from operators import (
    NUFFT,
    SENSE,
    BlockDiagonal,
    CartesianFourier,
    Diagonal,
    Identity,
    ParallelBeam,
    Radon,
    Wavelet,
    cg_sense,
    ifft2c,
    l1_wavelet,
    poisson_disc_mask,
    rasterize,
    shepp_logan,
    total_variation,
)
from operators.mri import coil_combine, estimate_coil_maps
from operators.solvers import (
    gridding,
    locally_low_rank,
    prox_locally_low_rank,
    prox_wavelet,
    total_generalized_variation,
)


def sense(normal, dtype=np.complex64, shape=(6, 5), coils=3, seed=0):
    real = np.zeros((), dtype).real.dtype
    mask = (np.random.default_rng(seed).random(shape) < 0.6).astype(real)
    return SENSE(CartesianFourier(shape, mask), normal((coils, *shape), dtype))


def radon(shape=(16, 14)):
    return Radon(ParallelBeam(np.linspace(0, np.pi, 12, endpoint=False), 24), shape)


def test_gridding_with_the_right_density_inverts(x64, normal):
    weights = 0.5 + np.random.default_rng(0).random((6, 5))
    A = CartesianFourier((6, 5), weights)
    x = normal((2, 6, 5), np.complex128)
    np.testing.assert_allclose(gridding(A, A(x), weights**-2.0), x, atol=1e-12)
    np.testing.assert_array_equal(gridding(A, A(x)), A.H(A(x)))
    # One weight per column for every coil.
    S, y = sense(normal, np.complex128), normal((3, 6, 5), np.complex128)
    np.testing.assert_allclose(gridding(S, y, np.arange(5)), S.H(np.arange(5) * y), atol=1e-12)


@pytest.mark.slow
def test_l1_wavelet_of_a_full_measurement_is_a_threshold(x64, normal):
    A = CartesianFourier((12, 9), dtype=np.complex128)
    y = normal((2, 12, 9), np.complex128)
    found = jax.jit(lambda y: l1_wavelet(A, y, 0.3, wavelet="db2", levels=2, iterations=40))(y)
    W = Wavelet((12, 9), "db2", 2)
    threshold = jax.jit(prox_wavelet)
    for image, kspace in zip(found, y, strict=True):
        noisy = A.H(kspace)
        expected = threshold(noisy, 0.3 * np.abs(noisy).max(), W)
        np.testing.assert_allclose(image, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_l1_wavelet_satisfies_the_subgradient_conditions(scale, x64, normal):
    A, W = sense(normal, np.complex128, (12, 10)), Wavelet((12, 10), "haar", 2)
    image = np.asarray(rasterize(shepp_logan(), (12, 10)))
    y = scale * (A(image) + 0.1 * normal(A.out_shape, np.complex128))
    solve = jax.jit(lambda y: l1_wavelet(A, y, 0.02, wavelet="haar", levels=2, iterations=1500))
    x = solve(y)
    weight = 0.02 * np.abs(A.H(y)).max()
    coefficients, slope = np.asarray(W(x)), np.asarray(W(A.H(y - A(x))))
    support = (np.abs(coefficients) > 1e-6 * scale) & W.details
    assert 5 < support.sum() < 110
    assert np.abs(slope[~W.details]).max() < 1e-6 * weight
    expected = weight * coefficients[support] / np.abs(coefficients[support])
    np.testing.assert_allclose(slope[support], expected, atol=1e-5 * weight)
    assert np.abs(slope[~support]).max() <= weight * (1 + 1e-6)


def test_cycle_spinning_improves_a_denoised_image(normal):
    image = np.asarray(rasterize(shepp_logan(), (32, 32)))
    noisy = (image + 0.1 * normal((32, 32))).astype(np.float32)

    @jax.jit
    def solve(key):
        return l1_wavelet(Identity((32, 32)), noisy, 0.15, wavelet="haar", levels=3, iterations=40, key=key)

    def error(key):
        return np.linalg.norm(solve(key) - image)

    plain, spun = error(None), error(jax.random.key(0))
    assert spun < 0.9 * plain < 0.9 * np.linalg.norm(noisy - image)
    assert error(jax.random.key(0)) == spun


def test_a_tolerance_ends_a_run_whose_scatter_never_ends(normal):
    """The mean of the images comes to rest, nearer to the mean over all shifts than single images are."""
    image = np.asarray(rasterize(shepp_logan(), (32, 32)))
    noisy = (image + 0.1 * normal((32, 32))).astype(np.float32)
    A = Identity((32, 32))

    @functools.partial(jax.jit, static_argnames="iterations")
    def solve(key, tolerance, iterations=400):
        options = {"wavelet": "haar", "levels": 3, "key": key, "return_info": True}
        return l1_wavelet(A, noisy, 0.15, iterations=iterations, tolerance=tolerance, **options)

    key = jax.random.key(0)
    x, info = solve(key, 1e-2)
    assert info.converged and info.change <= 1e-2 and 10 < info.iterations < 400
    fixed, fixed_info = solve(key, None, int(info.iterations))
    np.testing.assert_allclose(fixed, x, atol=1e-6)
    assert not fixed_info.converged and fixed_info.iterations == info.iterations
    _, last = solve(key, 1e-2, int(info.iterations))
    assert last.converged and last.iterations == info.iterations
    _, bounded = solve(key, 1e-9, 5)
    assert not bounded.converged and bounded.iterations == 5
    # Of denoising, every step gives the threshold of one shift: all 64 of them have this mean.
    prox, W = jax.jit(prox_wavelet), Wavelet((32, 32), "haar", 3, np.float32)
    weight = 0.15 * np.abs(noisy).max()
    shifts = np.stack(np.unravel_index(np.arange(64), (8, 8)), -1)
    single = [np.roll(prox(np.roll(noisy, s, (0, 1)), weight, W), -s, (0, 1)) for s in shifts]
    mean = np.mean(single, axis=0)
    scatter = np.mean([np.linalg.norm(one - mean) for one in single])
    assert np.linalg.norm(x - mean) < 0.5 * scatter


def series(normal, frames=8, shape=(12, 10), dtype=np.complex64):
    """A moving contrast of rank two and its undersampled measurement, every frame with a mask of its own."""
    rng, maps = np.random.default_rng(0), jnp.asarray(normal((2, *shape), dtype))
    masks = (rng.random((frames, *shape)) < 0.35).astype(np.zeros((), dtype).real.dtype)
    A = BlockDiagonal([SENSE(CartesianFourier(shape, mask), maps) for mask in masks])
    image = np.asarray(rasterize(shepp_logan(), shape))
    other = np.roll(image, 3, 0)
    time = np.linspace(0, 1, frames)[:, None, None]
    return A, (image * (1 + time) + 1j * time**2 * other).astype(dtype)


def test_locally_low_rank_of_a_full_measurement_is_a_threshold(x64, normal):
    A = BlockDiagonal([Identity((6, 7), np.complex128)] * 4)
    y = normal((4, 6, 7), np.complex128)
    x = jax.jit(lambda y: locally_low_rank(A, y, 0.2, block_shape=(4, 3), iterations=40))(y)
    blocks = [y[:, i : i + 4, j : j + 3] for i in (0, 4) for j in (0, 3, 6)]
    weight = 0.2 * max(np.linalg.norm(b) for b in blocks)
    np.testing.assert_allclose(x, prox_locally_low_rank(y, weight, (4, 3)), atol=1e-8)


@pytest.mark.slow
def test_locally_low_rank_is_a_minimum_and_recovers_a_series(x64, normal):
    A, truth = series(normal, dtype=np.complex128)
    y = A(truth)
    solve = jax.jit(
        lambda y, key=None: locally_low_rank(A, y, 2e-3, block_shape=(6, 5), iterations=300, key=key)
    )
    x = solve(y)
    back = np.asarray(A.H(y))
    blocks = [back[:, i : i + 6, j : j + 5] for i in (0, 6) for j in (0, 5)]
    weight = 2e-3 * max(np.linalg.norm(b) for b in blocks)
    step = 0.05
    again = prox_locally_low_rank(x - step * A.H(A(x) - y), step * weight, (6, 5))
    np.testing.assert_allclose(again, x, atol=1e-6)

    def error(x):
        return np.linalg.norm(x - truth) / np.linalg.norm(truth)

    assert error(x) < 0.05 < 0.2 < error(cg_sense(A, y))
    spun = solve(y, jax.random.key(1))
    assert error(spun) < 0.05 and np.abs(spun - x).max() > 1e-6
    np.testing.assert_array_equal(spun, solve(y, jax.random.key(1)))


ONE_LINERS = {
    "l1": lambda A, y: l1_wavelet(A, y, 0.01, wavelet="haar", levels=1, iterations=8, key=jax.random.key(2)),
    "tgv": lambda A, y: total_generalized_variation(A, y, 0.02, iterations=8),
    "llr": lambda A, y: locally_low_rank(A, y, 0.01, block_shape=(3, 4), iterations=8),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["l1", "tgv", "llr"])
def test_batches_over_devices_are_the_images_one_by_one(kind, normal):
    """Whatever their scales; and real images stay real."""
    if kind == "llr":
        A, _ = series(normal, 2, (6, 5))
    else:
        A = Diagonal(np.abs(normal((6, 5)))) if kind == "tgv" else sense(normal)
    y = normal((4, *A.out_shape), A.out_dtype)
    y[1] *= 1e-4
    if jax.device_count() < 2:
        pytest.skip("needs 2 devices")
    auto = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((2,), ("clients",), (auto,), devices=jax.devices()[:2])
    specs = (PartitionSpec(), PartitionSpec("clients"))
    sharded = jax.shard_map(ONE_LINERS[kind], mesh=mesh, in_specs=specs, out_specs=PartitionSpec("clients"))
    together, alone = jax.jit(sharded)(A, y), jax.jit(ONE_LINERS[kind])
    assert together.shape == (4, *A.in_shape) and together.dtype == A.in_dtype
    for image, measured in zip(together, y, strict=True):
        np.testing.assert_allclose(image, alone(A, measured), atol=2e-4 * np.abs(image).max())


def test_gradients_in_data_and_coil_maps(x64, normal):
    A = sense(normal, np.complex128)
    y, probe = normal(A.out_shape, np.complex128, 1), normal(A.in_shape, np.complex128, 2)
    directions = normal(y.shape, np.complex128, 3), normal(A.coil_maps.shape, np.complex128, 4)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(y, maps):
        x = l1_wavelet(SENSE(A.fourier, maps), y, 0.01, wavelet="haar", levels=1, iterations=8)
        return jnp.sum((probe.conj() * x).real)

    values = (jnp.asarray(y), A.coil_maps)
    gradient = loss(*values)[1]
    # JAX's gradients of real functions of complex arrays are conjugated.
    slope = sum(np.sum(np.asarray(g) * d).real for g, d in zip(gradient, directions, strict=True))
    ahead, behind = (
        loss(*(v + h * d for v, d in zip(values, directions, strict=True)))[0] for h in (1e-6, -1e-6)
    )
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-5)
    # Where nothing was measured the image is zero and the gradients are finite.
    value, gradient = loss(0 * values[0], values[1])
    assert value == 0 and all(bool(jnp.all(jnp.isfinite(g))) for g in gradient)


@pytest.mark.slow
def test_non_cartesian_measurements(normal):
    """All of it on a NUFFT, for one image and, with a trajectory per frame, for a series."""
    shape, rng = (12, 10), np.random.default_rng(0)
    image = np.asarray(rasterize(shepp_logan(), shape)).astype(np.complex64)
    maps = jnp.asarray(normal((2, *shape), np.complex64))
    frames = [SENSE(NUFFT(rng.uniform(-0.5, 0.5, (150, 2)), shape), maps) for _ in range(3)]

    def error(x):
        return np.linalg.norm(x - image) / np.linalg.norm(image) / np.sqrt(np.size(x) / image.size)

    @jax.jit
    def single(A, y):
        sparse = l1_wavelet(A, y, 1e-4, wavelet="haar", iterations=200)
        return gridding(A, y, jnp.ones(150)), sparse, total_generalized_variation(A, y, 1e-3)

    A = frames[0]
    gridded, sparse, smooth = single(A, A(image))
    np.testing.assert_allclose(gridded, A.H(A(image)), rtol=1e-3, atol=1e-4)
    assert error(sparse) < 0.01 and error(smooth) < 0.05
    A = BlockDiagonal(frames)
    moving = jax.jit(lambda A, y: locally_low_rank(A, y, 1e-3, block_shape=(4, 4), iterations=100))
    assert error(moving(A, A(jnp.stack([image] * 3)))) < 0.05


@pytest.mark.slow
def test_measured_brain(measured_data):
    """Sparse and smooth models beat least squares on a retrospectively undersampled head."""
    import h5py

    with h5py.File(measured_data("mri/brain_cimax3t_16ch.h5")) as file:
        kspace = jnp.asarray(file["kspace"][0, ::4])
    maps = estimate_coil_maps(kspace, (24, 24))
    reference = coil_combine(ifft2c(kspace), maps)
    mask = poisson_disc_mask(1, kspace.shape[-2:], 8, (20, 20))
    A = SENSE(CartesianFourier(kspace.shape[-2:], mask), maps)
    y = mask * kspace
    peak = float(jnp.max(jnp.abs(A.H(y))))
    head = jnp.abs(reference) > 0.05 * jnp.abs(reference).max()

    def error(x):
        return float(jnp.linalg.norm((x - reference)[head]) / jnp.linalg.norm(reference[head]))

    sparse = jax.jit(lambda A, y, key: l1_wavelet(A, y, 5e-3, iterations=20, key=key))
    smooth = jax.jit(lambda A, y: total_generalized_variation(A, y, 5e-3 * peak, iterations=60))
    plain = error(cg_sense(A, y, iterations=15))
    assert error(sparse(A, y, jax.random.key(0))) < 0.9 * plain
    assert error(smooth(A, y)) < 0.9 * plain


def ones(*shape):
    return jnp.ones(shape, complex)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda A: gridding(A, ones(2, 6, 5)), ValueError, ["y", "(2, 6, 5)"]),
        (lambda A: gridding(A, ones(3, 6, 5), np.ones(6)), ValueError, ["density", "(6,)"]),
        (lambda A: gridding(A, ones(3, 6, 5), np.ones(5) * 1j), TypeError, ["density", "complex"]),
        (lambda A: total_variation(A, ones(2, 6, 5), 0.1), ValueError, ["y", "(2, 6, 5)"]),
        (lambda A: total_variation(Identity((4,)), jnp.ones(4), 0.1), ValueError, ["(4,)"]),
        (lambda A: total_generalized_variation(Identity((4,)), jnp.ones(4), 0.1), ValueError, ["(4,)"]),
        (lambda A: l1_wavelet(A, ones(2, 6, 5), 0.1), ValueError, ["l1_wavelet: y", "(2, 6, 5)"]),
        (lambda A: l1_wavelet(A, ones(3, 6, 5), 0.1, wavelet="x"), ValueError, ["wavelet", "'x'"]),
        (lambda A: locally_low_rank(A, ones(3, 6, 5), 0.1), ValueError, ["frames", "(6, 5)"]),
    ],
)
def test_errors(call, error, words, normal):
    with pytest.raises(error) as caught:
        call(sense(normal))
    for word in words:
        assert word in str(caught.value)
