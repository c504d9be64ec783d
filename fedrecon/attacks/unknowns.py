"""What an attacker searches, with what it knows beforehand: starts, priors, bounds."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.types import Batch, PyTree


class Unknown(NamedTuple):
    """The unknown part z of a client's examples, a pytree of real arrays.

    Attributes:
      start: ``start(key) -> z``, random.
      batch: ``batch(z) -> batch``, with all that is known.
      prior: ``prior(z) -> scalar``, small for likely examples.
      project: ``project(z) -> z``, the nearest that is possible.
    """

    start: Callable[[jax.Array], PyTree]
    batch: Callable[[PyTree], Batch]
    prior: Callable[[PyTree], jax.Array]
    project: Callable[[PyTree], PyTree]


def total_variation(images: jax.Array) -> jax.Array:
    """Mean absolute difference of neighbors along both axes of images (examples, ny, nx, ...), their sum."""
    return jnp.abs(jnp.diff(images, axis=1)).mean() + jnp.abs(jnp.diff(images, axis=2)).mean()


def images(
    known: Mapping[str, jax.Array],
    low: float = 0.0,
    high: float = 1.0,
    *,
    guess: jax.Array | None = None,
) -> Unknown:
    """The images of a classification or segmentation, with labels or masks known.

    Args:
      known: the batch; of "image" (examples, ny, nx, channels) only the shape is used.
      low, high: the range that values are known to lie in.
      guess: (ny, nx, channels), a public image to start near; noise by default.

    Raises:
      ValueError: there is no image, or the range is empty.
    """
    if "image" not in known:
        raise ArgumentError("known", "the key image", sorted(known))
    if not low < high:
        raise ArgumentError("low, high", "low < high", (low, high))
    shape, others = known["image"].shape, {k: v for k, v in known.items() if k != "image"}

    def start(key: jax.Array) -> PyTree:
        noise = low + (high - low) * jax.random.uniform(key, shape)
        return noise if guess is None else 0.9 * guess + 0.1 * noise

    return Unknown(
        start,
        lambda z: {**others, "image": z},
        lambda z: total_variation(z) / (high - low),
        lambda z: jnp.clip(z, low, high),
    )


def measurements(
    known: Mapping[str, jax.Array],
    measure: Callable[[Batch], tuple],
    *,
    data_range: float | None,
    guess: jax.Array | None = None,
    consistency: float | None = None,
) -> Unknown:
    """Measured k-space and the reference image of an unrolled reconstruction of MRI.

    The unknowns are a complex image x and samples n: the measurement is y = A x + M n with the network's own
    operator A and its sampling mask M, the reference |x|. Updates of networks with normalization layers
    hardly depend on the scale of both: x is then scaled to the root mean square 1.

    Args:
      known: the batch; "kspace" (examples, coils, ny, nx) and "target" (examples, ny, nx) only by shapes;
        "mask" and "coil_maps" are known to the attacker, which is its best case.
      measure: of the task, such as `fedrecon.tasks.mri_measure`, whose operators are used.
      data_range: maximum of a reference over its root mean square, such as that of other sites' images; None
        for networks without normalization: the scale is sought, too, and the range is each maximum.
      guess: (ny, nx), a public image to start near, such as the mean of other sites', in the scale of x;
        noise by default.
      consistency: weight of |M n|^2 over |y|^2 in the prior, beside the total variation of |x|: how firmly
        image and measurement are tied. None for n = 0, exactly tied; 0 for two unknowns that know nothing of
        each other.

    Raises:
      ValueError: a key is missing, or a number is out of range.
    """
    needed = ("kspace", "target", "mask", "coil_maps", "data_range")
    if missing := [name for name in needed if name not in known]:
        raise ArgumentError("known", f"the keys {', '.join(needed)}", f"no {missing[0]}")
    if not (data_range is None or data_range > 0) or not (consistency is None or consistency >= 0):
        expected = "positive or None, and at least 0 or None"
        raise ArgumentError("data_range, consistency", expected, (data_range, consistency))
    shape, samples = known["target"].shape, known["kspace"].shape
    hidden = ("kspace", "target", "data_range")
    others: Batch = {name: jnp.asarray(x) for name, x in known.items() if name not in hidden}
    mask = others["mask"][:, None]
    # Operators are functions of mask and maps alone.
    operators = measure({**others, "kspace": jnp.zeros(samples, known["kspace"].dtype)})[0]

    def start(key: jax.Array) -> PyTree:
        image = jax.random.normal(key, (2, *shape))
        if guess is not None:
            image = 0.05 * image + jnp.stack([jnp.broadcast_to(guess, shape), jnp.zeros(shape)])
        return {"image": image} if consistency is None else {"image": image, "rest": jnp.zeros((2, *samples))}

    def rest(z: PyTree) -> jax.Array:
        return mask * jax.lax.complex(*z["rest"])

    def batch(z: PyTree) -> Batch:
        size = jnp.sqrt(jnp.square(z["image"]).sum(0).mean((1, 2), keepdims=True) + 1e-12)
        real, imaginary = z["image"] if data_range is None else z["image"] / size
        y = jax.vmap(lambda A, x: A(x))(operators, jax.lax.complex(real, imaginary))
        # Roots are smooth at zero, where absolute values are not.
        target = jnp.sqrt(real**2 + imaginary**2 + 1e-12)
        y = y if consistency is None else y + rest(z)
        most = target.max((1, 2)) if data_range is None else jnp.full(shape[0], data_range)
        return {**others, "kspace": y, "target": target, "data_range": most}

    def prior(z: PyTree) -> jax.Array:
        found = batch(z)
        value = total_variation(found["target"]) / jax.lax.stop_gradient(found["target"].max())
        if consistency is None:
            return value
        size = jax.lax.stop_gradient(jnp.sum(jnp.square(jnp.abs(found["kspace"]))))
        return value + consistency * jnp.sum(jnp.square(jnp.abs(rest(z)))) / jnp.maximum(size, 1e-12)

    return Unknown(start, batch, prior, lambda z: z)
