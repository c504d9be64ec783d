"""Images that are drawn: patterns of classes, and breasts of four densities."""

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


def simulate_densities(examples: int, size: int = 32, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Drawings of breasts of four classes of density: half ellipses of fat with patches of dense tissue.

    Of the pixels inside, a part of up to a quarter is dense in class 0, up to half in class 1, and so on, as
    the classes a to d were once defined. They look like no mammogram.

    Args:
      examples: number of images; labels are as equally frequent as can be, in random order.
      size: edge of the images.
      seed: of everything.

    Returns:
      {"image": (examples, size, size, 1) float32, between 0 and about 1, "label": (examples,) int32}.
    """
    rng = np.random.default_rng([seed, 23])
    label = rng.permutation(np.arange(examples) % 4)
    part = (label + rng.uniform(size=examples)) / 4
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(0, 1, size), indexing="ij")
    image = np.zeros((examples, size, size))
    frequency = np.fft.fftfreq(size) * size
    smooth = np.exp(-(frequency[:, None] ** 2 + frequency**2) / 18)
    for number in range(examples):
        height, depth = rng.uniform(0.6, 0.95, 2)
        inside = (y / height) ** 2 + (x / depth) ** 2 < 1
        field = np.fft.ifft2(smooth * np.fft.fft2(rng.normal(size=(size, size)))).real
        dense = inside & (field > np.quantile(field[inside], 1 - part[number]))
        image[number] = 0.3 * inside + 0.5 * dense
    image += 0.03 * rng.normal(size=image.shape)
    return {"image": image[..., None].astype(np.float32), "label": label.astype(np.int32)}
