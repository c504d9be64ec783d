"""Networks: flax modules on one convolution, channels last inside."""

from fedrecon.models.attention import CBAM
from fedrecon.models.convolutions import Conv, Upsample, convolution, transposed_convolution
from fedrecon.models.data_steps import (
    gradient_step,
    primal_dual_step,
    projection_step,
    proximal_step,
    start_primal_dual,
)
from fedrecon.models.deep_equilibrium import DeepEquilibrium
from fedrecon.models.dense_networks import DenseNet
from fedrecon.models.e2e_varnet import E2EVarNet
from fedrecon.models.ista import ISTANet
from fedrecon.models.modl import MoDL
from fedrecon.models.named import (
    CARTESIAN,
    CLASSIFIERS,
    CONFIGURED,
    MAGNITUDES,
    NETWORKS,
    NORMALIZED,
    POOLED,
    RECONSTRUCTORS,
    SEGMENTERS,
    SEPARATED,
    SIZED,
    SUPERVISED,
    SUPERVISED_POOLS,
    UNROLLED,
    named_classifier,
    named_reconstructor,
    sizes_of,
)
from fedrecon.models.normalization import (
    NORMALIZATION,
    NORMS,
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    normalization_leaves,
)
from fedrecon.models.plain_networks import VGG
from fedrecon.models.plug_and_play import PlugAndPlay
from fedrecon.models.post_processing import BackProjectionUNet
from fedrecon.models.primal_dual import ConvolutionStack, LearnedPrimalDual
from fedrecon.models.recurrent_varnet import RecurrentVarNet
from fedrecon.models.regularizers import UNetRegularizer, regularized
from fedrecon.models.residual_networks import ResNet
from fedrecon.models.transfer import warm_start
from fedrecon.models.unet import Classifier, Encoder, UNet
from fedrecon.models.unrolled import Unrolled, cascade_inputs, start_image, unroll
from fedrecon.models.variational import VariationalAutoencoder
from fedrecon.models.varnet import VarNet
from fedrecon.models.vision_transformer import MaskedAutoencoder, VisionTransformer
from fedrecon.models.windows import SwinUNet

__all__ = [
    "CARTESIAN",
    "CBAM",
    "CLASSIFIERS",
    "CONFIGURED",
    "MAGNITUDES",
    "NETWORKS",
    "NORMALIZATION",
    "NORMALIZED",
    "NORMS",
    "POOLED",
    "RECONSTRUCTORS",
    "SEGMENTERS",
    "SEPARATED",
    "SIZED",
    "SUPERVISED",
    "SUPERVISED_POOLS",
    "UNROLLED",
    "VGG",
    "BackProjectionUNet",
    "BatchNorm",
    "Classifier",
    "Conv",
    "ConvolutionStack",
    "DeepEquilibrium",
    "DenseNet",
    "E2EVarNet",
    "Encoder",
    "GroupNorm",
    "ISTANet",
    "InstanceNorm",
    "LearnedPrimalDual",
    "MaskedAutoencoder",
    "MoDL",
    "PlugAndPlay",
    "RecurrentVarNet",
    "ResNet",
    "SwinUNet",
    "UNet",
    "UNetRegularizer",
    "Unrolled",
    "Upsample",
    "VarNet",
    "VariationalAutoencoder",
    "VisionTransformer",
    "cascade_inputs",
    "convolution",
    "gradient_step",
    "named_classifier",
    "named_reconstructor",
    "normalization_leaves",
    "primal_dual_step",
    "projection_step",
    "proximal_step",
    "regularized",
    "sizes_of",
    "start_image",
    "start_primal_dual",
    "transposed_convolution",
    "unroll",
    "warm_start",
]
