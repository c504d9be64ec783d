"""Convolution of volumes, and transposed convolution, against plain lax."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from fedrecon.models import Conv, Upsample, convolution, transposed_convolution

# Compiles in a fraction of the time, for programs that run once or twice.
once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

DIMENSIONS = {2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def reference(x, kernel, strides, padding):
    axes = x.ndim - 2
    strides = (strides,) * axes if isinstance(strides, int) else strides
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMENSIONS[axes])


def normal(seed, shape, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def differentiate(f, x, kernel):
    y, pull = jax.vjp(f, x, kernel)
    return y, *pull(jnp.cos(y))


def value_and_grads(f, x, kernel):
    return once(partial(differentiate, f))(x, kernel)


def each_axis(low, high):
    return st.tuples(*[st.integers(low, high)] * 3)


paddings = st.one_of(
    st.sampled_from(["SAME", "VALID"]), st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 3)
)


@settings(max_examples=10)
@given(
    shape=each_axis(4, 6),
    features=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    window=each_axis(1, 3),
    strides=each_axis(1, 2),
    padding=paddings,
)
@pytest.mark.usefixtures("x64")
def test_volumes_equal_lax(shape, features, window, strides, padding):
    x, kernel = normal(0, (2, *shape, features[0])), normal(1, (*window, *features))
    got = value_and_grads(lambda x, k: convolution(x, k, strides, padding), x, kernel)
    want = value_and_grads(lambda x, k: reference(x, k, strides, padding), x, kernel)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == np.float64
        np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@settings(max_examples=20)
@given(
    axes=st.sampled_from([2, 3]),
    shape=each_axis(2, 5),
    features=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    window=each_axis(1, 4),
    strides=each_axis(1, 3),
    padding=paddings,
)
@pytest.mark.usefixtures("x64")
def test_transposed_convolution_is_the_adjoint(axes, shape, features, window, strides, padding):
    window, strides = window[-axes:], strides[-axes:]
    if not isinstance(padding, str):
        padding = tuple(
            (min(low, (k - 1) // 2), min(high, (k - 1) // 2))
            for (low, high), k in zip(padding[-axes:], window, strict=True)
        )
    x, kernel = normal(0, (2, *shape[-axes:], features[0])), normal(1, (*window, features[1], features[0]))
    y, dx, dk = value_and_grads(lambda x, k: transposed_convolution(x, k, strides, padding), x, kernel)
    assert y.shape[-1] == features[1]
    if padding == "SAME":
        assert y.shape[1:-1] == tuple(n * s for n, s in zip(x.shape[1:-1], strides, strict=True))

    @once
    def expected(x, y, kernel):
        adjoint = jax.linear_transpose(lambda u: reference(u, kernel, strides, padding), y)
        pulled = reference(jnp.cos(y), kernel, strides, padding)
        product = jax.grad(lambda k: jnp.vdot(reference(jnp.cos(y), k, strides, padding), x))
        return adjoint(x)[0], pulled, product(kernel)

    for got, want in zip((y, dx, dk), expected(x, y, kernel), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_mapped_volumes_equal_a_loop():
    x, kernels = normal(0, (3, 1, 4, 5, 6, 8), np.float32), normal(1, (3, 3, 3, 3, 8, 8), np.float32)
    for function in (convolution, transposed_convolution):
        got = once(jax.vmap(partial(differentiate, function)))(x, kernels)
        for i in range(3):
            for g, w in zip(got, value_and_grads(function, x[i], kernels[i]), strict=True):
                np.testing.assert_allclose(g[i], w, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 5, 6, 3), (1, 3, 4, 5, 3)])
def test_layers_take_images_and_volumes(shape):
    x = jnp.asarray(normal(0, shape, np.float32))
    axes = len(shape) - 2
    variables = once(Conv(4, 3, strides=2).init)(jax.random.key(0), x)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    np.testing.assert_allclose(
        Conv(4, 3, strides=2).apply(variables, x),
        reference(x, kernel, 2, "SAME") + bias,
        rtol=1e-5,
        atol=1e-5,
    )
    layer = Conv(4, 3, strides=2, transpose=True)
    larger, variables = once(layer.init_with_output)(jax.random.key(0), x)
    assert larger.shape == (1, *(2 * n for n in shape[1:-1]), 4)
    assert variables["params"]["kernel"].shape == (3,) * axes + (3, 4)


def test_upsampling_volumes_is_a_transposed_convolution():
    x = jnp.asarray(normal(0, (2, 2, 3, 4, 5), np.float32))
    found, variables = once(Upsample(3).init_with_output)(jax.random.key(0), x)
    kernel = variables["params"]["conv"]["kernel"].reshape(5, 2, 2, 2, 3)
    exact = transposed_convolution(x, jnp.moveaxis(kernel, 0, -1), 2, "VALID")
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_named():
    x, kernel = jnp.zeros((1, 4, 4, 4, 3)), jnp.zeros((3, 3, 3, 3, 2))
    with pytest.raises(ValueError, match=r"features_out, features.*found x \(1, 4, 4, 4, 3\)"):
        transposed_convolution(x, kernel)
    with pytest.raises(ValueError, match=r"features, features_out.*\(3, 3, 3, 2\)"):
        convolution(x, kernel[0])
    with pytest.raises(ValueError, match=r"3 ints >= 1, found \(1, 1\)"):
        convolution(x, kernel, (1, 1))
    with pytest.raises(ValueError, match="3 pairs"):
        convolution(x, kernel, 1, ((1, 1), (1, 1)))
    with pytest.raises(ValueError, match="expected to leave pixels"):
        transposed_convolution(x, kernel.swapaxes(-1, -2), 1, ((3, 3), (1, 1), (1, 1)))
    with pytest.raises(TypeError, match="one dtype"):
        transposed_convolution(x, kernel.swapaxes(-1, -2).astype(jnp.bfloat16))
