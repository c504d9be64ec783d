"""Dtypes of arrays, and arithmetic that keeps them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike


def default_dtype(kind: type) -> np.dtype:
    """The dtype JAX gives to ``float`` or ``complex``: single precision unless x64 is enabled."""
    return jnp.zeros((), kind).dtype


def real_dtype(dtype: DTypeLike) -> np.dtype:
    """The real dtype of the same precision."""
    return jnp.zeros((), dtype).real.dtype


def complex_dtype(dtype: DTypeLike) -> np.dtype:
    """The complex dtype of the same precision (at least single)."""
    return jnp.promote_types(dtype, jnp.complex64)


def is_complex(dtype: DTypeLike) -> bool:
    """True for complex dtypes."""
    return jnp.issubdtype(dtype, jnp.complexfloating)


def as_inexact(x: ArrayLike) -> jax.Array:
    """``x`` as a floating or complex array: integers and booleans become the default float."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(default_dtype(float))


def squared(x: jax.Array) -> jax.Array:
    """``|x|^2`` of a real or complex array, real and smooth."""
    return x.real**2 + x.imag**2


def safe_sqrt(x: jax.Array) -> jax.Array:
    """Square root of non-negative numbers whose gradient at zero is zero instead of infinite."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)
