"""Segmentation by massive training: a small network turns a patch into the likelihood of its center."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fedrecon.errors import ArgumentError
from fedrecon.tasks.labels import examined
from fedrecon.tasks.network import map_chunks, mean, total
from fedrecon.tasks.overlap import segmentation_metrics
from fedrecon.types import Batch, Metrics, PyTree, Task, Variables

# Of the parameters, a group beside nothing else.
GROUP = "mtann"
_BINS, _CHUNK = 256, 8


def massive_training_task(
    task: Task | None,
    example: Mapping[str, Any],
    *,
    patch: int = 11,
    hidden: int = 25,
    layers: int = 1,
    samples: int = 64,
    width: float = 0.0,
    threshold: float = 0.0,
) -> Task:
    """A massive-training artificial neural network (Suzuki et al. 2003, Medical Physics 30:1602) of images.

    In training, of each image ``samples`` patches, half of them around pixels of the structure and half
    around others, drawn with replacement, meet a *teacher*: the mask at the center of the patch. The loss is
    the mean squared error of all patches of a batch. Images are segmented by the network at every pixel
    (their edges repeated), a threshold, and the `largest_component`.

    Args:
      task: not used; the network takes the place of its own.
      example: shapes and dtypes of a batch: "image" (examples, ny, nx, channels), "segmentation" (examples,
        ny, nx), 0 or 1.
      patch: edge of the patches in pixels, odd.
      hidden: rectified units of a hidden layer.
      layers: hidden layers; 0 is a linear filter.
      samples: patches of an image in a step, even.
      width: standard deviation in pixels of the Gaussian that smooths the teacher; 0 leaves the mask.
      threshold: of the likelihood; 0 takes `otsu_threshold` of each image.

    Returns:
      A task; ``metrics`` are "loss", the mean squared error over all pixels of an image, and those of
      `segmentation_metrics`; ``predict`` returns what is segmented, (examples, ny, nx, 2), the background
      first, of 0 and 1.

    Raises:
      ValueError: there are no such images, or an argument is out of range.
    """
    del task
    shapes = {name: x.shape for name, x in example.items()}
    if not {"image", "segmentation"} <= set(shapes) or len(shapes["image"]) != 4:
        expected = "'image' (examples, ny, nx, channels) and 'segmentation'"
        raise ArgumentError("example", expected, shapes)
    for name, value, fits, expected in (
        ("patch", patch, patch > 0 and patch % 2 == 1, "an odd number"),
        ("hidden", hidden, hidden > 0, "a positive number"),
        ("layers", layers, layers >= 0, "a number of at least 0"),
        ("samples", samples, samples > 0 and samples % 2 == 0, "an even number"),
        ("width", width, width >= 0, "a number of at least 0"),
        ("threshold", threshold, threshold >= 0, "a number of at least 0"),
    ):
        if not fits:
            raise ArgumentError(name, expected, repr(value))
    widths = (patch * patch * shapes["image"][-1], *(hidden,) * layers, 1)

    def init(key: jax.Array) -> Variables:
        keys = jax.random.split(key, len(widths) - 1)
        drawn = {
            f"layer{i}": {
                "kernel": jax.random.normal(k, (a, b)) * jnp.sqrt((1 if b == 1 else 2) / a),
                "bias": jnp.zeros(b),
            }
            for i, (k, a, b) in enumerate(zip(keys, widths[:-1], widths[1:], strict=True))
        }
        return Variables({GROUP: drawn}, {})

    def train(params: PyTree, stats: PyTree, batch: Batch, key: jax.Array) -> tuple:
        # Labels that are no class spoil metrics; here they are background.
        mask = batch["segmentation"].astype(jnp.int32) == 1
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(mask)))
        centers, found = jax.vmap(lambda k, m: balanced_centers(k, m, samples))(keys, mask)
        patches = jax.vmap(lambda x, c: patches_at(x, c, patch))(batch["image"], centers)
        likelihoods = regressed(params[GROUP], patches.reshape(*centers.shape, -1))
        wanted = jax.vmap(lambda t, c: t.ravel()[c])(teacher(mask, width), centers)
        squares = jnp.square(likelihoods - wanted)
        counted = found & batch["valid"][:, None]
        value = mean(squares, counted)
        return value, (stats, {"loss": total(squares, counted)})

    def segmented(params: PyTree, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = likelihood(params[GROUP], image, patch)
        least = threshold or jax.vmap(otsu_threshold)(found)[:, None, None]
        return found, jax.vmap(largest_component)(found >= least)

    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        def score(part: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
            found, mask = segmented(params, part["image"])
            wanted = teacher(part["segmentation"].astype(jnp.int32) == 1, width)
            wrong, scored = examined(part, "segmentation", 2)
            squares = jnp.square(found - wanted).mean((1, 2))
            return jnp.where(wrong, jnp.nan, squares), scored.any((1, 2)), mask

        squares, scored, masks = map_chunks(score, batch, _CHUNK)
        return {"loss": total(squares, scored), **segmentation_metrics(masks, batch, 2)}

    def predict(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        mask = segmented(params, batch["image"])[1]
        return jnp.stack([~mask, mask], -1).astype(batch["image"].dtype)

    normal = jax.tree.map(lambda x: False, jax.eval_shape(init, jax.random.key(0)))
    return Task(init, train, metrics, predict, normal)


def regressed(params: Mapping[str, Any], patches: jax.Array) -> jax.Array:
    """What the network makes of patches (..., numbers), without an activation at its end: (...)."""
    return _after_the_first(params, patches @ params["layer0"]["kernel"])


def likelihood(params: Mapping[str, Any], image: jax.Array, patch: int) -> jax.Array:
    """`regressed` patches around all pixels of images (examples, ny, nx, channels): (examples, ny, nx).

    The first layer is a convolution, so that no patch is ever stored.
    """
    kernel = params["layer0"]["kernel"].reshape(patch, patch, image.shape[-1], -1)
    dimensions = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(
        _padded(image, patch), kernel.astype(image.dtype), (1, 1), "VALID", dimension_numbers=dimensions
    )
    return _after_the_first(params, x)


def _after_the_first(params: Mapping[str, Any], x: jax.Array) -> jax.Array:
    x = x + params["layer0"]["bias"]
    for i in range(1, len(params)):
        x = jax.nn.relu(x) @ params[f"layer{i}"]["kernel"] + params[f"layer{i}"]["bias"]
    return x[..., 0]


def _padded(image: jax.Array, patch: int) -> jax.Array:
    """Images ([examples,] ny, nx, channels) whose edges are repeated by half a patch."""
    around = (patch // 2, patch // 2)
    return jnp.pad(image, [(0, 0)] * (image.ndim - 3) + [around, around, (0, 0)], mode="edge")


def patches_at(image: jax.Array, centers: jax.Array, patch: int) -> jax.Array:
    """Patches (samples, patch, patch, channels) of an image (ny, nx, channels) around pixels.

    Args:
      image: its edges are repeated beyond it.
      centers: (samples,) numbers of pixels, row by row.
      patch: edge, odd.
    """
    padded, (_, nx, channels) = _padded(image, patch), image.shape

    def cut(center: jax.Array) -> jax.Array:
        start = (center // nx, center % nx, jnp.zeros_like(center))
        return lax.dynamic_slice(padded, start, (patch, patch, channels))

    return jax.vmap(cut)(centers)


def balanced_centers(key: jax.Array, mask: jax.Array, samples: int) -> tuple[jax.Array, jax.Array]:
    """Numbers of pixels, half of them in a mask (ny, nx) and half outside, each half with replacement.

    Returns:
      (centers, found), (samples,) int32 and bool: False where a half has no pixel to draw from.
    """
    inside = mask.ravel()
    drawn = []
    for own, half in zip(jax.random.split(key), (inside, ~inside), strict=True):
        ranks = jnp.cumsum(half)
        chosen = jax.random.randint(own, (samples // 2,), 0, jnp.maximum(ranks[-1], 1))
        place = jnp.searchsorted(ranks, chosen + 1)
        drawn.append((place, jnp.broadcast_to(ranks[-1] > 0, place.shape)))
    places, found = (jnp.concatenate(x) for x in zip(*drawn, strict=True))
    return jnp.minimum(places, inside.size - 1).astype(jnp.int32), found


def teacher(mask: jax.Array, width: float) -> jax.Array:
    """Masks (examples, ny, nx) after a Gaussian of this standard deviation in pixels, whose weights add to 1.

    Near edges it is divided by what of it lies inside, so that a mask of everything stays 1.
    """
    x = mask.astype(float)
    if not width:
        return x
    rows, columns = (_gaussian(size, width, x.dtype) for size in mask.shape[1:])
    return jnp.einsum("ay,nyx,bx->nab", rows, x, columns)


def _gaussian(size: int, width: float, dtype: Any) -> jax.Array:
    away = jnp.arange(size)[:, None] - jnp.arange(size)
    weights = jnp.exp(-jnp.square(away) / (2 * width**2)).astype(dtype)
    return weights / weights.sum(1, keepdims=True)


def otsu_threshold(values: jax.Array) -> jax.Array:
    """The threshold that parts an image's values into the two groups farthest apart (Otsu 1979).

    Of 256 bins between the least and the largest value, the least edge at which the variance between the
    groups is largest.

    Args:
      values: of any shape.

    Returns:
      Float (), between the two; infinite where all values are alike.
    """
    low, high = values.min(), values.max()
    spread = jnp.where(high > low, high - low, 1)
    bins = jnp.clip(_BINS * (values - low) / spread, 0, _BINS - 1).astype(jnp.int32)
    part = jnp.bincount(bins.ravel(), length=_BINS) / values.size
    below, moment = jnp.cumsum(part), jnp.cumsum(part * jnp.arange(_BINS))
    between = jnp.square(moment[-1] * below - moment) / jnp.maximum(below * (1 - below), 1e-12)
    found = low + spread * (jnp.argmax(between[:-1]) + 1) / _BINS
    return jnp.where(high > low, found, jnp.inf)


def largest_component(mask: jax.Array) -> jax.Array:
    """Of a mask (ny, nx) the connected part with the most pixels, of equal ones the last; corners connect."""
    count = mask.size
    start = jnp.where(mask, jnp.arange(1, count + 1).reshape(mask.shape), 0)

    def spread(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        names, _ = state
        near = lax.reduce_window(names, 0, lax.max, (3, 3), (1, 1), "SAME")
        near = jnp.where(mask, near, 0)
        # A name is that of a pixel, whose own may be larger by now.
        jumped = jnp.where(mask, near.ravel()[jnp.maximum(near, 1) - 1], 0)
        return jumped, (jumped != names).any()

    names, _ = lax.while_loop(lambda state: state[1], spread, (start, mask.any()))
    sizes = jnp.bincount(names.ravel(), length=count + 1).at[0].set(0)
    return mask & (names == count - jnp.argmax(sizes[::-1]))
