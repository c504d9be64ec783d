"""The convolution and its custom gradients against plain lax, in every place the engine uses it."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, PartitionSpec
from jax.test_util import check_grads

from fedrecon.models import Conv, Upsample, convolution
from fedrecon.models.convolutions import _native
from operators.kernels import convolution as primitives
from operators.kernels import native

# Compiles in a fraction of the time, for programs that run once or twice.
once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def reference(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def normal(seed, shape, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def differentiate(f, x, kernel, seed=7):
    y, pull = jax.vjp(f, x, kernel)
    return y, *pull(jnp.asarray(normal(seed, y.shape, y.dtype)))


def value_and_grads(f, x, kernel):
    return once(partial(differentiate, f))(x, kernel)


@pytest.fixture(params=["native", "plain"])
def route(request, monkeypatch):
    """Runs one test by the native kernels, and by those of XLA."""
    if request.param == "plain":
        monkeypatch.setattr(sys.modules[_native.__module__], "_native", lambda x: False)
    elif not _native(jnp.zeros(1, jnp.float32)):
        pytest.skip("no native kernels: " + native.backends()["convolution float32"])


pads = st.one_of(
    st.sampled_from(["SAME", "VALID"]),
    st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 2),
)


@settings(max_examples=10)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(4, 9), st.integers(4, 9)),
    features=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=pads,
)
@pytest.mark.usefixtures("x64")
def test_values_and_gradients_equal_lax_in_double(shape, features, window, strides, padding):
    x, kernel = normal(0, (*shape, features[0])), normal(1, (*window, *features))
    got = value_and_grads(lambda x, k: convolution(x, k, strides, padding), x, kernel)
    want = value_and_grads(lambda x, k: reference(x, k, strides, padding), x, kernel)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == np.float64
        np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-12)


@settings(max_examples=8)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(4, 12), st.sampled_from([4, 7, 12, 26, 33])),
    features=st.tuples(*[st.sampled_from([1, 2, 5, 8, 12, 19, 36, 70])] * 2),
    window=st.tuples(st.sampled_from([1, 3, 4]), st.sampled_from([1, 3, 4])),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=pads,
)
def test_primitives_equal_plain_jax_in_single(shape, features, window, strides, padding):
    x, kernels = (
        normal(0, (1, *shape, features[0]), np.float32),
        normal(1, (2, *window, *features), np.float32),
    )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(shape[1:], window, strides, padding)
    convolve = partial(primitives.convolve, strides=strides, pads=tuple(padding))
    got = value_and_grads(lambda x, k: convolve(k, x), x, kernels)
    want = value_and_grads(lambda x, k: convolve(k, x, backend="jax"), x, kernels)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=0, atol=1e-5 * np.abs(w).max())


@settings(max_examples=8)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(7, 30), st.integers(7, 30)),
    features=st.tuples(*[st.sampled_from([8, 16, 24, 40])] * 2),
    window=st.sampled_from([3, 5]),
    batch=st.sampled_from([(1, 2), (2, 1), (2, 2)]),
    padding=pads,
)
def test_square_windows_of_many_features_equal_plain_jax(shape, features, window, batch, padding):
    """These go by tiles where there are native kernels: tiles at borders, shared images, shared kernels."""
    x = normal(0, (batch[0], *shape, features[0]), np.float32)
    kernels = normal(1, (batch[1], window, window, *features), np.float32)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(shape[1:], (window, window), (1, 1), padding)
    convolve = partial(primitives.convolve, strides=(1, 1), pads=tuple(padding))
    got = value_and_grads(lambda x, k: convolve(k, x), x, kernels)
    want = value_and_grads(lambda x, k: convolve(k, x, backend="jax"), x, kernels)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=0, atol=1e-5 * np.abs(w).max())


@pytest.mark.parametrize("in_axes", [(1, None, None), (None, 0, 1), (0, 0, 0), (None, None, 2)])
def test_mapped_primitives_equal_a_loop(in_axes):
    """Axes of images, kernels and cotangents."""
    shapes = (2, 7, 9, 3), (3, 3, 3, 8), (2, 4, 5, 8)
    shapes = [
        shape if axis is None else (*shape[:axis], 3, *shape[axis:])
        for shape, axis in zip(shapes, in_axes, strict=True)
    ]
    x, kernel, cotangent = (normal(i, shape, np.float32) for i, shape in enumerate(shapes))

    def all_three(x, kernel, cotangent):
        y, pull = jax.vjp(lambda x, k: convolution(x, k, 2), x, kernel)
        return y, *pull(cotangent)

    got = jax.jit(jax.vmap(all_three, in_axes))(x, kernel, cotangent)
    for i in range(3):
        taken = [
            a if axis is None else jnp.take(a, i, axis)
            for a, axis in zip((x, kernel, cotangent), in_axes, strict=True)
        ]
        for g, w in zip(got, all_three(*taken), strict=True):
            np.testing.assert_allclose(g[i], w, rtol=1e-5, atol=1e-5)


def test_gradients_of_shared_operands_add():
    x, kernels = normal(0, (1, 5, 6, 2), np.float32), normal(1, (3, 3, 3, 2, 4), np.float32)

    def loss(x, kernels):
        return jnp.sum(jax.vmap(lambda k: convolution(x, k) ** 2)(kernels))

    each = [jax.jit(jax.grad(loss))(x, kernels[i : i + 1]) for i in range(3)]
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(x, kernels), sum(each), rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_primitives_have_derivatives_of_any_order_in_both_modes(x64):
    convolve = partial(primitives.convolve, strides=(2, 1), pads=((1, 0), (2, 1)))
    args = normal(0, (2, 3, 2, 2, 3)), normal(1, (1, 2, 5, 4, 2))
    check_grads(convolve, args, order=2, modes=["fwd", "rev"])
    cotangents = normal(2, (2, 2, 2, 2, 6, 3))
    check_grads(
        partial(primitives.kernel_gradient, strides=(2, 1), pads=((1, 0), (2, 1)), size=(3, 2)),
        (args[1], cotangents),
        order=2,
        modes=["rev"],
    )


@pytest.mark.parametrize("shape", [(8, 64, 64, 3, 16), (1, 6, 6, 130, 70), (2, 40, 300, 9, 2)])
def test_threads_add_in_a_fixed_order(shape):
    """Large enough for several threads; sums over pixels are the same bits every time."""
    *images, c, f = shape
    x, kernel = normal(0, (*images, c), np.float32), normal(1, (3, 3, c, f), np.float32)
    run = jax.jit(partial(differentiate, convolution))
    first = run(x, kernel)
    for _ in range(3):
        for a, b in zip(run(x, kernel), first, strict=True):
            np.testing.assert_array_equal(a, b)
    want = value_and_grads(lambda x, k: reference(x, k, (1, 1), "SAME"), x, kernel)
    for g, w in zip(first, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=0, atol=1e-5 * np.abs(w).max())


def test_no_images_have_zero_gradients():
    x, kernel = jnp.zeros((0, 5, 5, 2)), jnp.ones((3, 3, 2, 4))
    y, dx, dw = value_and_grads(convolution, x, kernel)
    assert y.shape == (0, 5, 5, 4) and dx.shape == x.shape
    np.testing.assert_array_equal(dw, jnp.zeros_like(kernel))


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.usefixtures("route")
def test_gradients_equal_lax_in_single(strides):
    x, kernel = normal(0, (4, 15, 12, 8), np.float32), normal(1, (3, 3, 8, 6), np.float32)
    got = value_and_grads(lambda x, k: convolution(x, k, strides), x, kernel)
    want = value_and_grads(lambda x, k: reference(x, k, (strides, strides), "SAME"), x, kernel)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=0, atol=1e-5 * np.abs(w).max())


def test_gradients_and_second_derivatives_equal_finite_differences(x64, route):
    f = partial(convolution, strides=2, padding=((1, 0), (2, 1)))
    check_grads(f, (normal(0, (2, 5, 6, 2)), normal(1, (3, 2, 2, 3))), order=2, modes=["rev"])


def train(conv, kernels, x, steps):
    """A few gradient steps of a two-layer network inside a scan."""

    def loss(kernels):
        y = jax.nn.relu(conv(x, kernels[0]))
        return jnp.mean(conv(y, kernels[1]) ** 2)

    def step(kernels, _):
        value, grads = jax.value_and_grad(loss)(kernels)
        return jax.tree.map(lambda k, g: k - 0.1 * g, kernels, grads), value

    return lax.scan(step, kernels, length=steps)


def test_training_in_a_scan_vmapped_over_clients_equals_lax(x64, route):
    kernels = (normal(0, (3, 3, 3, 2, 4)), normal(1, (3, 3, 3, 4, 1)))
    x = normal(2, (3, 2, 6, 7, 2))
    networks = (convolution, lambda x, k: reference(x, k, (1, 1), "SAME"))
    got, want = (jax.jit(jax.vmap(partial(train, conv, steps=3)))(kernels, x) for conv in networks)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12), got, want)


@pytest.mark.parametrize("batched", [(0, None), (None, 0), (0, 0)])
def test_per_example_gradients_equal_a_loop(x64, batched):
    x, kernel = normal(0, (3, 1, 6, 5, 2)), normal(1, (3, 3, 3, 2, 2))
    args = (x if batched[0] == 0 else x[0], kernel if batched[1] == 0 else kernel[0])
    grad = jax.grad(lambda x, k: jnp.sum(jnp.sin(convolution(x, k, 2))), (0, 1))
    got = jax.vmap(grad, batched)(*args)
    for i in range(3):
        want = grad(*(a[i] if axis == 0 else a for a, axis in zip(args, batched, strict=True)))
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g[i], w, rtol=1e-12)


def test_sharded_over_clients_equals_unsharded(x64, route):
    mesh = jax.make_mesh((4,), ("clients",), axis_types=(AxisType.Auto,))
    x, kernel = normal(0, (4, 2, 6, 6, 2)), normal(1, (3, 3, 2, 2))

    def client_gradient(kernel, x):
        return jax.grad(lambda k: jnp.mean(convolution(x, k) ** 2))(kernel)

    def inside(kernel, x):
        varying = lax.pcast(kernel, "clients", to="varying")
        shared = jax.grad(lambda k: lax.psum(jnp.mean(convolution(x[0], k) ** 2), "clients"))(kernel)
        return client_gradient(varying, x[0])[None], shared

    clients = PartitionSpec("clients")
    sharded = jax.shard_map(
        inside, mesh=mesh, in_specs=(PartitionSpec(), clients), out_specs=(clients, PartitionSpec())
    )
    each, total = jax.jit(sharded)(kernel, x)
    want = jax.vmap(client_gradient, (None, 0))(kernel, x)
    np.testing.assert_allclose(each, want, rtol=1e-12)
    np.testing.assert_allclose(total, want.sum(0), rtol=1e-12)


def test_every_backend_lowers():
    f = jax.jit(jax.grad(lambda k, x: jnp.sum(convolution(x, k) ** 2)))
    args = jax.ShapeDtypeStruct((3, 3, 2, 2), np.float32), jax.ShapeDtypeStruct((1, 8, 8, 2), np.float32)
    for platform in ("cpu", "cuda", "tpu"):
        assert "convolution" in f.trace(*args).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kernel": np.ones((3, 3, 5, 2), np.float32)}, ValueError, r"\(3, 3, 5, 2\)"),
        ({"x": np.ones((8, 8, 4), np.float32)}, ValueError, r"\(8, 8, 4\)"),
        ({"strides": 0}, ValueError, "strides"),
        ({"padding": ((-1, 0), (0, 0))}, ValueError, "padding"),
        ({"kernel": np.ones((9, 3, 4, 2), np.float32), "padding": "VALID"}, ValueError, "larger"),
        ({"kernel": np.ones((3, 3, 4, 2), np.float16)}, TypeError, "float16"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    arguments = {
        "x": np.ones((1, 8, 8, 4), np.float32),
        "kernel": np.ones((3, 3, 4, 2), np.float32),
        **change,
    }
    arguments = {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    with pytest.raises(error, match=message):
        convolution(**arguments)


def test_conv_layer_is_the_convolution_plus_bias():
    x = jnp.asarray(normal(0, (2, 7, 6, 3), np.float32))
    layer = Conv(5, (3, 1), strides=2, padding="VALID")
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    params = {name: jnp.asarray(normal(1, s.shape, s.dtype)) for name, s in shapes.items()}
    want = reference(x, params["kernel"], (2, 2), "VALID") + params["bias"]
    np.testing.assert_allclose(layer.apply({"params": params}, x), want, atol=1e-5)
    unbiased = jax.eval_shape(Conv(5, use_bias=False).init, jax.random.key(0), x)
    assert "bias" not in unbiased["params"]


def test_upsample_is_the_transposed_convolution(x64):
    x = normal(0, (2, 3, 4, 3))
    layer = Upsample(5)
    kernel = normal(1, (1, 1, 3, 20))
    phases = kernel.reshape(3, 2, 2, 5).transpose(1, 2, 0, 3)
    # lax correlates the dilated input with the kernel: a transposed convolution has it flipped.
    want = lax.conv_transpose(
        x, phases[::-1, ::-1], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    got = layer.apply({"params": {"conv": {"kernel": kernel}}}, x)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
