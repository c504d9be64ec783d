"""Geometries from and to ODL, and from the projections of clinical scanners (DICOM-CT-PD)."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from operators.algebra import ArgumentError
from operators.ct.geometry.cone import ConeBeam
from operators.ct.geometry.conversions import as_vectors
from operators.ct.geometry.fan import FanBeam
from operators.ct.geometry.parallel import ParallelBeam, ParallelBeam3D
from operators.ct.geometry.protocol import Geometry
from operators.ct.geometry.vector import VectorGeometry


def from_odl(geometry: Any) -> Geometry:
    """A geometry from one of ODL's with its default axes: Parallel2d, Parallel3dAxis, FanBeam or ConeBeam.

    ODL's angles, world and helix are ours. Its images are indexed (x, y), its volumes (x, y, z), with all
    axes ascending: ours are ``image.T[::-1]`` and ``volume.transpose(2, 1, 0)[:, ::-1]``. Its
    three-dimensional projections are (views, columns, rows). An asymmetric detector partition is an offset;
    a translation, or shifts of source or detector, make vectors. Where a space has its pixels,
    :func:`operators.ct.image_from_odl` tells.

    Args:
      geometry: an object with ODL's attributes: ``angles``, ``det_partition`` (``min_pt``, ``max_pt``,
        ``shape``) and, for divergent beams, ``src_radius``, ``det_radius``, ``det_curvature_radius``,
        ``pitch``, ``offset_along_axis``, ``src_shift_func`` and ``det_shift_func``; and ``translation``.

    Returns:
      ParallelBeam, ParallelBeam3D, FanBeam or ConeBeam, or a VectorGeometry if anything is moved.

    Raises:
      ValueError: if its axes are not the default ones, or its detector is curved but not around the source,
        or curved and moved.

    Source: Adler, Kohr and Oktem, Operator Discretization Library, doi:10.5281/zenodo.249479, 2017.
    """
    result = _from_odl_unmoved(geometry)
    moves = _odl_moves(geometry, result)
    if not any(move.any() for move in moves):
        return result
    if getattr(result, "curved", False):
        expected = "a flat detector where a translation or shifts move it"
        raise ArgumentError("from_odl: det_curvature_radius", expected, "a curved one")
    vectors, (source, detector) = as_vectors(result), moves
    return VectorGeometry(
        vectors.source + source if vectors.divergent else vectors.source,
        vectors.detector + detector,
        vectors.column_axis,
        vectors.row_axis,
        vectors.detector_shape,
        vectors.divergent,
    )


def _odl_moves(geometry: Any, unmoved: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """What the translation and shifts of ODL's geometry add to source and detector: (views, ndim) each."""
    ndim, views = unmoved.ndim, unmoved.views
    angles = np.asarray(geometry.angles, float)
    cos, sin = np.cos(angles), np.sin(angles)
    # The tangent in which the source is shifted, and the way from the source to the detector.
    across, along = np.stack([cos, sin], -1), np.stack([-sin, cos], -1)
    translation = getattr(geometry, "translation", None)
    moves = []
    # The detector's shifts are along the opposite axes.
    for name, sign in (("src_shift_func", -1.0), ("det_shift_func", 1.0)):
        move = np.zeros((views, ndim))
        move += 0.0 if translation is None else np.asarray(translation, float)
        function = getattr(geometry, name, None)
        if function is not None:
            shift = np.broadcast_to(np.atleast_2d(np.asarray(function(angles), float)), (views, ndim))
            move[:, :2] += sign * (shift[:, :1] * along - shift[:, 1:2] * across)
            move[:, 2:] += shift[:, 2:]
        moves.append(move)
    return moves[0], moves[1]


def _from_odl_unmoved(geometry: Any) -> ParallelBeam | ParallelBeam3D | FanBeam | ConeBeam:
    angles = jnp.asarray(np.asarray(geometry.angles), float)
    partition = geometry.det_partition
    shape = tuple(int(n) for n in np.atleast_1d(partition.shape))
    low, high = (np.atleast_1d(np.asarray(p, float)) for p in (partition.min_pt, partition.max_pt))
    ndim = len(shape) + 1
    _check_odl_axes(geometry, ndim)
    divergent = getattr(geometry, "src_radius", None) is not None
    curved = False
    if divergent:
        source, detector = float(geometry.src_radius), float(geometry.det_radius)
        bend = getattr(geometry, "det_curvature_radius", None)
        radii = () if bend is None else tuple(np.atleast_1d(np.asarray(bend, object)))
        if radii:
            curved = True
            bent_along_z = len(radii) > 1 and radii[1] is not None and math.isfinite(radii[1])
            if bent_along_z or not math.isclose(radii[0], source + detector, rel_tol=1e-6):
                raise ArgumentError(
                    "from_odl: det_curvature_radius",
                    f"the distance from source to detector, {source + detector:.6g}, along columns only",
                    bend,
                )
            low[0], high[0] = low[0] * (source + detector), high[0] * (source + detector)
    steps, middles = (high - low) / np.array(shape), (high + low) / 2
    offsets: dict[str, Any] = {"detector_offset": float(middles[0])}
    if ndim == 2:
        count, width = shape[0], float(steps[0])
        if not divergent:
            return ParallelBeam(angles, count, width, **offsets)
        return FanBeam(angles, count, width, source, detector, curved, **offsets)
    columns, rows = shape
    width, height = (float(step) for step in steps)
    offsets["row_offset"] = float(middles[1])
    if not divergent:
        return ParallelBeam3D(angles, (rows, columns), (height, width), **offsets)
    pitch, start = (float(getattr(geometry, name, 0.0)) for name in ("pitch", "offset_along_axis"))
    offsets |= {"pitch": pitch, "axial_offset": start}
    return ConeBeam(angles, (rows, columns), (height, width), source, detector, curved, **offsets)


def to_odl(geometry: Geometry) -> dict:
    """What ODL needs to build a geometry: the name of its class, its partitions and keywords.

    See :func:`from_odl` for the layout of arrays.

    Returns:
      "class" (Parallel2dGeometry, Parallel3dAxisGeometry, FanBeamGeometry or ConeBeamGeometry), "angles"
      (views,) for a (non-uniform) angle partition, "det_min_pt", "det_max_pt" and "det_shape" for the
      detector's uniform one, and for divergent beams "src_radius", "det_radius", "det_curvature_radius",
      "pitch" and "offset_along_axis".

    Raises:
      ValueError: if the geometry is none of these kinds, or a divergent one has an ``axis_offset``.
    """
    names = {
        ParallelBeam: "Parallel2dGeometry",
        ParallelBeam3D: "Parallel3dAxisGeometry",
        FanBeam: "FanBeamGeometry",
        ConeBeam: "ConeBeamGeometry",
    }
    if not isinstance(geometry, ParallelBeam | ParallelBeam3D | FanBeam | ConeBeam):
        expected = ", ".join(kind.__name__ for kind in names)
        raise ArgumentError("to_odl: geometry", f"one of {expected}", type(geometry).__name__)
    axis = float(geometry.axis_offset)
    if geometry.divergent and axis:
        raise ArgumentError("to_odl: axis_offset", "zero in divergent beams", axis)
    middle = np.array([float(geometry.detector_offset) - axis])
    if isinstance(geometry, ParallelBeam | FanBeam):
        step = np.array([geometry.detector_spacing])
    else:
        step = np.array(geometry.detector_spacing[::-1])
        middle = np.append(middle, float(geometry.row_offset))
    shape = geometry.shape[1:][::-1]
    low, high = middle - step * np.array(shape) / 2, middle + step * np.array(shape) / 2
    result: dict[str, Any] = {
        "class": names[type(geometry)],
        "angles": np.asarray(geometry.angles, np.float64),
    }
    if isinstance(geometry, FanBeam | ConeBeam):
        source, detector = float(geometry.source_distance), float(geometry.detector_distance)
        bend = None
        if geometry.curved:
            radius = source + detector
            bend = radius if isinstance(geometry, FanBeam) else (radius, None)
            low[0], high[0] = low[0] / (source + detector), high[0] / (source + detector)
        result |= {"src_radius": source, "det_radius": detector, "det_curvature_radius": bend}
        if isinstance(geometry, ConeBeam):
            result |= {"pitch": float(geometry.pitch), "offset_along_axis": float(geometry.axial_offset)}
    return result | {"det_min_pt": low, "det_max_pt": high, "det_shape": shape}


def _check_odl_axes(geometry: Any, ndim: int) -> None:
    translation = getattr(geometry, "translation", None)
    defaults = {
        "axis": (0, 0, 1),
        "det_pos_init": (0, 1, 0)[:ndim],
        "src_to_det_init": (0, 1, 0)[:ndim],
        "det_axis_init": (1, 0),
        "det_axes_init": ((1, 0, 0), (0, 0, 1)),
    }
    for name, default in defaults.items():
        found = getattr(geometry, name, None)
        if name == "det_pos_init" and found is not None and translation is not None:
            found = np.asarray(found, float) - np.asarray(translation, float)
        if found is not None and not np.allclose(np.asarray(found, float), default):
            raise ArgumentError(f"from_odl: {name}", f"the default {default}", found)


def from_dicom_ct_pd(tags: Mapping) -> ConeBeam:
    """The geometry of a scan stored in DICOM-CT-PD, in mm.

    The format puts the detector's focal center, here the source, at ``(-rho sin phi, rho cos phi, z)``, and
    its columns advance along ``(cos phi, sin phi)``. Seen in a mirror at the plane x = 0 this is ours, with
    angle ``-phi - pi``; so x is the negative of the format's, y and z are its own. Rows descend in z there:
    the view of the file's pixels p (columns, rows) is ``p.T[::-1]``, rescaled by its slope and intercept.

    Args:
      tags: of the attributes' names, one number each or one per view: DetectorFocalCenterAngularPosition and
        DetectorFocalCenterAxialPosition (views,), DetectorFocalCenterRadialDistance, ConstantRadialDistance,
        DetectorCentralElement (column, row, counted from 1), NumberofDetectorColumns, NumberofDetectorRows,
        DetectorElementTransverseSpacing, DetectorElementAxialSpacing, and optionally DetectorShape and
        FlyingFocalSpotMode.

    Returns:
      ConeBeam, with the pitch that fits the axial positions.

    Raises:
      ValueError: if a tag is missing, constants vary, the detector is neither CYLINDRICAL nor FLAT, the focal
        spot flies, or the axial positions are not a helix to a tenth of a row.

    Source: Chen et al., Med. Phys. 42:6900, 2015; Moen et al., Med. Phys. 48:902, 2021, table IV.
    """

    def get(name, default=None):
        if name not in tags and default is None:
            raise ValueError(f"from_dicom_ct_pd: {name} is missing")
        return tags.get(name, default)

    def constant(name):
        values = np.unique(np.asarray(get(name), float))
        if values.size != 1:
            raise ArgumentError(f"from_dicom_ct_pd: {name}", "the same in every view", f"{values[:3]} ...")
        return float(values[0])

    shape = str(get("DetectorShape", "CYLINDRICAL")).strip().upper()
    if shape not in ("CYLINDRICAL", "FLAT"):
        raise ArgumentError("from_dicom_ct_pd: DetectorShape", "CYLINDRICAL or FLAT", shape)
    mode = str(get("FlyingFocalSpotMode", "FFSNONE")).strip().upper()
    shifts = ("SourceAngularPositionShift", "SourceAxialPositionShift", "SourceRadialDistanceShift")
    if mode != "FFSNONE" or any(np.any(np.asarray(tags.get(name, 0), float)) for name in shifts):
        raise ArgumentError(
            "from_dicom_ct_pd: FlyingFocalSpotMode", "FFSNONE with no shifts of the source", mode
        )
    angles = -np.unwrap(np.asarray(get("DetectorFocalCenterAngularPosition"), float)) - math.pi
    heights = np.broadcast_to(np.asarray(get("DetectorFocalCenterAxialPosition"), float), angles.shape)
    rows, columns = int(constant("NumberofDetectorRows")), int(constant("NumberofDetectorColumns"))
    spacing = constant("DetectorElementAxialSpacing"), constant("DetectorElementTransverseSpacing")
    pitch, start = 0.0, float(heights[0])
    if np.ptp(heights) == 0:
        angles = np.remainder(angles, 2 * math.pi)  # A circle may be measured more than once.
    else:
        slope, start = np.polyfit(angles, heights, 1)
        pitch, start = float(2 * math.pi * slope), float(start)
    error = float(np.abs(start + pitch * angles / (2 * math.pi) - heights).max())
    if error > 0.1 * spacing[0]:
        raise ArgumentError(
            "from_dicom_ct_pd: DetectorFocalCenterAxialPosition",
            f"a helix to a tenth of a row, {0.1 * spacing[0]:.6g}",
            f"a deviation of {error:.6g}",
        )
    column, row = (float(x) for x in np.asarray(get("DetectorCentralElement"), float).reshape(-1, 2)[0])
    near, far = constant("DetectorFocalCenterRadialDistance"), constant("ConstantRadialDistance")
    return ConeBeam(
        angles,
        (rows, columns),
        spacing,
        source_distance=near,
        detector_distance=far - near,
        curved=shape == "CYLINDRICAL",
        pitch=pitch,
        detector_offset=((columns + 1) / 2 - column) * spacing[1],
        row_offset=(row - (rows + 1) / 2) * spacing[0],
        axial_offset=start,
    )


def to_dicom_ct_pd(geometry: ConeBeam) -> dict:
    """The tags by which DICOM-CT-PD stores a scan, as :func:`from_dicom_ct_pd` reads them, lengths in mm.

    The world is mirrored at the plane x = 0, and rows descend in z: a view y (rows, columns) is stored as the
    pixels ``y[::-1].T``.

    Args:
      geometry: with concrete numbers.

    Returns:
      Numbers by the names of the attributes: DetectorFocalCenterAngularPosition, in [0, 2 pi), and
      DetectorFocalCenterAxialPosition float64 (views,), DetectorCentralElement (column, row) counted from 1,
      DetectorShape, FlyingFocalSpotMode, and the others plain numbers.

    Raises:
      TypeError: if the geometry is of another kind.
      ValueError: if the axis of rotation is off the central ray, for which the format has no tag.

    Source: as :func:`from_dicom_ct_pd`.
    """
    if not isinstance(geometry, ConeBeam):
        raise TypeError(f"to_dicom_ct_pd: geometry: expected ConeBeam, found {type(geometry).__name__}")
    if float(geometry.axis_offset):
        raise ArgumentError("to_dicom_ct_pd: axis_offset", "0", f"{float(geometry.axis_offset):.6g}")
    (rows, columns), (row_spacing, spacing) = geometry.detector_shape, geometry.detector_spacing
    angles = np.asarray(geometry.angles, np.float64)
    heights = float(geometry.axial_offset) + float(geometry.pitch) * angles / (2 * math.pi)
    near = float(geometry.source_distance)
    column = (columns + 1) / 2 - float(geometry.detector_offset) / spacing
    row = (rows + 1) / 2 + float(geometry.row_offset) / row_spacing
    return {
        "DetectorFocalCenterAngularPosition": np.remainder(-angles - math.pi, 2 * math.pi),
        "DetectorFocalCenterAxialPosition": heights,
        "DetectorFocalCenterRadialDistance": near,
        "ConstantRadialDistance": near + float(geometry.detector_distance),
        "DetectorCentralElement": (column, row),
        "NumberofDetectorColumns": columns,
        "NumberofDetectorRows": rows,
        "DetectorElementTransverseSpacing": spacing,
        "DetectorElementAxialSpacing": row_spacing,
        "DetectorShape": "CYLINDRICAL" if geometry.curved else "FLAT",
        "FlyingFocalSpotMode": "FFSNONE",
    }
