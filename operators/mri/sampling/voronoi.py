"""Areas of the Voronoi cells of points of the plane, cut at a border around them."""

import importlib
import itertools
from types import ModuleType

import numpy as np

# Points closer than this share a cell.
_TOLERANCE = 1e-3


def voronoi_areas(points: np.ndarray) -> np.ndarray:
    """Areas of Voronoi cells inside the convex hull of the points, enlarged by 1/2 along each axis.

    Args:
      points: (n, 2) float64, at least one; distances are in units of about that of neighbors.

    Returns:
      (n,) float64, positive; points closer than 0.001 share a cell equally.

    Raises:
      ImportError: if scipy is missing.
    """
    # Rounding merges what is equal up to rounding cheaply; the tree then merges across its borders.
    _, first, inverse = np.unique(
        np.round(points / _TOLERANCE), axis=0, return_index=True, return_inverse=True
    )
    sites = points[first]
    pairs = _scipy("spatial").cKDTree(sites).query_pairs(_TOLERANCE, output_type="ndarray")
    graph = _scipy("sparse").coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(len(sites),) * 2)
    _, label = _scipy("sparse.csgraph").connected_components(graph, directed=False)
    _, first = np.unique(label, return_index=True)
    owner = label[inverse.ravel()]
    return (_cell_areas(sites[first]) / np.bincount(owner))[owner]


def _cell_areas(sites: np.ndarray) -> np.ndarray:
    spatial = _scipy("spatial")
    corners = np.array(list(itertools.product((-1, 1), repeat=2)))
    border = spatial.ConvexHull((sites[:, None] + corners / 2).reshape(-1, 2)).equations
    # Four far points bound every cell, well beyond the border.
    reach = 10 * (1 + np.ptp(sites, axis=0).max())
    diagram = spatial.Voronoi(np.concatenate([sites, sites.mean(axis=0) + reach * corners]))

    # Every ridge is the base of two triangles, with the sites on its sides as their tips.
    pairs, ends = diagram.ridge_points, np.array(diagram.ridge_vertices)
    pairs, ends = np.concatenate([pairs, pairs[:, ::-1]])[:, 0], np.concatenate([ends, ends])
    inner = pairs < len(sites)
    site, ends = pairs[inner], ends[inner]
    arms = diagram.vertices[ends] - sites[site, None]
    triangles = np.abs(arms[:, 0, 0] * arms[:, 1, 1] - arms[:, 0, 1] * arms[:, 1, 0]) / 2
    areas = np.bincount(site, triangles, len(sites))

    corner_of_cell, used = np.concatenate([site, site]), ends.T.ravel()
    outside = (diagram.vertices @ border[:, :2].T + border[:, 2]).max(axis=1) > 0
    for cell in np.unique(corner_of_cell[outside[used]]):
        polygon = diagram.vertices[np.unique(ends[site == cell])] - sites[cell]
        polygon = polygon[np.argsort(np.arctan2(polygon[:, 1], polygon[:, 0]))] + sites[cell]
        areas[cell] = _polygon_area(_clip(polygon, border))
    return areas


def _clip(polygon: np.ndarray, border: np.ndarray) -> np.ndarray:
    """The part of a convex polygon where ``border[:, :2] @ x + border[:, 2] <= 0``."""
    for _ in border:
        depth = polygon @ border[:, :2].T + border[:, 2]
        depth = depth[:, np.argmax(depth.max(axis=0))]
        if depth.max() <= 1e-9:
            break
        corners = []
        for here, there, p, q in zip(
            depth, np.roll(depth, -1), polygon, np.roll(polygon, -1, 0), strict=True
        ):
            if here <= 0:
                corners.append(p)
            if (here <= 0) != (there <= 0):
                corners.append(p + here / (here - there) * (q - p))
        polygon = np.array(corners)
    return polygon


def _polygon_area(polygon: np.ndarray) -> float:
    (x, y), (u, v) = polygon.T, np.roll(polygon, -1, axis=0).T
    return abs(np.sum(x * v - u * y)) / 2


def _scipy(module: str) -> ModuleType:
    # An optional backend: everything else in this library needs jax and numpy only.
    try:
        return importlib.import_module(f"scipy.{module}")
    except ImportError as error:
        raise ImportError("voronoi_density needs scipy: pip install scipy") from error
