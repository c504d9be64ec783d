"""The non-uniform Fourier transform under ``grad``, ``vmap``, ``shard_map`` and ``jit``."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import operators
from tests.operators.conftest import complex_normal, relative

# Where plain JAX would compile for long.
QUICKLY = ("auto", pytest.param("jax", marks=pytest.mark.slow))


@pytest.mark.parametrize(
    ("shape", "coils", "backend"),
    [
        ((5, 6), 2, "auto"),
        pytest.param((5, 6), 2, "jax", marks=pytest.mark.slow),
        pytest.param((7,), 1, "auto", marks=pytest.mark.slow),
        pytest.param((3, 4, 3), 2, "auto", marks=pytest.mark.slow),
    ],
)
def test_gradients_are_those_of_the_direct_sum(shape, coils, backend):
    """In every argument, forwards and backwards, for transform, adjoint and gram, in double precision."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        trajectory = rng.uniform(-0.5, 0.5, (8, len(shape)))
        grid = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij"))
        maps = complex_normal(rng, (coils, *shape), np.complex128)
        image = complex_normal(rng, shape, np.complex128)
        data = complex_normal(rng, (coils, 8), np.complex128)

        def fast(trajectory, maps):
            A = operators.NUFFT(trajectory, shape, eps=1e-12, backend=backend)
            return operators.SENSE(A, maps)

        def matrix(trajectory):
            phase = jnp.tensordot(trajectory, jnp.asarray(grid, trajectory.dtype), 1)
            return jnp.exp(-2j * jnp.pi * phase) / np.sqrt(image.size)

        def exact_forward(trajectory, maps, image):
            flat = (maps * image).reshape(len(maps), -1)
            return flat @ matrix(trajectory).reshape(8, -1).T

        def exact_adjoint(trajectory, maps, data):
            images = (data @ matrix(trajectory).reshape(8, -1).conj()).reshape(maps.shape)
            return jnp.sum(maps.conj() * images, 0)

        pairs = (
            (lambda t, m, x: fast(t, m)(x), exact_forward, image),
            (lambda t, m, y: fast(t, m).H(y), exact_adjoint, data),
            (
                lambda t, m, x: fast(t, m).gram(x),
                lambda t, m, x: exact_adjoint(t, m, exact_forward(t, m, x)),
                image,
            ),
        )
        for found, exact, argument in pairs:
            args = (trajectory, maps, argument)
            tangents = (rng.standard_normal(trajectory.shape), 0.5 * maps[::-1], argument[::-1] * 1j)
            cotangent = complex_normal(rng, jax.eval_shape(exact, *args).shape, np.complex128)

            @functools.partial(jax.jit, static_argnums=0)
            def derivatives(function, args, tangents, cotangent):
                return jax.jvp(function, args, tangents), jax.vjp(function, *args)[1](cotangent)

            (value, tangent), pulled = derivatives(found, args, tangents, cotangent)
            (expected, expected_tangent), exact_pulled = derivatives(exact, args, tangents, cotangent)
            assert relative(value, np.asarray(expected)) < 1e-10
            assert relative(tangent, np.asarray(expected_tangent)) < 1e-10
            for got, wanted in zip(pulled, exact_pulled, strict=True):
                assert relative(got, np.asarray(wanted)) < 1e-10


@pytest.mark.slow
def test_second_derivative_in_the_trajectory():
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        image, trajectory = rng.standard_normal((4, 5)) + 0j, rng.uniform(-0.5, 0.5, (3, 2))

        def energy(t):
            return jnp.sum(jnp.abs(operators.NUFFT(t, (4, 5), eps=1e-12)(image)) ** 2)

        step = 1e-5
        gradient = jax.jit(jax.grad(energy))
        hessian = jax.jit(jax.hessian(energy))(trajectory)
        for index in np.ndindex(trajectory.shape):
            move = np.zeros_like(trajectory)
            move[index] = step
            difference = (gradient(trajectory + move) - gradient(trajectory - move)) / (2 * step)
            np.testing.assert_allclose(hessian[index], difference, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backend", QUICKLY)
def test_vmap_over_anything_is_a_loop(backend, normal):
    shape = (6, 7)
    trajectories = 0.5 * np.tanh(normal((3, 20, 2)))
    maps, images = normal((3, 2, *shape), np.complex64), normal((3, *shape), np.complex64)

    def forward(trajectory, maps, image):
        A = operators.SENSE(operators.NUFFT(trajectory, shape, backend=backend, gram_by_toeplitz=False), maps)
        return A(image), A.H(A(image))

    for axes in ((0, 0, 0), (0, None, None), (None, None, 0), (None, 0, 0)):
        args = [a if axis == 0 else a[0] for a, axis in zip((trajectories, maps, images), axes, strict=True)]
        batched = jax.vmap(forward, axes)(*args)
        for i in range(3):
            one = forward(*(a[i] if axis == 0 else a for a, axis in zip(args, axes, strict=True)))
            for whole, part in zip(batched, one, strict=True):
                np.testing.assert_allclose(whole[i], part, atol=1e-5)
    nested = jax.vmap(jax.vmap(forward, (None, 0, None)), (0, None, 0))(trajectories, maps, images)
    np.testing.assert_allclose(nested[0][1, 2], forward(trajectories[1], maps[2], images[1])[0], atol=1e-5)


@pytest.mark.slow
def test_a_leading_axis_of_trajectories_stacks_operators(normal):
    shape = (6, 5)
    trajectories, images = 0.5 * np.tanh(normal((3, 11, 2))), normal((2, 3, *shape), np.complex64)
    A = operators.NUFFT(trajectories, shape, gram_by_toeplitz=True)
    y, gram = A(images), A.gram(images)
    assert y.shape == (2, 3, 11) and A.H(y).shape == images.shape
    for i in range(3):
        B = operators.NUFFT(trajectories[i], shape, gram_by_toeplitz=True)
        np.testing.assert_allclose(y[:, i], B(images[:, i]), atol=1e-5)
        np.testing.assert_allclose(gram[:, i], B.gram(images[:, i]), atol=1e-4)
    np.testing.assert_allclose(
        A(images[0, 0])[2], operators.NUFFT(trajectories[2], shape)(images[0, 0]), atol=1e-5
    )
    stacked = jax.vmap(lambda t: operators.NUFFT(t, shape))(trajectories)
    np.testing.assert_allclose(jax.vmap(lambda A, x: A(x))(stacked, images[0]), y[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", QUICKLY)
def test_sharded_equals_unsharded_with_gradients(backend, normal):
    if jax.device_count() < 2:
        pytest.skip("needs two devices")
    shape = (6, 7)
    trajectories, images = 0.5 * np.tanh(normal((2, 20, 2))), normal((2, *shape), np.complex64)
    shared = trajectories[0]

    def loss(shared, trajectory, image):
        y = operators.NUFFT(trajectory, shape, backend=backend)(image)
        return jnp.sum(jnp.abs(operators.NUFFT(shared, shape, backend=backend).gram(image)) ** 2) + jnp.sum(
            jnp.abs(y) ** 2
        )

    def local(shared, trajectories, images):
        shared = jax.lax.pcast(shared, "clients", to="varying")
        value, gradients = jax.value_and_grad(loss, (0, 1, 2))(shared, trajectories[0], images[0])
        summed = jax.lax.psum((value, gradients[0]), "clients")
        return *summed, gradients[1][None], gradients[2][None]

    mesh = jax.make_mesh(
        (2,), ("clients",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
    )
    specs = (P(), P("clients"), P("clients"))
    sharded = jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(P(), P(), P("clients"), P("clients")))
    )(shared, trajectories, images)
    parts = [jax.value_and_grad(loss, (0, 1, 2))(shared, trajectories[i], images[i]) for i in range(2)]
    np.testing.assert_allclose(sharded[0], parts[0][0] + parts[1][0], rtol=1e-5)
    np.testing.assert_allclose(sharded[1], parts[0][1][0] + parts[1][1][0], rtol=1e-3, atol=1e-2)
    for i in range(2):
        np.testing.assert_allclose(sharded[2][i], parts[i][1][1], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(sharded[3][i], parts[i][1][2], rtol=1e-3, atol=1e-3)


def test_another_trajectory_does_not_recompile(normal):
    traces = []

    @jax.jit
    def forward(trajectory, image):
        traces.append(1)
        return operators.NUFFT(trajectory, (8, 8), gram_by_toeplitz=True).gram(image)

    for seed in range(3):
        forward(0.4 * np.tanh(normal((30, 2), seed=seed)), normal((8, 8), np.complex64, seed))
    assert len(traces) == 1
