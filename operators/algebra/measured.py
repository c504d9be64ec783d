"""Validation of measured data."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from operators.algebra.arguments import ArgumentError
from operators.algebra.dtypes import is_complex


def check_measured(data: ArrayLike, dtype: DTypeLike, where: str, finite: bool = True) -> jax.Array:
    """``data`` as an array, after looking for what no scanner measures.

    Args:
      data: measurements of any shape.
      dtype: what they should promote to; complex for k-space.
      where: function and argument, for the messages.
      finite: whether every value was measured; what was not may hold anything.

    Returns:
      ``data`` as an array.

    Raises:
      ValueError: if k-space is real, or concrete values are not finite.
    """
    data = jnp.asarray(data)
    if is_complex(dtype) and not is_complex(data.dtype):
        raise ArgumentError(
            where,
            "complex k-space",
            f"{data.dtype}; magnitudes have lost the phase, and real and imaginary parts on an axis "
            "are joined by re + 1j * im",
        )
    if finite and not isinstance(data, jax.core.Tracer):
        with jax.ensure_compile_time_eval():
            wrong = int(data.size - jnp.isfinite(data).sum())
        if wrong:
            raise ArgumentError(where, "finite values", f"{wrong} of {data.size} samples NaN or infinite")
    return data
