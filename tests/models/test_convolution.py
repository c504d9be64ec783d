"""The convolution and its custom gradients against plain lax, in every place the engine uses it."""

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


def reference(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def normal(seed, shape, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def value_and_grads(f, x, kernel, seed=7):
    y, pull = jax.vjp(f, x, kernel)
    return y, *pull(jnp.asarray(normal(seed, y.shape, y.dtype)))


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


@pytest.mark.parametrize("strides", [1, 2])
def test_gradients_equal_lax_in_single(strides):
    x, kernel = normal(0, (4, 15, 12, 8), np.float32), normal(1, (3, 3, 8, 6), np.float32)
    got = value_and_grads(lambda x, k: convolution(x, k, strides), x, kernel)
    want = value_and_grads(lambda x, k: reference(x, k, (strides, strides), "SAME"), x, kernel)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=0, atol=1e-5 * np.abs(w).max())


def test_gradients_and_second_derivatives_equal_finite_differences(x64):
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


def test_training_in_a_scan_vmapped_over_clients_equals_lax(x64):
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


def test_sharded_over_clients_equals_unsharded(x64):
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
