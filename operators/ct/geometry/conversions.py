"""Geometries from and to the conventions of ASTRA and TIGRE.

Only parameters are converted; every function says how the arrays of the other side are laid out.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from operators.algebra import ArgumentError
from operators.ct.geometry.cone import ConeBeam
from operators.ct.geometry.fan import FanBeam
from operators.ct.geometry.parallel import ParallelBeam, ParallelBeam3D
from operators.ct.geometry.protocol import Geometry
from operators.ct.geometry.vector import VectorGeometry


def as_vectors(geometry: Geometry) -> VectorGeometry:
    """Any geometry with a flat detector, with source and detector written out view by view.

    Raises:
      ValueError: if the detector is curved.
    """
    if isinstance(geometry, VectorGeometry):
        return geometry
    if getattr(geometry, "curved", False):
        raise ArgumentError("as_vectors: geometry", "a flat detector", "a curved one")
    counts = geometry.shape[1:]
    ends = [jnp.array([-0.5, count - 0.5]) for count in counts]
    points, directions = geometry.rays(*ends)
    corners = (points + directions if geometry.divergent else points).reshape(
        geometry.views, -1, geometry.ndim
    )
    first, last = corners[:, 0], corners[:, -1]
    if geometry.ndim == 2:
        columns, rows = (last - first) / counts[0], None
    else:
        columns, rows = (corners[:, 1] - first) / counts[1], (corners[:, 2] - first) / counts[0]
    source = points if geometry.divergent else -directions
    source = source.reshape(geometry.views, -1, geometry.ndim)[:, 0]
    return VectorGeometry(source, (first + last) / 2, columns, rows, counts, geometry.divergent)


def from_astra(projection_geometry: Mapping) -> Geometry:
    """A geometry from ASTRA's dictionary of type parallel, fanflat, parallel3d, cone or their ``_vec``.

    World, angles, columns and rows are ASTRA's. Its images (ny, nx) descend in y as ours, but its volumes
    (nz, ny, nx) ascend in y: flip their middle axis, ``volume[:, ::-1]``, on the way there and back. Its
    three-dimensional projections are (rows, views, columns): ours are ``projections.swapaxes(0, 1)``.
    :func:`operators.ct.image_from_astra` tells where its volume geometry has the pixels.
    :func:`operators.fbp` and :func:`operators.fdk` take vectors that describe a circle or a helix.

    Args:
      projection_geometry: as made by ``astra.create_proj_geom``.

    Returns:
      ParallelBeam, FanBeam, ParallelBeam3D, ConeBeam or VectorGeometry.

    Raises:
      ValueError: if the type is none of these, or a key is missing.

    Source: van Aarle et al., Opt. Express 24:25129, 2016, and the geometries of the ASTRA documentation.

    Example:
      >>> scan = {"type": "parallel", "DetectorWidth": 0.5, "DetectorCount": 8, "ProjectionAngles": [1.0]}
      >>> operators.from_astra(scan).shape
      (1, 8)
    """
    g = projection_geometry
    kind = g.get("type")
    if kind in ("parallel_vec", "fanflat_vec", "parallel3d_vec", "cone_vec"):
        ndim = 2 if kind in ("parallel_vec", "fanflat_vec") else 3
        vectors = np.asarray(_field(g, "Vectors", "from_astra"), float)
        width = 6 if ndim == 2 else 12
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise ArgumentError("from_astra: Vectors", f"shape (views, {width})", vectors.shape)
        source, detector, column, *rows = np.split(vectors, width // ndim, axis=1)
        names = ("DetectorCount",) if ndim == 2 else ("DetectorRowCount", "DetectorColCount")
        shape = tuple(int(_field(g, name, "from_astra")) for name in names)
        divergent = kind in ("fanflat_vec", "cone_vec")
        return VectorGeometry(source, detector, column, rows[0] if rows else None, shape, divergent)
    if kind not in ("parallel", "fanflat", "parallel3d", "cone"):
        raise ArgumentError(
            "from_astra: type",
            "'parallel', 'fanflat', 'parallel3d' or 'cone', with '_vec' or without",
            repr(kind),
        )
    angles = jnp.asarray(_field(g, "ProjectionAngles", "from_astra"), float)
    near = far = 0.0
    if kind in ("fanflat", "cone"):
        near = float(_field(g, "DistanceOriginSource", "from_astra"))
        far = float(_field(g, "DistanceOriginDetector", "from_astra"))
    if kind in ("parallel", "fanflat"):
        count, width = (_field(g, name, "from_astra") for name in ("DetectorCount", "DetectorWidth"))
        if kind == "parallel":
            return ParallelBeam(angles, int(count), float(width))
        return FanBeam(angles, int(count), float(width), near, far)
    names = ("DetectorRowCount", "DetectorColCount")
    rows, columns = (int(_field(g, name, "from_astra")) for name in names)
    height, width = (float(_field(g, f"DetectorSpacing{axis}", "from_astra")) for axis in "YX")
    if kind == "parallel3d":
        return ParallelBeam3D(angles, (rows, columns), (height, width))
    return ConeBeam(angles, (rows, columns), (height, width), near, far)


def to_astra(geometry: Geometry) -> dict:
    """ASTRA's dictionary of a geometry, as ``astra.create_proj_geom`` returns it.

    The plain type where all offsets and the pitch are zero, else the ``_vec`` one; a cylindrical detector
    becomes cyl_cone_vec (ASTRA 2.4). See :func:`from_astra` for the layout of arrays: volumes ascend in y.

    Raises:
      ValueError: if the geometry is a curved fan beam, which ASTRA has not.

    Example:
      >>> operators.to_astra(operators.ParallelBeam(jnp.ones(3), 8))["type"]
      'parallel'
    """
    if isinstance(geometry, FanBeam) and geometry.curved:
        raise ArgumentError("to_astra: geometry", "a flat detector in two dimensions", "a curved FanBeam")
    counts: dict[str, Any] = dict(
        zip(("DetectorRowCount", "DetectorColCount"), geometry.shape[1:], strict=False)
    )
    if geometry.ndim == 2:
        counts = {"DetectorCount": geometry.shape[1]}
    if isinstance(geometry, ConeBeam) and geometry.curved:
        return {"type": "cyl_cone_vec", **counts, "Vectors": _cylinder_vectors(geometry)}
    if isinstance(geometry, VectorGeometry) or _moved(geometry):
        g = as_vectors(geometry)
        parts = (g.source, g.detector, g.column_axis, *(() if g.row_axis is None else (g.row_axis,)))
        kind = {2: ("parallel_vec", "fanflat_vec"), 3: ("parallel3d_vec", "cone_vec")}[g.ndim][g.divergent]
        return {"type": kind, **counts, "Vectors": np.concatenate([_double(p) for p in parts], axis=1)}
    if not isinstance(geometry, ParallelBeam | FanBeam | ParallelBeam3D | ConeBeam):
        raise ArgumentError("to_astra: geometry", "one of this package", type(geometry).__name__)
    result = {"ProjectionAngles": _double(geometry.angles), **counts}
    if isinstance(geometry, ParallelBeam | FanBeam):
        result["DetectorWidth"] = geometry.detector_spacing
    else:
        result["DetectorSpacingY"], result["DetectorSpacingX"] = geometry.detector_spacing
    if isinstance(geometry, FanBeam | ConeBeam):
        result["DistanceOriginSource"] = float(geometry.source_distance)
        result["DistanceOriginDetector"] = float(geometry.detector_distance)
    kinds = {2: ("parallel", "fanflat"), 3: ("parallel3d", "cone")}
    return {"type": kinds[geometry.ndim][geometry.divergent], **result}


def from_tigre(geo: Any, angles: ArrayLike) -> ConeBeam | ParallelBeam3D | VectorGeometry:
    """A geometry from TIGRE's: a ConeBeam or ParallelBeam3D, or vectors if the image is off the origin.

    TIGRE puts the source at ``DSO (cos a, sin a)``, which is our angle a + pi / 2, with columns and rows as
    ours and projections (views, rows, columns). Its volumes (nz, ny, nx) ascend in y: flip their middle axis.
    ``COR`` shifts source and detector along the columns: it is our ``-axis_offset``. An image at
    ``offOrigin`` becomes one at the origin, source and detector moved the other way, as for a helix;
    :func:`operators.ct.image_from_tigre` gives the shape of it.

    Args:
      geo: an object or mapping with DSD, DSO, nDetector, dDetector, and optionally offDetector, offOrigin,
        COR, rotDetector and mode; lengths and offsets as (rows, columns) and (z, y, x).
      angles: (views,) in radians.

    Returns:
      ConeBeam, ParallelBeam3D or VectorGeometry.

    Raises:
      ValueError: if a field is missing, the detector is rotated, ``angles`` is not (views,), or in mode
        "parallel" ``offDetector`` is not zero (there TIGRE does not move the rays with it; use COR).

    Source: Biguri et al., Biomed. Phys. Eng. Express 2:055010, 2016; the ray start points of its projectors.
    """
    angles = jnp.asarray(angles, float) + math.pi / 2
    if angles.ndim != 1:
        raise ArgumentError("from_tigre: angles", "shape (views,)", angles.shape)
    if np.any(np.asarray(_field(geo, "rotDetector", "from_tigre", (0, 0, 0)))):
        raise ArgumentError("from_tigre: rotDetector", "zero", "a rotated detector")
    shape: Any = tuple(int(n) for n in _field(geo, "nDetector", "from_tigre"))
    spacing: Any = tuple(float(d) for d in _field(geo, "dDetector", "from_tigre"))
    row_offset, offset = _constant(_field(geo, "offDetector", "from_tigre", (0, 0)), "offDetector", 2)
    (center,) = _constant(_field(geo, "COR", "from_tigre", 0), "COR", 1)
    fields: dict[str, Any] = {"detector_offset": offset, "row_offset": row_offset, "axis_offset": -center}
    mode = _field(geo, "mode", "from_tigre", "cone")
    if mode == "parallel":
        if offset or row_offset:
            raise ArgumentError("from_tigre: offDetector", "zero in mode 'parallel'", (row_offset, offset))
        geometry = ParallelBeam3D(angles, shape, spacing, **fields)
    elif mode == "cone":
        (far,), (near,) = (_constant(_field(geo, name, "from_tigre"), name, 1) for name in ("DSD", "DSO"))
        geometry = ConeBeam(angles, shape, spacing, near, far - near, **fields)
    else:
        raise ArgumentError("from_tigre: mode", "'cone' or 'parallel'", repr(mode))
    origin = np.asarray(_field(geo, "offOrigin", "from_tigre", (0, 0, 0)), float)
    if not origin.any():
        return geometry
    move = jnp.asarray(np.broadcast_to(origin, (angles.size, 3))[:, ::-1], angles.dtype)
    g = as_vectors(geometry)
    source = g.source - move if g.divergent else g.source
    return VectorGeometry(source, g.detector - move, g.column_axis, g.row_axis, g.detector_shape, g.divergent)


def to_tigre(geometry: Geometry) -> dict:
    """TIGRE's fields of a ParallelBeam3D, ConeBeam or FanBeam with a flat detector, and its angles.

    Set them on a ``tigre.geometry`` that describes the volume, or add it by
    :func:`operators.ct.image_to_tigre`; see :func:`from_tigre`. A FanBeam becomes one row whose height is a
    column's width.

    Returns:
      DSD and DSO (cone only), nDetector, dDetector, offDetector, offOrigin, COR, rotDetector, mode, angles.

    Raises:
      ValueError: if the geometry is another one, has a curved detector or, in parallel beams, a row offset.
    """
    if not isinstance(geometry, ConeBeam | ParallelBeam3D | FanBeam):
        raise ArgumentError(
            "to_tigre: geometry", "ConeBeam, ParallelBeam3D or FanBeam", type(geometry).__name__
        )
    if getattr(geometry, "curved", False):
        raise ArgumentError("to_tigre: geometry", "a flat detector", "a curved one")
    angles = _double(geometry.angles)
    offset, center = float(geometry.detector_offset), -float(geometry.axis_offset)
    if isinstance(geometry, FanBeam):
        row_offset, shape = 0.0, (1, geometry.detector_count)
        spacing = (geometry.detector_spacing,) * 2
    else:
        row_offset, shape = float(geometry.row_offset), geometry.detector_shape
        spacing = geometry.detector_spacing
    result = {
        "mode": "cone" if geometry.divergent else "parallel",
        "nDetector": np.array(shape),
        "dDetector": np.array(spacing),
        "offOrigin": np.zeros(3),
        "rotDetector": np.zeros(3),
        "angles": angles - math.pi / 2,
    }
    if isinstance(geometry, ParallelBeam3D):
        if row_offset:
            raise ArgumentError("to_tigre: row_offset", "zero in a parallel beam", row_offset)
        return result | {"offDetector": np.zeros(2), "COR": center + offset}
    if isinstance(geometry, ConeBeam) and (float(geometry.pitch) or float(geometry.axial_offset)):
        heights = _double(geometry.source_heights())
        result["offOrigin"] = np.stack([-heights, 0 * heights, 0 * heights], axis=-1)
    return result | {
        "DSO": float(geometry.source_distance),
        "DSD": float(geometry.source_distance) + float(geometry.detector_distance),
        "offDetector": np.array([row_offset, offset]),
        "COR": center,
    }


def _field(source: Any, name: str, owner: str, default: Any = None) -> Any:
    found = source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)
    if found is None and default is None:
        raise ValueError(f"{owner}: {name} is missing")
    return default if found is None else found


def _constant(value: Any, name: str, size: int) -> tuple[float, ...]:
    rows = np.asarray(value, float).reshape(-1, size)
    if np.ptp(rows, axis=0).any():
        raise ArgumentError(f"from_tigre: {name}", "the same in every view", f"{rows[:3].tolist()} ...")
    return tuple(float(x) for x in rows[0])


def _double(array: ArrayLike) -> np.ndarray:
    return np.asarray(array, np.float64)


def _moved(geometry: Geometry) -> bool:
    names = ("detector_offset", "axis_offset", "row_offset", "pitch", "axial_offset")
    return any(float(getattr(geometry, name, 0.0)) for name in names)


def _cylinder_vectors(geometry: ConeBeam) -> np.ndarray:
    """Source, center of the arc, tangent and axis of an element, radius: (views, 13)."""
    (rows, columns), (_, width) = geometry.detector_shape, geometry.detector_spacing
    points, directions = geometry.rays(jnp.array([(rows - 1) / 2]), jnp.array([(columns - 1) / 2]))
    source, reach = _double(points)[:, 0, 0], _double(directions)[:, 0, 0]
    radius = np.full((len(source), 1), float(geometry.source_distance) + float(geometry.detector_distance))
    # The tangent is at right angles to the radius.
    tangent = np.stack([reach[:, 1], -reach[:, 0], 0 * reach[:, 0]], axis=-1) * width / radius
    axis = np.zeros_like(source)
    axis[:, 2] = geometry.detector_spacing[0]
    return np.concatenate([source, source + reach, tangent, axis, radius], axis=1)
