"""The interface between a reconstruction and what reads its images: their scale and their gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.tasks.image_quality import magnitude
from fedrecon.types import PyTree
from operators import LinearOperator

_PERCENTILE = 99.0


def interface_scale(
    operators: LinearOperator, measurements: jax.Array, reference: jax.Array, measured: jax.Array
) -> jax.Array:
    """What images are divided by before they are read: the 99th percentile of ``|A^H y|`` of each.

    It is made of the measurement alone, so that no network can change it.

    Args:
      operators: stacked, as in ``VarNet``.
      measurements: y (examples, *out_shape).
      reference: (examples, ny, nx) magnitudes.
      measured: (examples,) bool; the percentile of others is that of their reference.

    Returns:
      (examples,) float, positive.
    """
    back = jnp.abs(jax.vmap(lambda A, y: A.H(y))(operators, measurements))
    own, other = (jnp.percentile(x.reshape(len(x), -1), _PERCENTILE, axis=1) for x in (back, reference))
    scale = jax.lax.stop_gradient(jnp.where(measured, own, other))
    return jnp.maximum(scale, jnp.finfo(back.dtype).tiny)


def interface_images(
    images: jax.Array, reference: jax.Array, scale: jax.Array, measured: jax.Array
) -> jax.Array:
    """N(x) = |x| / scale (examples, ny, nx), and of examples that were not measured N(reference)."""
    shown = jnp.where(measured[:, None, None], magnitude(images), reference)
    return shown / scale[:, None, None]


def combined(
    a: jax.Array | None, b: jax.Array, factor: jax.Array, *, project: bool = False
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The gradient ``a + factor b`` of the images, with the norms of both and their cosine.

    Args:
      a: dL_rec/dx, the images' shape, real or complex; None where there is no such loss, and b is returned.
      b: dL_task/dx.
      factor: (), 0 or more; at 0 the result is a, to the bit.
      project: with ``<a, b> < 0``, b loses its part along a: ``b - <a, b> / |a|^2 a``.

    Returns:
      (gradient, {"error_norm", "task_norm", "cosine"}, each ()); the norms are those before the projection.
    """
    if a is None:
        return b, {"task_norm": _norm(b)}
    inner, size, other = jnp.vdot(a, b).real, _norm(a), _norm(b)
    tiny = jnp.finfo(size.dtype).tiny
    norms = {"error_norm": size, "task_norm": other, "cosine": inner / jnp.maximum(size * other, tiny)}
    if project:
        # Divided twice by the norm, whose square may underflow.
        part = jnp.minimum(inner, 0) / jnp.maximum(size, tiny) / jnp.maximum(size, tiny)
        b = b - (part * a).astype(b.dtype)
    # Not a + 0 b, which is NaN where b is infinite.
    return jnp.where(factor == 0, a, a + (factor * b).astype(a.dtype)), norms


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(jnp.abs(x)).sum())


@jax.custom_vjp
def _attached(value: jax.Array, inputs: PyTree, gradients: PyTree) -> jax.Array:
    del inputs, gradients
    return value


def _forward(value: jax.Array, inputs: PyTree, gradients: PyTree) -> tuple[jax.Array, PyTree]:
    del inputs
    return value, gradients


def _backward(gradients: PyTree, cotangent: jax.Array) -> tuple[Any, PyTree, PyTree]:
    scaled = jax.tree.map(lambda g: (g * cotangent).astype(g.dtype), gradients)
    return jnp.zeros_like(cotangent), scaled, jax.tree.map(jnp.zeros_like, gradients)


_attached.defvjp(_forward, _backward)


def with_gradients(value: jax.Array, inputs: PyTree, gradients: PyTree) -> jax.Array:
    """``value`` () with these gradients with respect to ``inputs``, as `jax.grad` returns them, and no other.

    Args:
      value: ().
      inputs: pytree of arrays that depend on what is trained.
      gradients: of the same structure, shapes and dtypes.
    """
    return _attached(jax.lax.stop_gradient(value), inputs, jax.lax.stop_gradient(gradients))
