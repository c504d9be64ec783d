"""Records outputs of torchvision's networks with weights of a formula; needs torch and torchvision.

Run as a program from the root of the project: `python tests/models/reference/torchvision_networks.py`.
"""

import json
import math
import zlib
from functools import partial
from pathlib import Path

import numpy as np

REFERENCE = Path(__file__).with_suffix(".json")


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of torchvision's, by its name and shape alone."""
    wave = np.sin(0.7 * np.arange(math.prod(shape)) + zlib.crc32(name.encode()) % 1000).reshape(shape)
    if len(shape) > 1:
        return wave * (2 / math.prod(shape[1:])) ** 0.5
    return 1 + 0.2 * wave if name.endswith(("weight", "running_var")) else 0.1 * wave


def image(*shape: int) -> np.ndarray:
    """(examples, channels, ny, nx)."""
    return np.cos(1.3 * np.arange(math.prod(shape)) ** 1.1).reshape(shape)


def main() -> None:
    import torch
    from torch import nn
    from torchvision import models
    from torchvision.models import resnet, swin_transformer, vgg

    class Tiny(nn.Module):
        """Stem, one block in each of two stages, head."""

        def __init__(self, block):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(2, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4)
            e = block.expansion

            def stage(features_in, planes, stride):
                down = None
                if stride > 1 or features_in != planes * e:
                    down = (
                        nn.Conv2d(features_in, planes * e, 1, stride, bias=False),
                        nn.BatchNorm2d(planes * e),
                    )
                    down = nn.Sequential(*down)
                return nn.Sequential(block(features_in, planes, stride, down))

            self.layer1, self.layer2 = stage(4, 4, 1), stage(4 * e, 8, 2)
            self.fc = nn.Linear(8 * e, 3)

        def forward(self, x):
            x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))

    class Plain(nn.Module):
        """Two stages of VGG's layers, and its perceptron."""

        def __init__(self):
            super().__init__()
            self.features = vgg.make_layers([4, "M", 6, 6, "M"], batch_norm=True)
            self.avgpool = nn.AdaptiveAvgPool2d(3)
            layers = nn.Linear(54, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 5), nn.ReLU(), nn.Dropout()
            self.classifier = nn.Sequential(*layers, nn.Linear(5, 3))

        def forward(self, x):
            return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

    vit = partial(models.VisionTransformer, 8, 4, 2, 2, 8, 32, num_classes=3)
    swin = partial(swin_transformer.SwinTransformerBlock, 4, 2, [4, 4])
    cases = {
        "basic": (lambda: Tiny(resnet.BasicBlock), (2, 2, 19, 22)),
        "bottleneck": (lambda: Tiny(resnet.Bottleneck), (2, 2, 19, 22)),
        "dense": (lambda: models.DenseNet(4, (2, 1), 4, 4, num_classes=3), (2, 3, 21, 18)),
        "plain": (Plain, (2, 3, 21, 18)),
        "transformer": (vit, (2, 3, 8, 8)),
        "window": (lambda: swin([0, 0]), (1, 4, 8, 8)),
        "shifted window": (lambda: swin([2, 2]), (1, 4, 8, 12)),
        "resnet18": (models.resnet18, (1, 3, 48, 40)),
        "resnet50": (models.resnet50, (1, 3, 48, 40)),
        "densenet121": (models.densenet121, (1, 3, 48, 40)),
        "vit_b_16": (lambda: models.vit_b_16(image_size=32), (1, 3, 32, 32)),
    }
    recorded = {}
    for name, (make, shape) in cases.items():
        module = make().double()
        state = module.state_dict()
        for key, tensor in state.items():
            if tensor.is_floating_point():
                tensor.copy_(torch.as_tensor(weights(key, tuple(tensor.shape))))
        x = torch.as_tensor(image(*shape))
        if "window" in name:
            x = x.permute(0, 2, 3, 1)
        with torch.no_grad():
            evaluated = module.eval()(x).ravel()
            recorded[name] = {
                "parameters": sum(p.numel() for p in module.parameters()),
                "shape": shape,
                "output": evaluated[:: max(1, len(evaluated) // 12)].tolist(),
            }
            if name == "basic":
                recorded[name]["trained"] = module.train()(x).ravel().tolist()
    REFERENCE.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
