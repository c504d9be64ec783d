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


def images(known: Mapping[str, jax.Array], low: float = 0.0, high: float = 1.0) -> Unknown:
    """The images of a classification or segmentation, with labels or masks known.

    Args:
      known: the batch; of "image" (examples, ny, nx, channels) only the shape is used.
      low, high: the range that values are known to lie in.

    Raises:
      ValueError: there is no image, or the range is empty.
    """
    if "image" not in known:
        raise ArgumentError("known", "the key image", sorted(known))
    if not low < high:
        raise ArgumentError("low, high", "low < high", (low, high))
    shape, others = known["image"].shape, {k: v for k, v in known.items() if k != "image"}
    return Unknown(
        lambda key: low + (high - low) * jax.random.uniform(key, shape),
        lambda z: {**others, "image": z},
        lambda z: total_variation(z) / (high - low),
        lambda z: jnp.clip(z, low, high),
    )


def measurements(
    known: Mapping[str, jax.Array],
    measure: Callable[[Batch], tuple],
    *,
    consistency: float | None = None,
    limit: float = 1.0,
) -> Unknown:
    """Measured k-space and the reference image of an unrolled reconstruction of MRI.

    The unknowns are a complex image x and samples n: the measurement is y = A x + M n with the network's own
    operator A and its sampling mask M, the reference |x|, the range of values the maximum of each reference.

    Args:
      known: the batch; "kspace" (examples, coils, ny, nx) and "target" (examples, ny, nx) only by shapes;
        "mask" and "coil_maps" are known to the attacker, which is its best case.
      measure: of the task, such as `fedrecon.tasks.mri_measure`, whose operators are used.
      consistency: weight of |M n|^2 over |y|^2 in the prior, beside the total variation of |x|: how firmly
        image and measurement are tied. None for n = 0, exactly tied; 0 for two unknowns that know nothing of
        each other.
      limit: largest absolute value of real and imaginary parts of x.

    Raises:
      ValueError: a key is missing, or a number is out of range.
    """
    needed = ("kspace", "target", "mask", "coil_maps", "data_range")
    if missing := [name for name in needed if name not in known]:
        raise ArgumentError("known", f"the keys {', '.join(needed)}", f"no {missing[0]}")
    if not limit > 0 or not (consistency is None or consistency >= 0):
        raise ArgumentError("consistency, limit", "at least 0 or None, and positive", (consistency, limit))
    shape, samples = known["target"].shape, known["kspace"].shape
    hidden = ("kspace", "target", "data_range")
    others: Batch = {name: jnp.asarray(x) for name, x in known.items() if name not in hidden}
    mask = others["mask"][:, None]
    # Operators are functions of mask and maps alone.
    operators = measure({**others, "kspace": jnp.zeros(samples, known["kspace"].dtype)})[0]

    def start(key: jax.Array) -> PyTree:
        z = {"image": 0.1 * limit * jax.random.normal(key, (2, *shape))}
        return z if consistency is None else {**z, "rest": jnp.zeros((2, *samples))}

    def parts(z: PyTree) -> tuple[jax.Array, jax.Array]:
        x = jax.lax.complex(*z["image"])
        y = jax.vmap(lambda A, x: A(x))(operators, x)
        return x, y if consistency is None else y + mask * jax.lax.complex(*z["rest"])

    def batch(z: PyTree) -> Batch:
        x, y = parts(z)
        # The root is smooth at zero, where absolute values are not.
        target = jnp.sqrt(jnp.square(x.real) + jnp.square(x.imag) + 1e-12)
        data_range = jnp.max(target, axis=(1, 2))
        return {**others, "kspace": y, "target": target, "data_range": data_range}

    def prior(z: PyTree) -> jax.Array:
        target, y = batch(z)["target"], batch(z)["kspace"]
        value = total_variation(target) / jnp.maximum(jax.lax.stop_gradient(target.max()), 1e-6)
        if consistency is None:
            return value
        rest = mask * jax.lax.complex(*z["rest"])
        size = jax.lax.stop_gradient(jnp.sum(y.real**2 + y.imag**2))
        return value + consistency * jnp.sum(rest.real**2 + rest.imag**2) / jnp.maximum(size, 1e-12)

    def project(z: PyTree) -> PyTree:
        return {**z, "image": jnp.clip(z["image"], -limit, limit)}

    return Unknown(start, batch, prior, project)
