"""Slides in tiles, and what was found in tiles as a map of the slide."""

from typing import NamedTuple

import numpy as np

from fedrecon.errors import ArgumentError


class Tiles(NamedTuple):
    """Tiles of a slide that show tissue.

    Attributes:
      images: (tiles, edge, edge, channels).
      tissue: bool (tiles, edge, edge), False in the background and beyond the slide.
      corners: int32 (tiles, 2), row and column of the first pixel of each.
    """

    images: np.ndarray
    tissue: np.ndarray
    corners: np.ndarray


def tile_slide(image: np.ndarray, tissue: np.ndarray, edge: int) -> Tiles:
    """Cuts a slide along a grid into tiles that do not overlap, and keeps those with a pixel of tissue.

    Every pixel of tissue is in one tile. Tiles that go beyond the slide are filled up with zeros.

    Args:
      image: (ny, nx, channels).
      tissue: bool (ny, nx).
      edge: of the tiles, in pixels.

    Raises:
      ValueError: shapes do not agree, or the edge is not positive.
    """
    image, tissue = np.asarray(image), np.asarray(tissue, bool)
    if image.ndim != 3 or image.shape[:2] != tissue.shape:
        raise ArgumentError("tissue", f"the shape {image.shape[:2]} of the image", tissue.shape)
    if edge < 1:
        raise ArgumentError("edge", "a positive number of pixels", edge)
    rows, columns = (-(-size // edge) for size in tissue.shape)
    missing = [(0, count * edge - size) for count, size in zip((rows, columns), tissue.shape, strict=True)]

    def cut(x: np.ndarray) -> np.ndarray:
        x = np.pad(x, [*missing, *[(0, 0)] * (x.ndim - 2)])
        x = x.reshape(rows, edge, columns, edge, *x.shape[2:])
        return x.swapaxes(1, 2).reshape(rows * columns, edge, edge, *x.shape[4:])

    shown = cut(tissue)
    kept = shown.any((1, 2))
    corners = edge * np.stack(np.divmod(np.arange(rows * columns), columns), -1)
    return Tiles(cut(image)[kept], shown[kept], corners[kept].astype(np.int32))


def heat_map(values: np.ndarray, corners: np.ndarray, edge: int, shape: tuple[int, int]) -> np.ndarray:
    """What was found in the tiles of a slide, on their grid: float (rows, columns), NaN where there is none.

    Args:
      values: (tiles,), for instance probabilities of a finding.
      corners: (tiles, 2), `Tiles.corners`.
      edge: of the tiles.
      shape: (ny, nx) of the slide.
    """
    found = np.full([-(-size // edge) for size in shape], np.nan)
    found[tuple(np.asarray(corners).T // edge)] = values
    return found
