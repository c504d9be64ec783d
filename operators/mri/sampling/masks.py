"""Sampling masks of Cartesian MRI: 1.0 where a sample is measured, 0.0 elsewhere, DC at index N // 2."""

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import ArgumentError, renamed

_SEARCH_FACTOR = 1.2


def random_mask(
    key: jax.Array, columns: int, acceleration: float, center_fraction: float, *, exact: bool = False
) -> jax.Array:
    """Columns drawn independently, plus a fully sampled center, as fastMRI's random mask.

    The center holds ``round(columns * center_fraction)`` columns; every other column is measured with the
    probability that makes the *expected* number of columns ``columns / acceleration``. The number of a single
    mask varies around it: ask :func:`acceleration_of`.

    Args:
      key: typed PRNG key.
      columns: number of columns nx.
      acceleration: expected acceleration, at least 1.
      center_fraction: fraction of the columns in the center block, in [0, 1].
      exact: measure ``round(columns / acceleration)`` columns in every mask (no fewer than the center), all
        choices of the others being equally likely.

    Returns:
      (columns,) float32.

    Raises:
      ValueError: if an argument is out of range, or the center alone exceeds ``columns / acceleration``.

    Source: Zbontar et al., fastMRI, arXiv:1811.08839.

    Example:
      >>> operators.random_mask(jax.random.key(0), 8, 2.0, 0.25)[3:5].tolist()
      [1.0, 1.0]
    """
    center = _center_columns(columns, acceleration, center_fraction)
    count = int(center.sum())
    if count > columns / acceleration:
        raise ArgumentError(
            "random_mask: center_fraction",
            f"at most the {columns / acceleration:.1f} columns that acceleration {acceleration} allows",
            f"{center_fraction}, {count} of {columns} columns",
        )
    if exact:
        order = jnp.where(center, -1.0, jax.random.uniform(key, (columns,)))
        drawn = jnp.argsort(jnp.argsort(order)) < max(round(columns / acceleration), count)
        return drawn.astype(jnp.float32)
    probability = (columns / acceleration - count) / max(columns - count, 1)
    drawn = jax.random.uniform(key, (columns,)) < probability
    return jnp.where(center, True, drawn).astype(jnp.float32)


def equispaced_mask(
    columns: int, acceleration: float, center_fraction: float, offset: int | jax.Array = 0
) -> jax.Array:
    """Every ``acceleration``-th column from ``offset`` on, plus a fully sampled center.

    The spacing is exactly ``acceleration``, as parallel imaging needs it, so the realized acceleration is
    lower than its name: with f the fraction of columns in the center it is close to
    ``acceleration / (1 + f (acceleration - 1))``: 4 and 0.08 give about 3.2, 8 and 0.04 about 6.2. This is
    ``EquiSpacedMaskFunc`` of fastMRI; :func:`equispaced_fraction_mask` is the one that stretches the spacing.

    Args:
      columns: number of columns nx.
      acceleration: spacing of the columns, an integer of at least 1.
      center_fraction: fraction of the columns in the center block, in [0, 1].
      offset: first column measured, taken modulo ``acceleration``; may be traced.

    Returns:
      (columns,) float32.

    Raises:
      ValueError: if an argument is out of range or ``acceleration`` is not an integer.

    Example:
      >>> operators.equispaced_mask(8, 4, 0.25).tolist()
      [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    """
    center = _center_columns(columns, acceleration, center_fraction)
    spacing = _integer(acceleration, "equispaced_mask")
    lines = (jnp.arange(columns) - offset) % spacing == 0
    return jnp.where(center, True, lines).astype(jnp.float32)


def equispaced_fraction_mask(
    columns: int, acceleration: float, center_fraction: float, offset: int = 0
) -> jax.Array:
    """Columns at a stretched spacing plus a fully sampled center, about ``columns / acceleration`` in all.

    The spacing ``acceleration (columns - c) / (columns - c acceleration)`` makes up for the c columns of the
    center; it is no integer, so that columns are rounded to the nearest (halves to the even one) and are not
    equispaced, which interpolation in k-space (GRAPPA) needs. This is ``EquispacedMaskFractionFunc`` of
    fastMRI, and the mask of its public challenge: the last column is never measured unless it is central.

    Args:
      columns: number of columns nx.
      acceleration: at least 1.
      center_fraction: fraction of the columns in the center block, in [0, 1].
      offset: first column measured, at least 0; fastMRI draws it below the rounded spacing.

    Returns:
      (columns,) float32.

    Raises:
      ValueError: if an argument is out of range, or the center alone exceeds ``columns / acceleration``.

    Source: Zbontar et al., fastMRI, arXiv:1811.08839.
    """
    center = _center_columns(columns, acceleration, center_fraction)
    count = int(center.sum())
    if offset < 0:
        raise ArgumentError("equispaced_fraction_mask: offset", "at least 0", offset)
    if count > columns / acceleration:
        raise ArgumentError(
            "equispaced_fraction_mask: center_fraction",
            f"at most {columns / acceleration:.1f} of {columns} columns at acceleration {acceleration}",
            f"{count} columns ({center_fraction})",
        )
    mask = center.copy()
    if columns > count * acceleration:
        spacing = acceleration * (columns - count) / (columns - count * acceleration)
        mask[np.around(np.arange(offset, columns - 1, spacing)).astype(int)] = True
    return jnp.asarray(mask, jnp.float32)


def magic_mask(columns: int, acceleration: float, center_fraction: float, offset: int = 0) -> jax.Array:
    """Equispaced columns that differ on the two sides of DC, plus a fully sampled center.

    Each side has one column in ``acceleration``, and no column is the mirror image of another: where images
    are real up to a smooth phase, each measured column tells another one. This is ``MagicMaskFunc`` of
    fastMRI; as in :func:`equispaced_mask` the center comes on top.

    Args:
      columns: number of columns nx.
      acceleration: spacing of the columns, an integer of at least 1.
      center_fraction: fraction of the columns in the center block, in [0, 1].
      offset: of the columns, at least 0; fastMRI draws it below ``acceleration``.

    Returns:
      (columns,) float32.

    Raises:
      ValueError: if an argument is out of range or ``acceleration`` is not an integer.

    Source: Defazio, Offset sampling improves deep learning based accelerated MRI reconstructions by
    exploiting symmetry, arXiv:1912.01101.
    """
    center = _center_columns(columns, acceleration, center_fraction)
    spacing = _integer(acceleration, "magic_mask")
    if offset < 0:
        raise ArgumentError("magic_mask: offset", "at least 0", offset)
    return jnp.asarray(center | _magic_columns(columns, spacing, offset), jnp.float32)


def magic_fraction_mask(
    columns: int, acceleration: float, center_fraction: float, offset: int = 0
) -> jax.Array:
    """As :func:`magic_mask`, the spacing chosen so that about ``columns / acceleration`` are measured in all.

    The center has at least one column and at most ``round(columns / acceleration)``; the spacing is that
    number less the center, rounded: ``MagicMaskFractionFunc`` of fastMRI.

    Args:
      columns: number of columns nx.
      acceleration: at least 1.
      center_fraction: fraction of the columns in the center block, in [0, 1].
      offset: of the columns, at least 0.

    Returns:
      (columns,) float32.

    Raises:
      ValueError: if an argument is out of range.
    """
    _center_columns(columns, acceleration, center_fraction)
    if offset < 0:
        raise ArgumentError("magic_fraction_mask: offset", "at least 0", offset)
    target = round(columns / acceleration)
    count = max(min(round(columns * center_fraction), target), 1)
    mask = np.zeros(columns, bool)
    mask[center_slice(columns, count)] = True
    if target > count:
        mask |= _magic_columns(columns, round(columns / (target - count)), offset)
    return jnp.asarray(mask, jnp.float32)


@renamed(key_or_seed="key")
def poisson_disc_mask(
    key: jax.Array | int,
    shape: tuple[int, int],
    acceleration: float,
    calibration_shape: tuple[int, int] = (0, 0),
) -> jax.Array:
    """Uniform-density Poisson-disc sampling of both phase-encoding axes, plus a fully sampled center.

    Random sequential sampling: samples are visited in random order and kept if no kept sample lies within a
    distance r; r is the largest that leaves enough of them, and the visit ends when
    ``round(ny * nx / acceleration)`` are measured, center included, so the acceleration is met up to that
    rounding. Distances are in samples. Drawn by numpy on the host, the same for the same seed everywhere.

    Args:
      key: non-negative integer or concrete typed PRNG key.
      shape: (ny, nx).
      acceleration: number of samples over number measured, at least 1.
      calibration_shape: (ny, nx) of the center block.

    Returns:
      (ny, nx) float32.

    Raises:
      ValueError: if an argument is out of range or the center alone has more samples than are to be measured.

    Source: Bridson, Fast Poisson disk sampling in arbitrary dimensions, SIGGRAPH 2007.

    Example:
      >>> mask = operators.poisson_disc_mask(0, (16, 16), 4.0, calibration_shape=(4, 4))
      >>> mask.shape, mask[6:10, 6:10].all().item()
      ((16, 16), True)
    """
    shape, calibration_shape = tuple(shape), tuple(calibration_shape)
    if len(shape) != 2 or min(shape) < 1:
        raise ArgumentError("poisson_disc_mask: shape", "two positive integers", shape)
    if len(calibration_shape) != 2 or any(
        not 0 <= c <= n for c, n in zip(calibration_shape, shape, strict=True)
    ):
        raise ArgumentError(
            "poisson_disc_mask: calibration_shape", f"at most shape {shape}", calibration_shape
        )
    _check_acceleration(acceleration)
    mask = np.zeros(shape, bool)
    mask[tuple(center_slice(n, c) for n, c in zip(shape, calibration_shape, strict=True))] = True
    missing = round(mask.size / acceleration) - int(mask.sum())
    if missing < 0:
        raise ArgumentError(
            "poisson_disc_mask: calibration_shape",
            f"at most the {round(mask.size / acceleration)} samples that acceleration {acceleration} allows",
            f"{calibration_shape}, {int(mask.sum())} samples",
        )
    if missing:
        rng = np.random.default_rng(_seed(key))
        priority = np.where(mask, -1, rng.permutation(mask.size).reshape(shape))
        radius = int(_SEARCH_FACTOR * (mask.size - mask.sum()) / missing) + 1
        chosen = _sequential_discs(priority, radius)
        while np.count_nonzero(chosen) < missing:
            radius -= 1
            chosen = _sequential_discs(priority, radius)
        first = np.sort(priority[chosen])[-missing]
        mask |= chosen & (priority >= first)
    return jnp.asarray(mask, jnp.float32)


def acceleration_of(mask: jax.Array) -> jax.Array:
    """The realized acceleration: number of samples over number of non-zero ones, a float32 scalar."""
    mask = jnp.asarray(mask)
    return mask.size / jnp.count_nonzero(mask).astype(jnp.float32)


def center_slice(length: int, count: int) -> slice:
    """The ``count`` samples around index ``length // 2``, placed as in fastMRI."""
    start = (length - count + 1) // 2
    return slice(start, start + count)


def _sequential_discs(priority: np.ndarray, squared_radius: int) -> np.ndarray:
    """Kept samples of a visit by falling priority (negative: never) with squared distances > the radius.

    Rounds accept every sample that ranks highest among the undecided ones within its disc; the result is
    that of the visit one by one.
    """
    ny, nx = priority.shape
    reach = int(np.sqrt(squared_radius))
    shifts = [
        (dy, dx)
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
        if 0 < dy * dy + dx * dx <= squared_radius
    ]

    def neighbors(values, fill):
        padded = np.pad(values, reach, constant_values=fill)
        for dy, dx in shifts:
            yield padded[reach + dy : reach + dy + ny, reach + dx : reach + dx + nx]

    undecided = np.where(priority >= 0, priority, -1)
    kept = np.zeros(priority.shape, bool)
    while (undecided >= 0).any():
        highest = np.full(priority.shape, -1)
        for other in neighbors(undecided, -1):
            np.maximum(highest, other, out=highest)
        new = (undecided >= 0) & (undecided > highest)
        kept |= new
        covered = new.copy()
        for other in neighbors(new, False):
            covered |= other
        undecided[covered] = -1
    return kept


def _center_columns(columns: int, acceleration: float, center_fraction: float) -> np.ndarray:
    if columns < 1:
        raise ArgumentError("columns", "a positive number", columns)
    _check_acceleration(acceleration)
    if not 0 <= center_fraction <= 1:
        raise ArgumentError("center_fraction", "a number in [0, 1]", center_fraction)
    center = np.zeros(columns, bool)
    center[center_slice(columns, round(columns * center_fraction))] = True
    return center


def _magic_columns(columns: int, spacing: int, offset: int) -> np.ndarray:
    """Columns right of DC from one offset on, left of it from another, so that no two are mirror images."""
    right, left = (offset + 2, offset - 1) if offset % 2 else (offset + 1, offset + 2)
    steps = np.arange(columns) - columns // 2
    side = np.where(steps >= 0, steps - right, -steps - 1 - left)
    return (side >= 0) & (side % spacing == 0)


def _integer(acceleration: float, where: str) -> int:
    if int(acceleration) != acceleration:
        raise ArgumentError(f"{where}: acceleration", "an integer", acceleration)
    return int(acceleration)


def _check_acceleration(acceleration: float) -> None:
    if not acceleration >= 1:
        raise ArgumentError("acceleration", "at least 1", acceleration)


def _seed(key: jax.Array | int) -> np.ndarray | int:
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(key))
    return int(key)
