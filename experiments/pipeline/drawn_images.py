"""Images that are drawn: patterns of classes."""

import numpy as np


def simulate_image_classes(
    examples: int, classes: int = 10, size: int = 16, *, noise: float = 0.5, seed: int = 0
) -> dict[str, np.ndarray]:
    """Smooth patterns, two for each class, shifted, scaled, mixed with a pattern of nobody's, and noisy.

    Args:
      examples: number of images; labels are as equally frequent as can be, in random order.
      classes: number of classes.
      size: edge of the images.
      noise: standard deviation of white noise; that of the patterns is 1.
      seed: of the patterns and of the examples.

    Returns:
      {"image": (examples, size, size, 1) float32, "label": (examples,) int32}.
    """
    rng = np.random.default_rng([seed, 21])

    def smooth(count: int) -> np.ndarray:
        spectrum = np.zeros((count, size, size), complex)
        spectrum[:, :4, :4] = rng.normal(size=(count, 4, 4)) + 1j * rng.normal(size=(count, 4, 4))
        spectrum[:, 0, 0] = 0
        fields = np.fft.ifft2(spectrum).real
        return fields / fields.std((1, 2), keepdims=True)

    patterns = smooth(2 * classes).reshape(classes, 2, size, size)
    label = rng.permutation(np.arange(examples) % classes)
    image = patterns[label, rng.integers(2, size=examples)]
    moves = rng.integers(-(size // 8), size // 8 + 1, size=(examples, 2))
    image = np.stack([np.roll(x, move, (0, 1)) for x, move in zip(image, moves, strict=True)])
    image = rng.uniform(0.6, 1.4, (examples, 1, 1)) * image + 0.7 * smooth(examples)
    image = image + noise * rng.normal(size=image.shape)
    return {"image": image[..., None].astype(np.float32), "label": label.astype(np.int32)}
