"""Contrast of what a network sees at boundaries of structures and around them."""

import jax
import jax.numpy as jnp

from fedrecon.alignment.contrast import info_nce


def boundary_rings(structure: jax.Array, width: int = 5) -> tuple[jax.Array, jax.Array]:
    """The contour of a structure, one pixel wide, and the background within ``width`` pixels of it.

    Distances are those of a chess king; beyond the image there is neither structure nor background.

    Args:
      structure: bool (examples, ny, nx).
      width: in pixels.

    Returns:
      Two of bool (examples, ny, nx): ``y - erode(y, 1)`` and ``dilate(y, width) - y``.
    """
    inside = structure.astype(jnp.float32)
    eroded = -_largest(-inside, 1)
    grown = _largest(inside, width)
    return (inside > eroded), (grown > inside)


def boundary_contrast(
    maps: jax.Array, rings: jax.Array, valid: jax.Array, temperature: float = 0.05
) -> jax.Array:
    """NT-Xent of mean representations: contours are like contours, backgrounds like backgrounds.

    A mean that belongs to no pixel is left out. Each of the others is contrasted with all but itself, its
    positives being those of its kind.

    Args:
      maps: (examples, ny, nx, features).
      rings: bool (kinds, examples, ny, nx), as of `boundary_rings`.
      valid: bool (examples,).
      temperature: T.

    Returns:
      float32 (), the mean over the means that are there.
    """
    weight = rings.astype(maps.dtype)
    size = weight.sum((2, 3))
    means = jnp.einsum("kexy,exyf->kef", weight, maps) / jnp.maximum(size, 1)[..., None]
    there = ((size > 0) & valid).reshape(-1)
    kind = jnp.repeat(jnp.arange(len(rings)), rings.shape[1])
    others = there[:, None] & there & ~jnp.eye(len(there), dtype=bool)
    vectors = means.reshape(len(there), -1)
    each = info_nce(vectors, vectors, others & (kind[:, None] == kind), others, temperature)
    return jnp.where(there, each, 0).sum() / jnp.maximum(there.sum(), 1)


def _largest(x: jax.Array, reach: int) -> jax.Array:
    size = 2 * reach + 1
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, size, size), (1, 1, 1), "SAME")
