"""Networks by the names that settings have for them."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from fedrecon.models.conditioned import ConditionedVarNet
from fedrecon.models.deep_equilibrium import DeepEquilibrium
from fedrecon.models.dense_networks import DenseNet
from fedrecon.models.e2e_varnet import E2EVarNet
from fedrecon.models.ista import ISTANet
from fedrecon.models.learned_gradient import LearnedGradient
from fedrecon.models.modl import MoDL
from fedrecon.models.normalization import NORMS
from fedrecon.models.plain_networks import VGG
from fedrecon.models.plug_and_play import PlugAndPlay
from fedrecon.models.post_processing import BackProjectionUNet
from fedrecon.models.primal_dual import ConvolutionStack, LearnedPrimalDual
from fedrecon.models.recurrent_varnet import RecurrentVarNet
from fedrecon.models.residual_networks import ResNet
from fedrecon.models.separated_unet import SeparatedUNet
from fedrecon.models.unet import Classifier, UNet
from fedrecon.models.variational_network import VariationalNetwork
from fedrecon.models.varnet import VarNet
from fedrecon.models.vision_transformer import VisionTransformer
from fedrecon.models.vsharp import VSharp
from fedrecon.models.windows import SwinUNet

# Name -> ``network(classes=, ...)``; of the published layouts, but for the first two.
CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "unet": Classifier,
    "residual-unet": partial(Classifier, residual=True),
    "resnet18": ResNet,
    "resnet34": partial(ResNet, depths=(3, 4, 6, 3)),
    "resnet50": partial(ResNet, depths=(3, 4, 6, 3), bottleneck=True),
    "resnet18-cbam": partial(ResNet, attention=True),
    "densenet121": DenseNet,
    "vgg11": VGG,
    "vit": VisionTransformer,
    "vit-b": partial(VisionTransformer, patch=16, channels=768, depth=12, heads=12, remat=True),
}
# Name -> ``network(channels=, pools=, output_bias=, ...)``.
SEGMENTERS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "residual-unet": partial(UNet, residual=True),
    "unet-deep-supervision": partial(UNet, deep_supervision=True),
    "residual-unet-deep-supervision": partial(UNet, residual=True, deep_supervision=True),
    "swin-unet": SwinUNet,
    "separated-unet": SeparatedUNet,
}


def _e2e_varnet(cascades: int, channels: int, pools: int) -> nn.Module:
    return E2EVarNet(cascades, channels, pools, max(1, channels // 2), pools)


def _recurrent_varnet(cascades: int, channels: int) -> nn.Module:
    return RecurrentVarNet(cascades, channels)


def _ista_net(cascades: int, channels: int) -> nn.Module:
    return ISTANet(cascades, channels)


def _primal_dual(cascades: int, channels: int) -> nn.Module:
    primal, dual = (ConvolutionStack(channels, parent=None) for _ in range(2))
    return LearnedPrimalDual(cascades, primal=primal, dual=dual)


def _learned_gradient(cascades: int, channels: int) -> nn.Module:
    return LearnedGradient(cascades, channels)


def _variational_network(cascades: int, channels: int) -> nn.Module:
    return VariationalNetwork(cascades, channels)


def _vsharp(cascades: int, channels: int, pools: int, norm: Callable[..., nn.Module]) -> nn.Module:
    return VSharp(cascades, channels, pools, norm=norm)


def _plug_and_play(channels: int, pools: int) -> nn.Module:
    return PlugAndPlay(channels, pools)


def _deep_equilibrium(channels: int, pools: int, norm: Callable[..., nn.Module]) -> nn.Module:
    return DeepEquilibrium(channels, pools, norm)


def _varnet(cascades: int, channels: int, pools: int, norm: Callable[..., nn.Module]) -> nn.Module:
    return VarNet(cascades, channels, pools, norm=norm)


def _conditioned_varnet(cascades: int, channels: int, pools: int) -> nn.Module:
    return ConditionedVarNet(cascades, channels, pools)


def _modl(cascades: int, channels: int, pools: int, norm: Callable[..., nn.Module]) -> nn.Module:
    return MoDL(cascades, channels, pools, norm=norm)


def _back_projection_unet(channels: int, pools: int, norm: Callable[..., nn.Module]) -> nn.Module:
    return BackProjectionUNet(channels, pools, norm)


# Name -> a function of those sizes of the network that can be chosen; "unet" is a VarNet of U-Nets.
RECONSTRUCTORS: dict[str, Callable[..., nn.Module]] = {
    "unet": _varnet,
    "varnet": _varnet,
    "conditioned-varnet": _conditioned_varnet,
    "e2e-varnet": _e2e_varnet,
    "recurrent-varnet": _recurrent_varnet,
    "modl": _modl,
    "ista-net": _ista_net,
    "primal-dual": _primal_dual,
    "learned-gradient": _learned_gradient,
    "variational-network": _variational_network,
    "vsharp": _vsharp,
    "plug-and-play": _plug_and_play,
    "deep-equilibrium": _deep_equilibrium,
    "fbpconvnet": _back_projection_unet,
}
# Those of multi-coil Cartesian MRI alone.
CARTESIAN = ("e2e-varnet",)
# Those that return magnitudes, which tell nothing of phases.
MAGNITUDES = ("e2e-varnet", "recurrent-varnet")
# Whose structures are found one by one, each by a loss of its own.
SEPARATED = ("separated-unet",)
# Task -> names of its networks.
NETWORKS: dict[str, tuple[str, ...]] = {
    "classification": tuple(CLASSIFIERS),
    "segmentation": tuple(SEGMENTERS),
    "reconstruction": tuple(RECONSTRUCTORS),
}


def _with(size: str) -> tuple[str, ...]:
    return tuple(
        name
        for name, build in RECONSTRUCTORS.items()
        if size in inspect.signature(build).parameters and name not in SEGMENTERS
    )


# Networks that have the channels, the poolings, the cascades or the normalization that they are told.
SIZED = (*SEGMENTERS, *_with("channels"))
POOLED = (*SEGMENTERS, *_with("pools"))
UNROLLED = ("unet", *_with("cascades"))
# Those with outputs of several scales in training; nnU-Net gives the coarsest no weight, so that of fewer
# halvings nothing but the finest would remain.
SUPERVISED = tuple(name for name in SEGMENTERS if name.endswith("deep-supervision"))
SUPERVISED_POOLS = 3
# Those that nnU-Net's rules configure.
CONFIGURED = tuple(name for name in SEGMENTERS if name not in ("swin-unet", *SEPARATED))
NORMALIZED = (
    *(name for name in (*CLASSIFIERS, *SEGMENTERS) if name not in ("vit", "vit-b", "swin-unet")),
    *_with("norm"),
)
# Below this edge, in pixels, the first layers of classifiers do not shrink images.
_SMALL = 64
# Classifiers of published sizes without a stem that shrinks images.
_WITHOUT_STEM = ("vgg11",)


def named_classifier(
    network: str, image: Any, *, channels: int, pools: int, norm: str, classes: int
) -> nn.Module:
    """A classifier by its name.

    Args:
      network: one of ``CLASSIFIERS``.
      image: array (examples, [nz,] ny, nx, channels), or what has its shape; None where that is not known.
      channels, pools, norm: as in `sizes_of`.
      classes: number of logits.
    """
    sizes = sizes_of(network, channels, pools, norm)
    small = image is not None and max(image.shape[1:-1]) < _SMALL
    if network == "vit":
        sizes["patch"] = 4 if small else 8
    elif network in NORMALIZED and network not in (*SIZED, *_WITHOUT_STEM):
        sizes["small_images"] = small
    return CLASSIFIERS[network](**sizes, classes=classes)


def sizes_of(network: str, channels: int, pools: int, norm: str) -> dict[str, Any]:
    """Those of the arguments that a network has.

    Args:
      network: its name.
      channels: at full resolution, of one in ``SIZED``; others have the sizes published.
      pools: likewise.
      norm: one of ``NORMS``, of a network in ``NORMALIZED``.
    """
    sizes: dict[str, Any] = {"channels": channels, "pools": pools} if network in SIZED else {}
    return sizes | ({"norm": NORMS[norm]} if network in NORMALIZED else {})


def named_reconstructor(network: str, **sizes: Any) -> nn.Module:
    """A reconstruction network by its name.

    Args:
      network: one of ``RECONSTRUCTORS``.
      **sizes: "cascades", "channels", "pools" and "norm", one of ``NORMS``; those that it has not are left.
    """
    build = RECONSTRUCTORS[network]
    sizes["norm"] = NORMS[sizes["norm"]]
    return build(**{name: sizes[name] for name in inspect.signature(build).parameters})
