"""Phantoms of ellipses and ellipsoids: exact images, k-space and line integrals."""

from operators.phantoms.ellipses import Ellipses, ellipse_kspace, ellipse_sinogram, rasterize, shepp_logan
from operators.phantoms.ellipsoids import (
    Ellipsoids,
    forbild_like_head,
    line_integrals,
    project_phantom,
    random_ellipses,
    rasterize_phantom,
    shepp_logan_3d,
)

__all__ = [
    "Ellipses",
    "Ellipsoids",
    "ellipse_kspace",
    "ellipse_sinogram",
    "forbild_like_head",
    "line_integrals",
    "project_phantom",
    "random_ellipses",
    "rasterize",
    "rasterize_phantom",
    "shepp_logan",
    "shepp_logan_3d",
]
