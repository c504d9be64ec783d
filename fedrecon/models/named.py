"""Networks by the names that settings have for them."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn

from fedrecon.models.dense_networks import DenseNet
from fedrecon.models.residual_networks import ResNet
from fedrecon.models.vision_transformer import VisionTransformer

# Name -> ``network(classes=, ...)``, of the published layouts.
CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": ResNet,
    "resnet34": partial(ResNet, depths=(3, 4, 6, 3)),
    "resnet50": partial(ResNet, depths=(3, 4, 6, 3), bottleneck=True),
    "resnet18-cbam": partial(ResNet, attention=True),
    "densenet121": DenseNet,
    "vit": VisionTransformer,
}
