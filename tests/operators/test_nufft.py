"""The non-uniform Fourier transform against direct sums, on every backend."""

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import operators
from operators.fourier.nufft_kernel import choose_layout, toeplitz_is_cheaper
from tests.operators.conftest import complex_normal, relative

BACKENDS = ("auto", "jax")
# Where plain JAX would compile for long.
QUICKLY = ("auto", pytest.param("jax", marks=pytest.mark.slow))
# Odd, even, prime, not square and of one pixel, in one to three dimensions. Every combination is compiled, so
# coils and accuracy go with the shape.
SHAPES = ((1,), (13,), (1, 8), (12, 9), (5, 4, 6), (7, 1, 3))
COILS = dict(zip(SHAPES, (1, 9, 3, 4, 9, 1), strict=True))
SINGLE = dict(zip(SHAPES, (1e-6, 1e-3, 1e-3, 1e-6, 1e-3, 1e-6), strict=True))
DOUBLE = dict(zip(SHAPES, (1e-6, 1e-12, 1e-12, 1e-6, 1e-12, 1e-6), strict=True))
SAMPLES = (0, 1, 37)


def direct(trajectory, image, sign=-1):
    """``N^(-1/2) sum_n image_n exp(sign 2 pi i k . (n - N // 2))`` in double precision."""
    grid = np.meshgrid(*(np.arange(n) - n // 2 for n in image.shape), indexing="ij")
    phase = np.tensordot(np.asarray(trajectory, np.float64), np.stack(grid), 1)
    return np.tensordot(np.exp(sign * 2j * np.pi * phase), image, image.ndim) / np.sqrt(image.size)


def direct_adjoint(trajectory, samples, shape):
    grid = np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij")
    phase = np.tensordot(np.asarray(trajectory, np.float64), np.stack(grid), 1)
    return np.tensordot(samples, np.exp(2j * np.pi * phase), 1) / np.sqrt(np.prod(shape))


both = jax.jit(lambda A, image, samples: (A(image), A.H(samples)))
there_and_back = jax.jit(lambda A, image: (y := A(image), A.H(y)))


def assert_adjoint(image, forward, samples, back, tolerance):
    """Forward and adjoint are each other's, however accurate they are."""
    image, forward, samples, back = (np.asarray(a, complex) for a in (image, forward, samples, back))
    scale = np.linalg.norm(forward) * np.linalg.norm(samples)
    assert abs(np.vdot(samples, forward) - np.vdot(back, image)) <= tolerance * scale


def radial(spokes, samples):
    angles = np.arange(spokes) * np.pi / spokes
    radius = (np.arange(samples) - samples // 2) / samples
    return np.stack([np.outer(np.sin(angles), radius), np.outer(np.cos(angles), radius)], -1).reshape(-1, 2)


@st.composite
def cases(draw):
    """Image, trajectory and data: anywhere, beyond the period, on grid points, or all in one place."""
    shape = draw(st.sampled_from(SHAPES))
    samples = draw(st.sampled_from(SAMPLES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(("uniform", "outside", "grid", "duplicates", "edges")))
    size = (samples, len(shape))
    trajectory = {
        "uniform": lambda: rng.uniform(-0.5, 0.5, size),
        "outside": lambda: rng.uniform(-3, 3, size),
        "grid": lambda: rng.integers(-8, 8, size) / 16,
        "duplicates": lambda: np.tile(rng.uniform(-0.5, 0.5, size[1:]), (samples, 1)),
        "edges": lambda: rng.choice([-0.5, 0.5, np.nextafter(0.5, 0), 0.0, -0.0], size),
    }[kind]()
    return shape, trajectory, rng


@pytest.mark.parametrize("backend", QUICKLY)
@settings(max_examples=120, deadline=None)
@given(case=cases())
def test_single_precision_is_as_accurate_as_eps(backend, case):
    shape, trajectory, rng = case
    eps = SINGLE[shape]
    trajectory = trajectory.astype(np.float32)
    A = operators.NUFFT(trajectory, shape, eps=eps, backend=backend, periodic=True, gram_by_toeplitz=False)
    image, samples = complex_normal(rng, shape, np.complex64), complex_normal(rng, A.out_shape, np.complex64)
    # Rounding is relative to the sum of magnitudes, not to a sum that happens to cancel.
    rounding = 2e-6 * np.linalg.norm(image) * np.sqrt(len(trajectory) / image.size)
    forward, back = both(A, image, samples)
    error = np.linalg.norm(forward - direct(trajectory, image))
    largest = np.sqrt(len(trajectory) * image.size) / np.sqrt(image.size) * np.linalg.norm(image)
    assert forward.dtype == back.dtype == np.complex64
    assert error <= max(eps * largest, rounding)
    error = np.linalg.norm(back - direct_adjoint(trajectory, samples, shape))
    assert error <= eps * np.sqrt(len(trajectory)) * np.linalg.norm(samples) + 1e-6
    assert_adjoint(image, forward, samples, back, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_double_precision_is_as_accurate_as_eps(backend, case):
    shape, trajectory, rng = case
    eps = DOUBLE[shape]
    with jax.enable_x64(True):
        A = operators.NUFFT(
            trajectory, shape, eps=eps, backend=backend, periodic=True, gram_by_toeplitz=False
        )
        image = complex_normal(rng, shape, np.complex128)
        samples = complex_normal(rng, A.out_shape, np.complex128)
        largest = np.sqrt(len(trajectory)) * np.linalg.norm(image)
        forward, back = both(A, image, samples)
        assert np.linalg.norm(forward - direct(trajectory, image)) <= eps * largest
        bound = eps * np.sqrt(len(trajectory)) * np.linalg.norm(samples)
        assert np.linalg.norm(back - direct_adjoint(trajectory, samples, shape)) <= bound
        assert_adjoint(image, forward, samples, back, 1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("shape", "samples", "eps"),
    [((40,), 300, 1e-3), ((9, 10, 8), 2000, 1e-2), ((24, 31), 1500, 1e-4), ((24, 31), 1500, 1e-6)]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [((40,), 300, 1e-6), ((9, 10, 8), 2000, 1e-5)]
        + [((24, 31), 1500, eps) for eps in (1e-2, 1e-3, 1e-5)]
    ],
)
def test_relative_error_on_full_images(backend, shape, samples, eps):
    rng = np.random.default_rng(0)
    trajectory = rng.uniform(-0.5, 0.5, (samples, len(shape))).astype(np.float32)
    image, data = complex_normal(rng, shape, np.complex64), complex_normal(rng, (samples,), np.complex64)
    embedded, plain = (
        operators.NUFFT(trajectory, shape, eps=eps, backend=backend, gram_by_toeplitz=embed)
        for embed in (True, False)
    )

    @jax.jit
    def everything(embedded, plain):
        forward = plain(image)
        return forward, plain.H(data), plain.H(forward), plain.gram(image), embedded.gram(image)

    forward, back, both_ways, gram, fast = map(np.asarray, everything(embedded, plain))
    assert relative(forward, direct(trajectory, image)) <= eps
    assert relative(back, direct_adjoint(trajectory, data, shape)) <= eps
    assert relative(fast, gram) <= eps
    assert relative(gram, both_ways) <= 1e-6


def test_toeplitz_grams_are_taken_where_they_were_measured_to_be_faster():
    def cheaper(shape, samples, eps):
        return toeplitz_is_cheaper(choose_layout(shape, samples, eps, False), shape, samples)

    assert cheaper((96, 96, 96), 768_000, 1e-5) and not cheaper((96, 96, 96), 768_000, 2e-4)
    assert cheaper((256, 256), 207_360, 2e-3)
    assert not cheaper((320, 320), 40_960, 2e-3) and not cheaper((64, 60, 50), 100_000, 2e-3)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_backends_agree(case):
    shape, trajectory, rng = case
    maps = complex_normal(rng, (COILS[shape], *shape), np.complex64)
    image = complex_normal(rng, shape, np.complex64)
    results = []
    for backend in BACKENDS:
        A = operators.NUFFT(
            trajectory.astype(np.float32),
            shape,
            eps=1e-4,
            backend=backend,
            periodic=True,
            gram_by_toeplitz=False,
        )
        results.append(there_and_back(operators.SENSE(A, maps), image))
    for auto, plain in zip(*results, strict=True):
        # A point within rounding of half a cell may take other taps: equal to the accuracy asked for.
        assert np.linalg.norm(auto - plain) <= 1e-4 * max(np.linalg.norm(plain), 1e-6) + 1e-6


@pytest.mark.parametrize("backend", QUICKLY)
def test_is_a_linear_operator(assert_linear_operator, backend, normal):
    A = operators.NUFFT(0.5 * np.tanh(normal((30, 2))), (9, 8), backend=backend, gram_by_toeplitz=False)
    assert_linear_operator(A)
    assert_linear_operator(operators.SENSE(A, normal((3, 9, 8), np.complex64)))
    assert_linear_operator(operators.NUFFT(0.4 * np.tanh(normal((30, 2))), (9, 8)).toeplitz(np.ones(30)))


def test_cartesian_samples_are_those_of_the_fft(normal):
    shape = (8, 11)
    image = normal((2, *shape), np.complex64)
    A = operators.NUFFT(operators.mri.cartesian_trajectory(shape).reshape(-1, 2), shape, eps=1e-6)
    np.testing.assert_allclose(A(image).reshape(image.shape), operators.fft2c(image), atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sample_that_is_not_a_number_spoils_itself_alone(backend, normal):
    # Traced trajectories cannot be checked: the answer must neither crash nor spread.
    trajectory = jnp.asarray(0.4 * np.tanh(normal((20, 2)))).at[7, 1].set(jnp.nan).at[9, 0].set(jnp.inf)
    y = jax.jit(lambda t, x: operators.NUFFT(t, (8, 8), backend=backend, gram_by_toeplitz=False)(x))(
        trajectory, normal((8, 8), np.complex64)
    )
    assert np.flatnonzero(~np.isfinite(np.asarray(y))).tolist() == [7, 9]


@pytest.mark.parametrize("weights", [None, "density"])
def test_toeplitz_of_weights_is_the_weighted_gram(weights, normal):
    trajectory = radial(12, 24).astype(np.float32)
    A = operators.NUFFT(trajectory, (12, 11), eps=1e-5, gram_by_toeplitz=False)
    weights = None if weights is None else np.hypot(*trajectory.T) + 0.01
    image = normal((2, 12, 11), np.complex64)
    assert relative(A.toeplitz(weights)(image), np.asarray(A.gram(image, weights))) < 1e-5
    embedded = operators.NUFFT(trajectory, (12, 11), eps=1e-5, gram_by_toeplitz=True)
    assert relative(embedded.gram(image, weights), np.asarray(A.gram(image, weights))) < 1e-5
    maps = normal((3, 12, 11), np.complex64)
    B = operators.SENSE(A, maps)
    fast = np.sum(maps.conj() * A.toeplitz(weights)(maps * image[:, None]), 1)
    assert relative(fast, np.asarray(B.gram(image, weights))) < 1e-5
    assert relative(operators.SENSE(embedded, maps).gram(image, weights), fast) < 1e-5


@pytest.mark.parametrize("number", [1, 2])
def test_agrees_with_the_direct_transform_of_the_chemnitz_library(number, measured_data):
    with jax.enable_x64(True), h5py.File(measured_data(f"reference/ndft2d_chemnitz_{number}.h5")) as file:
        image, points = file["image"][:], file["points"][:]
        A = operators.NUFFT(points, image.shape, eps=1e-11)
        assert relative(A(image + 0j) * np.sqrt(image.size), file["forward"][:]) < 1e-10
        back = A.H(file["adjoint_input"][:]) * np.sqrt(image.size)
        assert relative(back, file["adjoint"][:]) < 1e-10


def test_agrees_with_stored_torchkbnufft_outputs_to_their_own_accuracy(measured_data):
    with jax.enable_x64(True), h5py.File(measured_data("reference/nufft_torchkbnufft.h5")) as file:
        group = file["case0"]
        image, expected = group["image"][:], group["kdata"][:]
        trajectory = operators.fourier.from_radians(group["traj_rad"][:].T)
        A = operators.NUFFT(trajectory, image.shape[-2:], eps=1e-9)
        found = A(image) * np.sqrt(np.prod(image.shape[-2:]))
        assert relative(found, expected) < 1.05 * group.attrs["rel_err_vs_direct_sum"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (((np.zeros((5, 3)), (8, 8))), "trajectory"),
        ((np.full((5, 2), np.nan), (8, 8)), "trajectory"),
        ((np.linspace(-3.1, 3.1, 20).reshape(10, 2), (8, 8)), "radians"),
        ((np.linspace(-60, 60, 20).reshape(10, 2), (128, 128)), "from_per_fov"),
        ((np.zeros((5, 2)), (8, 0)), "image_shape"),
        ((np.zeros((5, 2)), (8, 8), 0.0), "eps"),
        ((np.zeros((5, 2)), (8, 8), 1e-9), "eps"),
        ((np.zeros((5, 2)), (8, 8), 1e-3, "gpu"), "backend"),
        ((np.zeros((5, 4)), (8, 8, 8, 8)), "image_shape"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        operators.NUFFT(*arguments)


def test_bad_data_are_named(normal):
    A = operators.NUFFT(0.4 * np.tanh(normal((20, 2))), (8, 9))
    with pytest.raises(ValueError, match=r"NUFFT: expected .*8, 9.* found \(9, 8\)"):
        A(normal((9, 8), np.complex64))
    with pytest.raises(ValueError, match=r"NUFFT\.H"):
        A.H(normal((19,), np.complex64))
    with pytest.raises(ValueError, match="coil_maps"):
        operators.SENSE(A, normal((3, 9, 8), np.complex64))
    with pytest.raises(TypeError, match="real"):
        operators.NUFFT(np.zeros((5, 2), np.complex64), (8, 8))
    stacked = operators.NUFFT(0.4 * np.tanh(normal((3, 20, 2))), (8, 9))
    with pytest.raises(ValueError, match="leading axes"):
        stacked(normal((2, 8, 9), np.complex64))
