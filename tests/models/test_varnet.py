"""The unrolled networks: the cascade formulas, gradients, coil maps, and what they leave alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon.models import BatchNorm, MoDL, VarNet
from operators import SENSE, CartesianFourier, Diagonal, fft2c

# Compiles in a fraction of the time, for programs that run once or twice.
once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def sense_batch(batch=2, coils=3, ny=9, nx=8, seed=0, dtype=np.complex64):
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(batch, coils, ny, nx, 2)) @ np.array([1, 1j])
    maps /= np.sqrt((np.abs(maps) ** 2).sum(1, keepdims=True))
    mask = (rng.random((batch, ny, nx)) < 0.5).astype(dtype(0).real.dtype)
    x = rng.normal(size=(batch, ny, nx, 2)) @ np.array([1, 1j])
    operators = jax.vmap(lambda m, s: SENSE(CartesianFourier((ny, nx), m), s))(mask, maps.astype(dtype))
    x = jnp.asarray(x, dtype)
    return operators, jax.vmap(lambda A, x: A(x))(operators, x), x


def filled(model, *args, seed=3):
    """Random variables everywhere, so that zero initializations hide nothing; no initializer to compile."""
    rng, shapes = np.random.default_rng(seed), jax.eval_shape(model.init, jax.random.key(0), *args)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape)), shapes)


def test_untrained_network_is_gradient_descent():
    operators, y, _ = sense_batch()
    model = VarNet(3, 2, 0)

    @once
    def run(key):
        return model.apply(model.init(key, operators, y), operators, y)

    @once
    def descend(y):
        x = back = jax.vmap(lambda A, y: A.H(y))(operators, y)
        for _ in range(3):
            x = x - (jax.vmap(lambda A, x: A.H(A(x)))(operators, x) - back)
        return x

    got = run(jax.random.key(0))
    np.testing.assert_allclose(got, descend(y), atol=1e-5)
    assert got.dtype == np.complex64


def test_untrained_proximal_network_is_iterated_tikhonov():
    operators, y, _ = sense_batch()
    model = MoDL(3, 2, 0, weight=0.2, cg_iterations=40)

    @once
    def run(key):
        return model.apply(model.init(key, operators, y), operators, y)

    got = run(jax.random.key(0))
    for i in range(2):
        A = jax.tree.map(lambda leaf, i=i: leaf[i], operators)
        rows = np.asarray(jax.vmap(A)(jnp.eye(72, dtype=jnp.complex64).reshape(72, 9, 8))).reshape(72, -1)
        matrix, back = rows.conj() @ rows.T, np.asarray(A.H(y[i])).ravel()
        x = back
        for _ in range(3):
            x = np.linalg.solve(matrix + 0.2 * np.eye(72), back + 0.2 * x)
        np.testing.assert_allclose(got[i].ravel(), x, atol=1e-4)


@pytest.mark.slow
def test_scanned_and_rematerialized_cascades_equal_unrolled_ones(x64):
    operators, y, _ = sense_batch(dtype=np.complex128)
    one = VarNet(1, 2, 0)
    params = filled(VarNet(2, 2, 0), operators, y)["params"]
    back = jax.vmap(lambda A, y: A.H(y))(operators, y)

    def unrolled(params):
        x = back
        for t in range(2):
            cascade = jax.tree.map(lambda p, t=t: p[t : t + 1], params)
            x = one.apply({"params": cascade}, operators, y, x)
        return jnp.sum(jnp.abs(x - 1) ** 2)

    def scanned(model, params):
        return jnp.sum(jnp.abs(model.apply({"params": params}, operators, y) - 1) ** 2)

    want = once(jax.value_and_grad(unrolled))(params)
    for remat in (False, True):
        model = VarNet(2, 2, 0, remat=remat)
        got = once(jax.value_and_grad(partial(scanned, model)))(params)
        close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9 * want[0])
        jax.tree.map(close, got, want)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        VarNet(2, 2, 1),
        VarNet(2, 2, 0, learn_coil_maps=True),
        MoDL(2, 2, 1, cg_iterations=60),
        MoDL(2, 2, 0, learn_coil_maps=True, cg_iterations=60),
    ],
    ids=["gradient", "gradient and maps", "proximal", "proximal and maps"],
)
def test_gradients_equal_finite_differences(x64, model):
    operators, y, x = sense_batch(batch=1, ny=6, nx=6, dtype=np.complex128)
    params = filled(model, operators, y)["params"]

    def loss(arguments):
        params, y = arguments
        return jnp.sum(jnp.abs(model.apply({"params": params}, operators, y) - x) ** 2)

    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), (params, y))
    direction = (direction[0], direction[1] + 1j * rng.normal(size=y.shape))
    # A small step, so that few activations cross their kink.
    step = 1e-7

    @once
    def slopes(point):
        products = jax.tree.map(lambda g, d: jnp.sum(g * d).real, jax.grad(loss)(point), direction)
        ends = jax.tree.map(lambda p, d: jnp.stack([p - step * d, p + step * d]), point, direction)
        low, high = jax.lax.map(loss, ends)
        return sum(jax.tree.leaves(products)), (high - low) / (2 * step)

    got, want = slopes((params, y))
    assert abs(want) > 0.1
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("network", [VarNet, MoDL])
def test_real_operators_give_real_images(network):
    weights = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1, (2, 7, 10)), jnp.float32)
    operators = jax.vmap(Diagonal)(weights)
    model = network(2, 2, 1)
    params = filled(model, operators, weights)
    assert params["params"]["cascades"]["regulariser"]["unet"]["head"]["kernel"].shape[-1] == 1
    x = once(model.apply)(params, operators, weights)
    assert x.dtype == np.float32 and x.shape == weights.shape


@pytest.mark.parametrize("network", [VarNet, MoDL])
def test_a_consistent_image_is_a_fixed_point_of_the_data_term(network):
    operators, y, x = sense_batch()
    model = network(2, 2, 0)
    run = once(lambda key, initial: model.apply(model.init(key, operators, y), operators, y, initial))
    np.testing.assert_allclose(run(jax.random.key(0), x), x, atol=1e-5)
    with pytest.raises(ValueError, match=r"\(2, 9, 8\).*\(1, 9, 8\)"):
        jax.eval_shape(run, jax.random.key(0), x[:1])


@pytest.mark.parametrize("network", [VarNet, MoDL])
def test_images_scale_with_their_measurements(x64, network):
    operators, y, _ = sense_batch(dtype=np.complex128)
    model = network(2, 2, 1)
    params, run = filled(model, operators, y), once(model.apply)
    scale = jnp.array([1e-3, 50.0])[:, None, None]
    got = run(params, operators, y * scale[..., None])
    np.testing.assert_allclose(got, scale * run(params, operators, y), rtol=1e-4)


@pytest.mark.slow
def test_learned_coil_maps_stay_normalized_and_padding_stays_zero():
    operators, y, _ = sense_batch(coils=4)
    maps = jnp.asarray(operators.coil_maps).at[:, -1].set(0).at[:, :, :, :3].set(0)
    maps = maps / jnp.maximum(jnp.linalg.norm(maps, axis=1, keepdims=True), 1e-9)
    operators = jax.vmap(lambda A, s: SENSE(A.fourier, s))(operators, maps)
    model = VarNet(1, 2, 1, learn_coil_maps=True)
    params = filled(model, operators, y)

    @once
    def refine(params):
        kept = {"capture_intermediates": True, "mutable": ["intermediates"]}
        return model.apply(params, operators, y, **kept)[1]["intermediates"]["coil_maps"]["__call__"][0]

    refined = refine(params)
    assert jnp.abs(refined - maps).max() > 1e-2
    assert not refined[:, -1].any() and not refined[:, :, :, :3].any()
    np.testing.assert_allclose((jnp.abs(refined[:, :, :, 3:]) ** 2).sum(1), 1, atol=1e-5)
    head = params["params"]["coil_maps"]["unet"]["head"]
    head.update(jax.tree.map(jnp.zeros_like, head))
    np.testing.assert_allclose(refine(params), maps, atol=1e-6)


@pytest.mark.slow
def test_examples_of_zeros_give_finite_images_and_gradients():
    operators, y, _ = sense_batch()
    operators = jax.tree.map(lambda a: jnp.asarray(a).at[1].set(0), operators)
    model = MoDL(2, 2, 0)
    params = filled(model, operators, y)

    @once
    def run(y):
        x, pull = jax.vjp(lambda params, y: model.apply(params, operators, y), params, y)
        return x, pull(x)

    x, (gradients, _) = run(y.at[1].set(0))
    assert np.isfinite(x).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_errors_name_what_is_wrong():
    operators, y, _ = sense_batch()
    with pytest.raises(TypeError, match=r"SENSE.*CartesianFourier"):
        VarNet(1, 2, 1, learn_coil_maps=True).init(jax.random.key(0), operators.fourier, y[:, 0])
    flat = jax.vmap(Diagonal)(jnp.ones((2, 5)))
    with pytest.raises(ValueError, match=r"\(5,\)|in_shape"):
        VarNet(1, 2, 1).init(jax.random.key(0), flat, jnp.ones((2, 5)))


@pytest.mark.slow
def test_batch_norm_statistics_are_stacked_and_ignore_padding():
    operators, y, _ = sense_batch(batch=3)
    model = VarNet(2, 2, 0, norm=BatchNorm)
    variables = filled(model, operators, y)
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(variables["batch_stats"]))

    def run(n, valid):
        part, measured = jax.tree.map(lambda a: a[:n], (operators, y))
        apply = partial(model.apply, train=True, mutable=["batch_stats"])
        return once(apply)(variables, part, measured, valid=valid)

    padded, plain = run(3, jnp.array([True, True, False])), run(2, None)
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, atol=1e-6), padded[1], plain[1])
    np.testing.assert_allclose(padded[0][:2], plain[0], atol=1e-5)


@pytest.mark.slow
def test_training_overfits_one_slice():
    ny = nx = 24
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, nx)] * 2, indexing="ij"))
    discs = [((0, 0), 0.8, 1.0), ((0.2, 0.3), 0.3, -0.5), ((-0.3, -0.2), 0.2, 0.7)]
    image = sum(v * (np.linalg.norm(grid - np.reshape(c, (2, 1, 1)), axis=0) < r) for c, r, v in discs)
    centers = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])[:, :, None, None]
    maps = np.exp(-((grid - centers) ** 2).sum(1) / 2 + 1j * centers[:, 0] * grid[0])
    maps = (maps / np.linalg.norm(maps, axis=0)).astype(np.complex64)
    mask = (np.arange(nx) % 4 == 0) | (np.abs(np.arange(nx) - nx // 2) < 2)
    operators = jax.tree.map(lambda a: a[None], SENSE(CartesianFourier((ny, nx), mask * 1.0), maps))
    target = jnp.asarray(image, jnp.float32)
    y = (mask * fft2c(maps * target))[None]
    model, adam = VarNet(2, 4, 1), optax.adam(1e-2)

    def error(params):
        image = model.apply({"params": params}, operators, y)[0]
        return jnp.mean((jnp.abs(image) - target) ** 2)

    def step(state, _):
        params, moments = state
        updates, moments = adam.update(jax.grad(error)(params), moments)
        return (optax.apply_updates(params, updates), moments), None

    @jax.jit
    def run(start):
        (params, _), _ = jax.lax.scan(step, (start, adam.init(start)), length=60)
        zero_filled = jnp.abs(jax.vmap(lambda A, y: A.H(y))(operators, y)[0])
        return jnp.mean((zero_filled - target) ** 2), error(start), error(params)

    errors = run(once(model.init)(jax.random.key(0), operators, y)["params"])
    zero_filled, start, trained = (-10 * np.log10(e) for e in errors)
    assert trained > zero_filled + 6
    assert trained > start + 3
