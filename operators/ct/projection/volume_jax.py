"""Projection of volumes in plain JAX, chunks of views at a time: for any platform and precision.

The functions take one table and a batch of arrays; see ``volume_primitive``. Forward they gather,
backward they scatter into one plane or the profiles along z on one plane.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import vary_together

_ELEMENTS = 2**20  # of the largest temporary arrays


def by_pose(layout: Any) -> bool:
    """Whether the table is one of poses, not of columns."""
    return layout.model in ("diverging", "parallel")


def project(layout: Any, table: jax.Array, volumes: jax.Array, separate: bool = False) -> jax.Array:
    """Volumes (b, nz, ny, nx) to sinograms (b, views, rows, columns).

    Args:
      layout: see :class:`operators.ct.projection.volume_primitive.Layout`.
      table: of one geometry.
      volumes: the batch.
      separate: whether voxels are combined only after they are gathered, so that, with the volumes constant,
        the derivative in the table gathers and never scatters.
    """
    views = _views(layout, table)
    chunk = _chunk(layout, volumes.shape[0], views)
    if by_pose(layout):
        function = functools.partial(_project_rays, layout, volumes)
    else:
        function = functools.partial(_project_columns, layout, tuple(_lines(layout, volumes)), separate)
    parts = jax.lax.map(jax.checkpoint(function), _chunks(layout, table, chunk))
    return jnp.moveaxis(parts, 0, 1).reshape(volumes.shape[0], -1, *layout.detector)[:, :views]


def back_project(layout: Any, table: jax.Array, sinograms: jax.Array) -> jax.Array:
    """Sinograms (b, views, rows, columns) to volumes (b, nz, ny, nx)."""
    batch, views = sinograms.shape[:2]
    chunk = _chunk(layout, batch, views)
    sinograms = jnp.pad(sinograms, ((0, 0), (0, -views % chunk), (0, 0), (0, 0)))
    sinograms = jnp.moveaxis(sinograms.reshape(batch, -1, chunk, *layout.detector), 1, 0)
    function = _back_project_rays if by_pose(layout) else _back_project_columns

    def step(total, part):
        return total + function(layout, *part), None

    start = jnp.zeros((batch, *layout.shape), sinograms.dtype)
    start, *_ = vary_together(start, table, sinograms)
    return jax.lax.scan(step, start, (_chunks(layout, table, chunk), sinograms))[0]


def _views(layout, table):
    return table.shape[0 if by_pose(layout) else 1]


def _chunk(layout, batch, views):
    rows, columns = layout.detector
    largest = batch * columns * max(rows, 1 if by_pose(layout) else layout.shape[0])
    return max(1, min(views, _ELEMENTS // largest))


def _chunks(layout, table, chunk):
    """The table by chunks of views, the last filled with its last view."""
    axis = 0 if by_pose(layout) else 1
    views = table.shape[axis]
    widths = [(0, -views % chunk if a == axis else 0) for a in range(table.ndim)]
    table = jnp.pad(table, widths, mode="edge")
    return jnp.moveaxis(table.reshape(*table.shape[:axis], -1, chunk, *table.shape[axis + 1 :]), axis, 0)


def _numbers(count, dtype):
    return jnp.asarray(np.arange(count) - (count - 1) / 2, dtype)


def _where_any(own, function, shape, *operands):
    """``function(*operands)``, or zeros where no ray is its own."""
    leaves, structure = jax.tree.flatten(operands)
    zeros, own, *leaves = vary_together(jnp.zeros(shape, leaves[-1].dtype), own, *leaves)
    operands = jax.tree.unflatten(structure, leaves)
    return jax.lax.cond(jnp.any(own), function, lambda *_: zeros, *operands)


def _locate(position, last):
    """Entries of a table and the fractions towards the next."""
    position = jnp.clip(position, 0, last)
    entry = jnp.floor(position)
    return entry.astype(jnp.int32), position - entry, position


# Tables of columns.


def _lines(layout, volumes):
    """Volumes by planes of constant y, then of constant x: (planes, b, entries, nz), to interpolate in."""
    for order in ((2, 0, 3, 1), (3, 0, 2, 1)):
        planes = volumes.transpose(order)
        if layout.model == "distance-driven":
            planes = jnp.pad(jnp.cumsum(planes, 2), ((0, 0), (0, 0), (1, 2), (0, 0)), mode="edge")
            yield planes.at[:, :, 0].set(0)
        else:
            yield jnp.pad(planes, ((0, 0), (0, 0), (1, 2), (0, 0)))


def _own(table, axis):
    length = table[0] if axis == 0 else -table[0]
    return length > 0


def _path_lengths(layout, table):
    """Path from plane to plane of every ray: (views, rows, columns)."""
    climb = table[6][:, None] + table[8][:, None] * _numbers(layout.detector[0], table.dtype)[:, None]
    return layout.pixel_size * jnp.sqrt((table[0] ** 2)[:, None] + climb**2)


def _across(layout, table, number, pixels):
    """Where columns meet the lines of a plane: (sign, entry, fraction) of each end, and their width."""
    left, right = (table[i] + table[i + 1] * number + (pixels - 1) / 2 for i in (1, 3))
    if layout.model == "joseph":
        return [(1, *_locate(left + 1, pixels + 1)[:2])], None
    ends = [_locate(end + 0.5, pixels) for end in (left, right)]
    width = (table[3] - table[1]) + (table[4] - table[2]) * number
    # Columns outside of the volume; on a plane through the source they have no width.
    width = jnp.where(ends[0][2] == ends[1][2], jnp.inf, width)
    return [(sign, *end[:2]) for sign, end in zip((-1, 1), ends, strict=True)], width


def _along_z(layout, table, number):
    """Entries and fractions of the rows, or their edges, (views, columns, knots), and their widths."""
    (rows, _), nz = layout.detector, layout.shape[0]
    integrated = layout.model == "distance-driven"
    knots, offset, last = (rows + 1, 0.5, nz) if integrated else (rows, 1, nz + 1)
    height, step = (table[i] + table[i + 1] * number for i in (5, 7))
    position = height[..., None] + step[..., None] * _numbers(knots, table.dtype) + ((nz - 1) / 2 + offset)
    entry, fraction, position = _locate(position, last)
    if not integrated:
        return entry, fraction, None
    return entry, fraction, jnp.where(jnp.diff(position) == 0, jnp.inf, step[..., None])


def _project_columns(layout, lines, separate, table):
    total = 0
    for axis, planes in enumerate(lines):
        own = _own(table, axis)
        shape = (planes.shape[1], *own.shape, layout.detector[0])

        def over_planes(table, planes, shape=shape):
            step = functools.partial(_project_plane, layout, separate, table)
            start, *_ = vary_together(jnp.zeros(shape, planes.dtype), table, planes)
            numbers = _numbers(planes.shape[0], table.dtype)
            return jax.lax.scan(jax.checkpoint(step), start, (numbers, planes))[0]

        total = total + own[..., None] * _where_any(own, over_planes, shape, table, planes)
    return _path_lengths(layout, table) * total.swapaxes(-1, -2)


def _project_plane(layout, separate, table, total, plane):
    number, lines = plane
    ends, width = _across(layout, table, number, lines.shape[1] - 3)
    parts = []
    for sign, entry, fraction in ends:
        low, high = (jnp.take(lines, entry + i, axis=1, mode="clip") for i in (0, 1))
        scale = sign if width is None else sign / width
        parts += [(jnp.broadcast_to(scale, fraction.shape), low), (scale * fraction, high - low)]
    if len(parts) == 4:
        # Differences of running sums before they are multiplied: less is lost.
        (_, before), (minus, rise), (scale, after), plus = parts
        parts = [(scale, after - before), (minus, rise), plus]
    along = _along_z(layout, table, number)
    if separate:
        return total + sum(c[..., None] * _sample(values, *along) for c, values in parts), None
    return total + _sample(sum(c[..., None] * values for c, values in parts), *along), None


def _sample(profiles, entry, fraction, width):
    """Profiles along z (b, views, columns, nz) at the rows: (b, views, columns, rows)."""
    if width is None:
        profiles = jnp.pad(profiles, ((0, 0),) * 3 + ((1, 2),))
    else:
        profiles = jnp.pad(jnp.cumsum(profiles, -1), ((0, 0),) * 3 + ((1, 2),), mode="edge")
        profiles = profiles.at[..., 0].set(0)
    low, high = (jnp.take_along_axis(profiles, entry[None] + i, axis=-1, mode="clip") for i in (0, 1))
    values = low + fraction * (high - low)
    return values if width is None else jnp.diff(values) / width


def _back_project_columns(layout, table, sinograms):
    (nz, ny, nx), batch = layout.shape, sinograms.shape[0]
    values = (_path_lengths(layout, table) * sinograms).swapaxes(-1, -2)
    volume = 0
    for axis, (count, pixels, order) in enumerate(((ny, nx, (1, 3, 0, 2)), (nx, ny, (1, 3, 2, 0)))):
        own = _own(table, axis)

        def over_planes(table, values, count=count, pixels=pixels):
            step = functools.partial(_back_project_plane, layout, pixels, table, values)
            return jax.lax.map(step, _numbers(count, table.dtype))

        shape = (count, batch, pixels + 3, nz)
        planes = _where_any(own, over_planes, shape, table, values * own[..., None])
        if layout.model == "distance-driven":
            planes = jnp.flip(jnp.cumsum(jnp.flip(planes, 2), 2), 2)
        volume = volume + planes[:, :, 1 : pixels + 1].transpose(order)
    return volume


def _back_project_plane(layout, pixels, table, values, number):
    nz = layout.shape[0]
    ends, width = _across(layout, table, number, pixels)
    profiles = _spread(nz, values, *_along_z(layout, table, number))
    if width is not None:
        profiles = profiles / width[..., None]
    plane = jnp.zeros((values.shape[0], pixels + 3, nz), values.dtype)
    plane, *_ = vary_together(plane, profiles)
    for sign, entry, fraction in ends:
        plane = plane.at[:, entry].add(sign * (1 - fraction)[..., None] * profiles)
        plane = plane.at[:, entry + 1].add(sign * fraction[..., None] * profiles)
    return plane


def _spread(nz, values, entry, fraction, width):
    """The transpose of :func:`_sample`."""
    if width is not None:
        values = values / width
        values = jnp.pad(values, ((0, 0),) * 3 + ((1, 0),)) - jnp.pad(values, ((0, 0),) * 3 + ((0, 1),))
    batch, views, columns, _ = values.shape
    place = entry + (nz + 3) * np.arange(views * columns).reshape(views, columns, 1)
    table = jnp.zeros((batch, views * columns * (nz + 3)), values.dtype)
    table, *_ = vary_together(table, values)
    table = table.at[:, place].add((1 - fraction) * values).at[:, place + 1].add(fraction * values)
    table = table.reshape(batch, views, columns, nz + 3)
    if width is not None:
        table = jnp.flip(jnp.cumsum(jnp.flip(table, -1), -1), -1)
    return table[..., 1 : nz + 1]


# Tables of poses. Components of vectors are x, y, z; axes of volumes z, y, x.


def _rays(layout, poses):
    """Points and directions of the rays of some views: (views, rows, columns, 3) each."""
    source, detector, column, row = (poses[:, i, None, None] for i in range(4))
    rows, columns = (_numbers(n, poses.dtype)[:, None] for n in layout.detector)
    elements = detector + columns * column + rows[:, None] * row
    if layout.model == "parallel":
        return elements, jnp.broadcast_to(source, elements.shape)
    return jnp.broadcast_to(source, elements.shape), elements - source


def _ray_paths(layout, poses):
    """By main axis x, y, z: the path per plane, 0 for rays of other axes, and (base, slope) of the others."""
    points, directions = _rays(layout, poses)
    main = jnp.argmax(jnp.abs(directions), axis=-1)
    for axis in range(3):
        own = main == axis
        speed = jnp.where(own, directions[..., axis], 1)
        paths, square = [], 1
        # In the order of the axes of the volume.
        for other in (i for i in (2, 1, 0) if i != axis):
            slope = jnp.where(own, directions[..., other], 0) / speed
            paths.append((points[..., other] - points[..., axis] * slope, slope))
            square = square + slope**2
        yield own, own * layout.pixel_size * jnp.sqrt(square), paths


def _in_plane(paths, number, shape):
    """Flat entries (4, ...) of a plane and their weights."""
    ends = []
    for (base, slope), n in zip(paths, shape, strict=True):
        entry, fraction, _ = _locate(base + slope * number + ((n - 1) / 2 + 1), n + 1)
        ends.append(((entry, 1 - fraction), (entry + 1, fraction)))
    stride = shape[1] + 3
    pairs = [(i * stride + j, u * v) for i, u in ends[0] for j, v in ends[1]]
    return tuple(jnp.stack(part) for part in zip(*pairs, strict=True))


def _project_rays(layout, volumes, poses):
    total, batch = 0, volumes.shape[0]
    for axis, (own, lengths, paths) in enumerate(_ray_paths(layout, poses)):
        planes = jnp.moveaxis(volumes, 3 - axis, 0)
        shape = (batch, *own.shape)

        def over_planes(paths, planes, shape=shape):
            count, pixels = planes.shape[0], planes.shape[2:]
            planes = jnp.pad(planes, ((0, 0), (0, 0), (1, 2), (1, 2))).reshape(count, batch, -1)

            def step(partial, plane):
                number, values = plane
                places, weights = _in_plane(paths, number, pixels)
                return partial + jnp.sum(weights * jnp.take(values, places, axis=1, mode="clip"), 1), None

            start, *_ = vary_together(jnp.zeros(shape, planes.dtype), *jax.tree.leaves(paths), planes)
            return jax.lax.scan(jax.checkpoint(step), start, (_numbers(count, planes.dtype), planes))[0]

        total = total + lengths * _where_any(own, over_planes, shape, paths, planes)
    return total


def _back_project_rays(layout, poses, sinograms):
    volume, batch = 0, sinograms.shape[0]
    for axis, (own, lengths, paths) in enumerate(_ray_paths(layout, poses)):
        count = layout.shape[2 - axis]
        pixels = tuple(n for i, n in enumerate(layout.shape) if i != 2 - axis)
        padded = tuple(n + 3 for n in pixels)

        def over_planes(paths, values, count=count, pixels=pixels, padded=padded):
            def step(number):
                places, weights = _in_plane(paths, number, pixels)
                plane = jnp.zeros((batch, padded[0] * padded[1]), values.dtype)
                plane, *_ = vary_together(plane, values, weights)
                return plane.at[:, places].add(weights * values[:, None]).reshape(batch, *padded)

            return jax.lax.map(step, _numbers(count, values.dtype))

        shape = (count, batch, *padded)
        planes = _where_any(own, over_planes, shape, paths, lengths * sinograms)
        inner = planes[:, :, 1 : pixels[0] + 1, 1 : pixels[1] + 1]
        volume = volume + jnp.moveaxis(inner, 0, 3 - axis)
    return volume
