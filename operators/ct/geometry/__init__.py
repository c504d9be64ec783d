"""Acquisition geometries of computed tomography, and their conversions."""

from operators.ct.geometry.cone import ConeBeam
from operators.ct.geometry.conversions import as_vectors, from_astra, from_tigre, to_astra, to_tigre
from operators.ct.geometry.fan import FanBeam
from operators.ct.geometry.image_conversions import (
    image_from_astra,
    image_from_odl,
    image_from_tigre,
    image_to_astra,
    image_to_odl,
    image_to_tigre,
)
from operators.ct.geometry.parallel import ParallelBeam, ParallelBeam3D
from operators.ct.geometry.protocol import Geometry
from operators.ct.geometry.scanners import from_dicom_ct_pd, from_odl, to_dicom_ct_pd, to_odl
from operators.ct.geometry.vector import VectorGeometry
from operators.ct.geometry.visibility import check_object

__all__ = [
    "ConeBeam",
    "FanBeam",
    "Geometry",
    "ParallelBeam",
    "ParallelBeam3D",
    "VectorGeometry",
    "as_vectors",
    "check_object",
    "from_astra",
    "from_dicom_ct_pd",
    "from_odl",
    "from_tigre",
    "image_from_astra",
    "image_from_odl",
    "image_from_tigre",
    "image_to_astra",
    "image_to_odl",
    "image_to_tigre",
    "to_astra",
    "to_dicom_ct_pd",
    "to_odl",
    "to_tigre",
]
