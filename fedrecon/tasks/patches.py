"""Large images by parts: random patches for training, windows that blend for inference."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fedrecon.errors import ArgumentError


def sample_patches(
    key: jax.Array,
    arrays: Sequence[jax.Array],
    foreground: jax.Array,
    patch: Sequence[int],
    share: float = 1 / 3,
    classes: int = 2,
) -> tuple[jax.Array, ...]:
    """Cuts one random patch out of each example, at the same place in all arrays.

    With the probability ``share`` a patch is centered at a pixel of one of the classes that the example
    shows, all of them alike and then all its pixels alike, or as near to it as the edges allow (oversampling
    of nnU-Net, Isensee et al. 2021, which takes a third of every batch); else, and where there is none, at
    any place.

    Args:
      key: folded with the number of the example.
      arrays: (examples, [nz,] ny, nx, ...).
      foreground: (examples, [nz,] ny, nx), bool, or the class of each pixel, 0 of the background.
      patch: its pixels along each axis.
      share: from 0 to 1.
      classes: the background among them; pixels of other numbers are none of the foreground.

    Returns:
      (examples, *patch, ...) of each array.

    Raises:
      ValueError: ``patch`` is larger than the images or has another number of axes, or share is no share.
    """
    sizes, patch = foreground.shape[1:], tuple(patch)
    if len(patch) != len(sizes) or not all(0 < p <= n for p, n in zip(patch, sizes, strict=True)):
        raise ArgumentError("patch", f"{len(sizes)} sizes from 1 to those of the images, {sizes}", patch)
    if not 0 <= share <= 1:
        raise ArgumentError("share", "a number from 0 to 1", share)
    room = jnp.array([n - p for n, p in zip(sizes, patch, strict=True)])

    def cut(index: jax.Array, labels: jax.Array, parts: list[jax.Array]) -> list[jax.Array]:
        kind, where, anywhere = jax.random.split(jax.random.fold_in(key, index), 3)
        shown = jnp.stack([(labels == number).any() for number in range(1, classes)])
        drawn = jnp.where(shown, jax.random.uniform(jax.random.fold_in(where, 1), (classes - 1,)), -1)
        mask = labels == 1 + jnp.argmax(drawn)
        drawn = jnp.where(mask, jax.random.uniform(where, sizes), -1)
        center = jnp.stack(jnp.unravel_index(jnp.argmax(drawn), sizes))
        aimed = jnp.clip(center - jnp.array(patch) // 2, 0, room)
        start = jax.random.randint(anywhere, (len(sizes),), 0, room + 1)
        start = jnp.where(jax.random.bernoulli(kind, share) & mask.any(), aimed, start)
        tail = [(0,) * (x.ndim - len(sizes)) for x in parts]
        return [
            lax.dynamic_slice(x, (*start, *zeros), (*patch, *x.shape[len(sizes) :]))
            for x, zeros in zip(parts, tail, strict=True)
        ]

    labels = jnp.asarray(foreground, jnp.int32)
    return tuple(jax.vmap(cut)(jnp.arange(len(labels)), labels, list(arrays)))


def window_starts(size: int, window: int, overlap: float) -> tuple[int, ...]:
    """Where windows start along an axis, evenly from one end to the other, sharing ``overlap`` at least."""
    steps = math.ceil((size - window) / max(1, math.floor(window * (1 - overlap))))
    return tuple(round(i * (size - window) / max(steps, 1)) for i in range(steps + 1))


def blending_weights(window: Sequence[int]) -> np.ndarray:
    """Gaussian weights (*window) float64 of deviations of an eighth of the window, 1 at its center."""
    weights = np.ones(())
    for size in window:
        place = (np.arange(size) - (size - 1) / 2) / (size / 8)
        weights = weights[..., None] * np.exp(-(place**2) / 2)
    return weights


def sliding_window(
    function: Callable[[jax.Array], jax.Array],
    image: jax.Array,
    window: Sequence[int],
    overlap: float = 0.5,
) -> jax.Array:
    """Applies a function of windows to images of any size, with Gaussian blending (Isensee et al. 2021).

    The results are averaged with `blending_weights`, divided by their sum, so that constants stay constant
    and functions of single pixels are what they are. Windows run one after the other in one loop: memory and
    the size of the compiled program do not grow with their number. Images smaller than a window are padded
    with zeros.

    Args:
      function: ``(examples, *window, channels) -> (examples, *window, features)``.
      image: (examples, [nz,] ny, nx, channels).
      window: its pixels along each axis.
      overlap: of neighboring windows, at least; from 0 to less than 1.

    Returns:
      (examples, [nz,] ny, nx, features).

    Raises:
      ValueError: another number of axes, an overlap out of range, or a function that changes the shape.
    """
    sizes, window = image.shape[1:-1], tuple(window)
    if len(window) != len(sizes) or min(window) < 1:
        raise ArgumentError("window", f"{len(sizes)} sizes above 0", window)
    if not 0 <= overlap < 1:
        raise ArgumentError("overlap", "a number from 0 to less than 1", overlap)
    missing = [max(0, w - n) for w, n in zip(window, sizes, strict=True)]
    low = [pad // 2 for pad in missing]
    image = jnp.pad(image, ((0, 0), *((a, pad - a) for a, pad in zip(low, missing, strict=True)), (0, 0)))
    padded = image.shape[1:-1]
    starts = [window_starts(n, w, overlap) for n, w in zip(padded, window, strict=True)]
    places = np.array(list(itertools.product(*starts)))
    weights, total = blending_weights(window), np.zeros(padded)
    for place in places:
        total[tuple(slice(a, a + w) for a, w in zip(place, window, strict=True))] += weights
    part = (image.shape[0], *window, image.shape[-1])
    result = jax.eval_shape(function, jax.ShapeDtypeStruct(part, image.dtype))
    if result.shape[:-1] != part[:-1]:
        raise ArgumentError("function", f"results of the shape {(*part[:-1], 'features')}", result.shape)
    blend = jnp.asarray(weights, result.dtype)[..., None]

    def add(sums: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
        corner = (0, *place, 0)
        found = blend * function(lax.dynamic_slice(image, corner, part))
        before = lax.dynamic_slice(sums, corner, result.shape)
        return lax.dynamic_update_slice(sums, before + found, corner), None

    sums = jnp.zeros((image.shape[0], *padded, result.shape[-1]), result.dtype)
    sums, _ = lax.scan(add, sums, jnp.asarray(places))
    crops = (slice(a, a + n) for a, n in zip(low, sizes, strict=True))
    return (sums / jnp.asarray(total, result.dtype)[..., None])[:, *crops]
