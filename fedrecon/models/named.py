"""Networks by the names that settings have for them."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn

from fedrecon.models.dense_networks import DenseNet
from fedrecon.models.plain_networks import VGG
from fedrecon.models.residual_networks import ResNet
from fedrecon.models.unet import Classifier, UNet
from fedrecon.models.vision_transformer import VisionTransformer
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
}
# Task -> names of its networks; unrolled ones have U-Nets.
NETWORKS: dict[str, tuple[str, ...]] = {
    "classification": tuple(CLASSIFIERS),
    "segmentation": tuple(SEGMENTERS),
    "reconstruction": ("unet",),
}
# Networks that have the sizes, or the normalization, that they are told.
SIZED = tuple(SEGMENTERS)
# Those with outputs of several scales in training; nnU-Net gives the coarsest no weight, so that of fewer
# halvings nothing but the finest would remain.
SUPERVISED = tuple(name for name in SEGMENTERS if name.endswith("deep-supervision"))
SUPERVISED_POOLS = 3
# Those that nnU-Net's rules configure.
CONFIGURED = tuple(name for name in SEGMENTERS if name != "swin-unet")
NORMALIZED = tuple(name for name in (*CLASSIFIERS, *SEGMENTERS) if name not in ("vit", "vit-b", "swin-unet"))
