"""Phantoms of ellipses and ellipsoids: exact images, k-space and line integrals."""

from operators.phantoms.ellipses import Ellipses, ellipse_kspace, ellipse_sinogram, rasterize, shepp_logan
from operators.phantoms.ellipsoids import (
    Ellipsoids,
    forbild_like_head,
    random_ellipses,
    shepp_logan_3d,
)
from operators.phantoms.parts import line_integrals
from operators.phantoms.protocol import Phantom, project_phantom, rasterize_phantom

__all__ = [
    "Ellipses",
    "Ellipsoids",
    "Phantom",
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
