"""Where the rays of a geometry cross the rows and columns of an image."""

import jax
import jax.numpy as jnp
import numpy as np

MODELS = ("joseph", "distance-driven")


def ray_lines(
    geometry, image_shape: tuple[int, int], pixel_size: float, model: str
) -> tuple[jax.Array, jax.Array]:
    """The operands of :mod:`operators.projector_primitive` for one 2-D geometry.

    Args:
      geometry: with ``rays(columns) -> (points, directions)``, each (views, columns, 2) as (x, y).
      image_shape: (ny, nx), centred on the origin, row 0 at the top.
      pixel_size: width of the pixels.
      model: "joseph" (rays through the centres of the bins) or "distance-driven" (through their edges).

    Returns:
      (rays, lengths): (2, 2, views, knots) and (views, bins), differentiable in the geometry.
    """
    bins = geometry.shape[-1]
    columns = np.arange(bins) if model == "joseph" else np.arange(bins + 1) - 0.5
    points, directions = geometry.rays(columns)
    ny, nx = image_shape
    # In pixels, rows downwards.
    point = points * jnp.asarray([1 / pixel_size, -1 / pixel_size], points.dtype)
    direction = directions * jnp.asarray([1, -1], points.dtype)
    middle = jnp.asarray([(nx - 1) / 2, (ny - 1) / 2], points.dtype)
    rays, slopes = [], []
    for along, across in ((0, 1), (1, 0)):
        # Rays along the lines cross them nowhere: what is put here is never used.
        size = jnp.abs(direction[..., across])
        parallel = size < 1e-4 * jnp.abs(direction[..., along])
        safe = jnp.where(parallel, 1, direction[..., across])
        slope = jnp.where(parallel, 0, direction[..., along] / safe)
        base = point[..., along] - point[..., across] * slope + middle[along]
        rays.append(jnp.stack([base, slope]))
        slopes.append(slope)
    steep = jnp.abs(direction[..., 1]) >= jnp.abs(direction[..., 0])
    if model == "joseph":
        slope = jnp.where(steep, slopes[0], slopes[1])
    else:
        # A bin belongs to the lines that its central ray meets more squarely.
        center = direction[:, 1:] / _norm(direction[:, 1:]) + direction[:, :-1] / _norm(direction[:, :-1])
        steep = jnp.abs(center[..., 1]) >= jnp.abs(center[..., 0])
        across = jnp.where(steep, center[..., 1], center[..., 0])
        slope = jnp.where(steep, center[..., 0], center[..., 1]) / across
    length = pixel_size * jnp.sqrt(1 + slope**2)
    return jnp.stack(rays), jnp.where(steep, length, -length)


def _norm(vectors: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(vectors**2, -1, keepdims=True))
