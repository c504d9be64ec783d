"""Circular and helical scans among geometries that are given as vectors."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from operators.ct.geometry.cone import ConeBeam
from operators.ct.geometry.fan import FanBeam
from operators.ct.geometry.parallel import ParallelBeam, ParallelBeam3D
from operators.ct.geometry.vector import VectorGeometry

# Of an element: what single precision leaves of lengths of a meter.
_TOLERANCE = 2e-3
_KINDS = {"fbp": "ParallelBeam or FanBeam", "fdk": "ParallelBeam3D or ConeBeam"}


class Circular(NamedTuple):
    """A scan around an axis along z.

    Attributes:
      geometry: with the same rays, but around the origin.
      flips: axes of the sinogram, counted from the end, along which its elements run the other way.
      axis: (x, y) of the axis.
    """

    geometry: ParallelBeam | FanBeam | ParallelBeam3D | ConeBeam
    flips: tuple[int, ...]
    axis: tuple[float, float]


def as_circular(vectors: VectorGeometry, name: str) -> Circular:
    """The geometry with angles and offsets whose rays are those of the vectors, to 0.002 elements.

    The axis is the z axis if it can be, else the one that fits all views best.

    Args:
      vectors: with concrete numbers.
      name: of the caller, "fbp" or "fdk", for the messages.

    Raises:
      TypeError: if the vectors are traced, or no scan around an axis along z: a length or an offset
        differs between views, the detector is tilted, or the source neither keeps its height nor climbs
        evenly.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(vectors)):
        raise TypeError(
            f"{name}: geometry: expected concrete vectors or a geometry of angles, found traced vectors"
        )
    source, detector, across = (
        np.asarray(v, np.float64) for v in (vectors.source, vectors.detector, vectors.column_axis)
    )
    width = _same(np.linalg.norm(across, axis=-1), "the width of columns", name)
    limit, flips = _TOLERANCE * width, []
    e = across[:, :2] / width
    rows = None
    if vectors.row_axis is not None:
        rows = np.asarray(vectors.row_axis, np.float64)
        height = _same(np.linalg.norm(rows, axis=-1), "the height of rows", name)
        steep = np.hypot(rows[:, 0], rows[:, 1]).max() / height
        _require(max(steep, np.abs(across[:, 2]).max() / width) < 1e-4, name, "a tilted detector")
        _require(np.ptp(np.sign(rows[:, 2])) == 0, name, "rows along z in some views, against it in others")
        if rows[0, 2] < 0:
            flips.append(-2)
    reach = detector - source if vectors.divergent else source
    # The normal of the detector that points away from the source.
    normal = np.stack([-e[:, 1], e[:, 0]], axis=-1)
    side = np.sign(np.sum(normal * reach[:, :2], axis=-1))
    _require(np.ptp(side) == 0 and side[0] != 0, name, "sources on both sides of the detector")
    if vectors.divergent and side[0] < 0:
        e, normal = -e, -normal
        flips.append(-1)
    angles = np.unwrap(np.arctan2(e[:, 1], e[:, 0]))
    axis = _axis(source if vectors.divergent else None, detector, e, normal, limit)
    detector = detector - np.pad(axis, (0, detector.shape[-1] - 2))
    if vectors.divergent:
        source = source - np.pad(axis, (0, source.shape[-1] - 2))
    place = (float(axis[0]), float(axis[1]))

    def along(points, axis, what):
        return _same(np.sum(points[:, :2] * axis, axis=-1), what, name, limit)

    counts: Any = vectors.detector_shape
    if not vectors.divergent:
        slant = source / np.linalg.norm(source, axis=-1, keepdims=True)
        off = np.abs(np.sum(slant[:, :2] * e, axis=-1)).max()
        if rows is not None:
            off = max(off, np.abs(slant[:, 2]).max())
        _require(off < 1e-4, name, "rays that are not at right angles to the detector")
        offset = along(detector, e, "the offset of the detector from the axis")
        if rows is None:
            return Circular(ParallelBeam(_modulo(angles), counts[0], width, offset), tuple(flips), place)
        up = _same(detector[:, 2], "the height of the detector", name, _TOLERANCE * height)
        scan = ParallelBeam3D(_modulo(angles), counts, (height, width), offset, up)
        return Circular(scan, tuple(flips), place)
    near = along(-source, normal, "the distance of the source from the axis")
    far = along(detector, normal, "the distance of the detector from the axis")
    offsets = {
        "axis_offset": along(-source, e, "the offset of the axis"),
        "detector_offset": along(reach, e, "the offset of the detector from the central ray"),
    }
    _require(near > 0 and far > 0, name, "an axis that is not between source and detector")
    if rows is None:
        fan = FanBeam(_modulo(angles), counts[0], width, near, far, **offsets)
        return Circular(fan, tuple(flips), place)
    limit = _TOLERANCE * height
    offsets["row_offset"] = _same(reach[:, 2], "the height of the detector over the source", name, limit)
    pitch, start = 0.0, float(source[0, 2])
    if np.ptp(source[:, 2]) > limit:
        slope, start = np.polyfit(angles, source[:, 2], 1)
        pitch = 2 * math.pi * slope
        error = np.abs(start + slope * angles - source[:, 2]).max()
        _require(error < limit, name, f"a source that is up to {error:.4g} off a helix")
    else:
        angles = _modulo(angles)
    scan = ConeBeam(
        angles, counts, (height, width), near, far, pitch=pitch, axial_offset=float(start), **offsets
    )
    return Circular(scan, tuple(flips), place)


def _axis(
    source: np.ndarray | None, detector: np.ndarray, e: np.ndarray, normal: np.ndarray, limit: float
) -> np.ndarray:
    """(x, y) from which source and detector have the same offsets along e and the normal in all views."""
    pairs = [(detector, e)] if source is None else [(source, e), (source, normal), (detector, normal)]
    offsets = [np.sum(points[:, :2] * along, axis=-1) for points, along in pairs]
    if all(np.ptp(o) <= 2 * limit for o in offsets):
        return np.zeros(2)
    # Unknown are the axis and the mean of each offset.
    left = np.concatenate([along - along.mean(0) for _, along in pairs])
    right = np.concatenate([o - o.mean() for o in offsets])
    return np.linalg.lstsq(left, right, rcond=1e-6)[0]


def _modulo(angles: np.ndarray) -> np.ndarray:
    return np.remainder(angles, 2 * math.pi)


def _same(values: np.ndarray, what: str, name: str, limit: float | None = None) -> float:
    middle = float((values.max() + values.min()) / 2)
    spread = float(np.ptp(values))
    if spread > 2 * (_TOLERANCE * abs(middle) if limit is None else limit):
        found = f"{what} from {values.min():.6g} to {values.max():.6g}"
        _require(False, name, found)
    return middle


def _require(condition: bool | np.bool_, name: str, found: str) -> None:
    if not condition:
        raise TypeError(
            f"{name}: geometry: expected {_KINDS[name]}, or vectors of such a scan around an axis along z, "
            f"found a VectorGeometry with {found}; views of arbitrary poses are reconstructed by the "
            "iterative methods (cgls, sirt)"
        )
