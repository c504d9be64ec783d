"""Networks: flax modules on one convolution, NHWC inside."""

from fedrecon.models.convolution import Conv, Upsample, convolution, transposed_convolution
from fedrecon.models.modl import MoDL
from fedrecon.models.normalisation import (
    NORMALISATION,
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    normalisation_leaves,
)
from fedrecon.models.transfer import warm_start
from fedrecon.models.unet import Classifier, Encoder, UNet
from fedrecon.models.varnet import VarNet

__all__ = [
    "NORMALISATION",
    "BatchNorm",
    "Classifier",
    "Conv",
    "Encoder",
    "GroupNorm",
    "InstanceNorm",
    "MoDL",
    "UNet",
    "Upsample",
    "VarNet",
    "convolution",
    "normalisation_leaves",
    "transposed_convolution",
    "warm_start",
]
