"""Where other packages have the pixels of images, from and to arguments of ``Radon``, ``fbp`` and ``fdk``."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from operators.algebra import ArgumentError
from operators.ct.geometry.image_grid import ImageGrid, image_grid


class ImageArguments(TypedDict):
    """``image_shape``, ``pixel_size`` and ``image_center`` as :class:`operators.Radon` takes them."""

    image_shape: tuple[int, ...]
    pixel_size: float | tuple[float, ...]
    image_center: tuple[float, ...]


def image_from_astra(volume_geometry: Mapping) -> ImageArguments:
    """Where ASTRA's volume geometry has its pixels, as keyword arguments; arrays as for ``from_astra``.

    Args:
      volume_geometry: as made by ``astra.create_vol_geom``: ``GridRowCount``, ``GridColCount``, in three
        dimensions ``GridSliceCount``, and ``option`` with ``WindowMinX``, ``WindowMaxX``, ...; without
        options pixels are 1 wide and the image is around the origin.

    Raises:
      ValueError: if a count is missing, or a window is empty.

    Source: van Aarle et al., Opt. Express 24:25129, 2016, and the volume geometries of the ASTRA
    documentation.

    Example:
      >>> window = {"WindowMinX": -1.0, "WindowMaxX": 5.0, "WindowMinY": -4.0, "WindowMaxY": 4.0}
      >>> volume = {"GridRowCount": 8, "GridColCount": 12, "option": window}
      >>> operators.ct.image_from_astra(volume)
      {'image_shape': (8, 12), 'pixel_size': (1.0, 0.5), 'image_center': (2.0, 0.0)}
    """
    names = {"X": "GridColCount", "Y": "GridRowCount", "Z": "GridSliceCount"}
    counts = {axis: volume_geometry[name] for axis, name in names.items() if volume_geometry.get(name)}
    if not {"X", "Y"} <= set(counts):
        expected = "the keys GridRowCount and GridColCount"
        raise ArgumentError("image_from_astra: volume_geometry", expected, sorted(volume_geometry))
    window = volume_geometry.get("option", {})
    low, high = (
        [float(window.get(f"Window{end}{axis}", sign * n / 2)) for axis, n in counts.items()]
        for end, sign in (("Min", -1), ("Max", 1))
    )
    return _between(list(counts.values()), low, high, "image_from_astra: option")


def image_from_odl(space: Any) -> ImageArguments:
    """Where ODL's space has its pixels, as keyword arguments; arrays as for ``from_odl``.

    Args:
      space: an object with the attributes of ``odl.uniform_discr``: ``min_pt``, ``max_pt`` and ``shape``,
        each (x, y) or (x, y, z).

    Raises:
      ValueError: if an extent is not positive, or there are not two or three of them.
    """
    return _between(space.shape, space.min_pt, space.max_pt, "image_from_odl: space")


def image_from_tigre(geo: Any) -> ImageArguments:
    """Where TIGRE has its voxels, as keyword arguments, in the world of ``from_tigre``.

    There the image is at the origin: ``offOrigin`` has moved source and detector instead.

    Args:
      geo: an object or mapping with ``nVoxel`` and ``dVoxel``, each (z, y, x).

    Raises:
      ValueError: if a field is missing, or a number is not positive.
    """
    fields = {}
    for name in ("nVoxel", "dVoxel"):
        found: Any = geo.get(name) if isinstance(geo, Mapping) else getattr(geo, name, None)
        if np.shape(found) != (3,):
            raise ArgumentError(f"image_from_tigre: {name}", "(z, y, x)", found)
        fields[name] = np.asarray(found).tolist()
    counts, steps = fields["nVoxel"][::-1], fields["dVoxel"][::-1]
    half = [n * d / 2 for n, d in zip(counts, steps, strict=True)]
    return _between(counts, [-h for h in half], half, "image_from_tigre: dVoxel")


def image_to_astra(image_shape: Any, pixel_size: Any = 1.0, image_center: Any = None) -> dict[str, Any]:
    """ASTRA's volume geometry of an image or volume, as ``astra.create_vol_geom`` returns it.

    Arguments as of :class:`operators.Radon`; see ``from_astra`` for the layout of arrays.

    Raises:
      ValueError: if an argument is not as described there, or in two dimensions pixels are not square, which
        ASTRA's projectors of images do not take.

    Example:
      >>> operators.ct.image_to_astra((8, 12), 0.5, (2.0, 0.0))["option"]["WindowMaxX"]
      5.0
    """
    grid = image_grid(image_shape, pixel_size, image_center, "image_to_astra")
    if len(grid.shape) == 2 and not grid.isotropic:
        raise ArgumentError("image_to_astra: pixel_size", "square pixels of an image", grid.steps[::-1])
    names = ("GridColCount", "GridRowCount", "GridSliceCount")
    option: dict[str, float] = {}
    for axis, low, high in zip("XYZ", *_bounds(grid), strict=False):
        option |= {f"WindowMin{axis}": low, f"WindowMax{axis}": high}
    return dict(zip(names, grid.shape[::-1], strict=False)) | {"option": option}


def image_to_odl(image_shape: Any, pixel_size: Any = 1.0, image_center: Any = None) -> dict[str, list]:
    """The arguments ``min_pt``, ``max_pt`` and ``shape`` of ``odl.uniform_discr``, each (x, y) or (x, y, z).

    Arguments as of :class:`operators.Radon`; see ``from_odl`` for the layout of arrays.

    Raises:
      ValueError: if an argument is not as described there.

    Example:
      >>> operators.ct.image_to_odl((8, 12), (1.0, 0.5), (2.0, 0.0))
      {'min_pt': [-1.0, -4.0], 'max_pt': [5.0, 4.0], 'shape': [12, 8]}
    """
    grid = image_grid(image_shape, pixel_size, image_center, "image_to_odl")
    low, high = _bounds(grid)
    return {"min_pt": low, "max_pt": high, "shape": list(grid.shape[::-1])}


def image_to_tigre(
    scan: Mapping[str, Any], image_shape: Any, pixel_size: Any = 1.0, image_center: Any = None
) -> dict[str, Any]:
    """TIGRE's fields of a scan and of the volume that it reconstructs.

    Args:
      scan: what ``to_tigre`` returns; its ``offOrigin``, one for each view of a helix, is added.
      image_shape: (nz, ny, nx).
      pixel_size: as of :class:`operators.Radon`.
      image_center: as of :class:`operators.Radon`.

    Returns:
      ``scan`` with ``nVoxel``, ``dVoxel``, ``sVoxel`` (the extent) and ``offOrigin``, each (z, y, x).

    Raises:
      ValueError: if an argument is not as described.
    """
    grid = image_grid(image_shape, pixel_size, image_center, "image_to_tigre")
    if len(grid.shape) != 3:
        raise ArgumentError("image_to_tigre: image_shape", "(nz, ny, nx)", grid.shape)
    size = np.array(grid.steps[::-1])
    return {
        **scan,
        "nVoxel": np.array(grid.shape),
        "dVoxel": size,
        "sVoxel": size * grid.shape,
        "offOrigin": np.asarray(scan["offOrigin"]) + grid.center[::-1],
    }


def _bounds(grid: ImageGrid) -> tuple[list[float], list[float]]:
    """Along x, y and z."""
    center = np.array(grid.center)
    return (center - grid.half).tolist(), (center + grid.half).tolist()


def _between(counts: Sequence, low: Sequence, high: Sequence, name: str) -> ImageArguments:
    """From counts and bounds along x, y and z."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    if not (high > low).all():
        raise ArgumentError(name, "upper bounds above the lower ones", f"{low.tolist()} and {high.tolist()}")
    steps = (high - low) / np.asarray(counts)
    steps = np.where(np.isclose(steps, steps[0], rtol=1e-6, atol=0), steps[0], steps)
    grid = image_grid([int(n) for n in counts][::-1], steps.tolist()[::-1], ((low + high) / 2).tolist(), name)
    size = grid.steps[0] if grid.isotropic else grid.steps[::-1]
    return {"image_shape": grid.shape, "pixel_size": size, "image_center": grid.center}
