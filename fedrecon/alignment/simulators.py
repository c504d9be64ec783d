"""Simulators of labeled images: shapes and materials that any scanner sees, and a renderer of one scanner."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.alignment.adversarial import new_perceptron, perceptron
from fedrecon.alignment.translation import judged, judged_width, new_translator, translated
from fedrecon.types import PyTree

# Groups of parameters that any scanner shares, and those of one scanner.
SHARED_PARTS, PRIVATE_PARTS = ("shapes", "material"), ("renderer", "discriminator")
# Weight of the mean absolute error of a renderer.
FIDELITY = 10.0
_APPLY = perceptron(0.2)


def new_simulator(
    key: jax.Array, shape: tuple[int, ...], classes: int, *, latent: int = 16, hidden: int = 64
) -> dict[str, PyTree]:
    """Parameters of a simulator, whose renderer is the identity at first.

    Args:
      key: typed.
      shape: (ny, nx, channels) of images.
      classes: of labels, with the background.
      latent: numbers of z.
      hidden: width of encoder and decoder.

    Returns:
      "shapes" (an encoder of label maps, a decoder of z), "material" ("mean" and "log_deviation", float32
      (classes, channels)), "renderer" and "discriminator".
    """
    ny, nx, channels = shape
    keys, pixels = jax.random.split(key, 4), ny * nx * classes
    priors = {"mean": jnp.zeros((classes, channels)), "log_deviation": jnp.zeros((classes, channels))}
    return {
        "shapes": {
            "encoder": new_perceptron(keys[0], (pixels, hidden, 2 * latent)),
            "decoder": new_perceptron(keys[1], (latent, hidden, pixels)),
        },
        "material": priors,
        # Of a material image and noise.
        "renderer": new_translator(keys[2], channels + 1),
        "discriminator": new_perceptron(keys[3], (judged_width((ny, nx, channels + classes)), 64, 1)),
    }


def decoded(shapes: Mapping[str, Any], z: jax.Array, labels: tuple[int, ...]) -> jax.Array:
    """Logits (examples, ny, nx, classes) of latent vectors (examples, latent); ``labels`` is their shape."""
    return _APPLY(shapes["decoder"], z).reshape(len(z), *labels)


def shape_losses(shapes: Mapping[str, Any], y: jax.Array, noise: jax.Array) -> jax.Array:
    """Minus the evidence lower bound of label maps: ``(CE + KL(q(z | y) || N(0, 1))) / pixels``.

    Args:
      shapes: of `new_simulator`.
      y: (examples, ny, nx, classes), one-hot.
      noise: (examples, latent), standard normal: z = mu + sigma noise.

    Returns:
      (examples,).
    """
    mu, log_variance = jnp.split(_APPLY(shapes["encoder"], y.reshape(len(y), -1)), 2, -1)
    z = mu + jnp.exp(0.5 * log_variance) * noise
    said = jax.nn.log_softmax(decoded(shapes, z, y.shape[1:]))
    entropy = -(y * said).sum((1, 2, 3))
    divergence = 0.5 * (jnp.square(mu) + jnp.exp(log_variance) - 1 - log_variance).sum(1)
    return (entropy + divergence) / (y.shape[1] * y.shape[2])


def materials(image: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean intensities of an image's classes, after its channels have mean 0 and variance 1.

    A scanner's gain and offset have no part in them.

    Args:
      image: (examples, ny, nx, channels).
      y: (examples, ny, nx, classes), one-hot.

    Returns:
      Values (examples, classes, channels), 0 of absent classes, and which are present, bool (examples,
      classes).
    """
    spread = image.std((1, 2), keepdims=True)
    normal = (image - image.mean((1, 2), keepdims=True)) / jnp.where(spread > 0, spread, 1)
    count = y.sum((1, 2))
    values = jnp.einsum("byxk,byxc->bkc", y, normal) / jnp.maximum(count, 1)[..., None]
    return values, count > 0


def material_losses(priors: Mapping[str, Any], values: jax.Array, present: jax.Array) -> jax.Array:
    """``-log N(values; mean, deviation^2)`` of present classes without its constant, summed: (examples,)."""
    away = (values - priors["mean"]) * jnp.exp(-priors["log_deviation"])
    each = (0.5 * jnp.square(away) + priors["log_deviation"]).sum(-1)
    return jnp.where(present, each, 0).sum(-1)


def rendered(renderer: PyTree, y: jax.Array, values: jax.Array, noise: jax.Array) -> jax.Array:
    """R(m(y), noise): images (examples, ny, nx, channels) of the material image ``m = values[y]``.

    Args:
      renderer: of `new_simulator`.
      y: (examples, ny, nx, classes), one-hot.
      values: (examples, classes, channels).
      noise: (examples, ny, nx, 1).
    """
    material = jnp.einsum("byxk,bkc->byxc", y, values)
    return translated(renderer, jnp.concatenate([material, noise], -1))[..., :-1]


def drawn_values(key: jax.Array, priors: Mapping[str, Any], count: int) -> jax.Array:
    """Materials (count, classes, channels) from the priors, which get no gradient."""
    mean, deviation = jax.lax.stop_gradient((priors["mean"], jnp.exp(priors["log_deviation"])))
    return mean + deviation * jax.random.normal(key, (count, *mean.shape))


def simulator_losses(params: Mapping[str, Any], image: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
    """The sum of the losses of all parts, each of which reaches its own parameters alone: (examples,).

    - shapes: `shape_losses`; material: `material_losses` of the images' own;
    - renderer: ``(D(R(m, e), y) - 1)^2 + 10 |x - R(m(x), e)|``, of materials m from the priors in the first
      term and the image's own in the second;
    - discriminator: ``(D(x, y) - 1)^2 + D(R(m, e), y)^2`` (Mao et al. 2017), means over patches.

    Args:
      params: of `new_simulator`.
      image: (examples, ny, nx, channels).
      y: (examples, ny, nx, classes), one-hot.
      key: of all that is drawn.
    """
    keys, count = jax.random.split(key, 3), len(image)
    latent = params["shapes"]["decoder"][0]["kernel"].shape[0]
    bound = shape_losses(params["shapes"], y, jax.random.normal(keys[0], (count, latent)))
    values, present = materials(image, y)
    drawn = drawn_values(keys[1], params["material"], count)
    noise = jax.random.normal(keys[2], (*image.shape[:3], 1))
    made = rendered(params["renderer"], y, drawn, noise)
    again = rendered(params["renderer"], y, values, noise)

    def score(judge: PyTree, x: jax.Array) -> jax.Array:
        return judged(judge, jnp.concatenate([x, y], -1)).reshape(count, -1)

    judge, frozen = params["discriminator"], jax.lax.stop_gradient(params["discriminator"])
    fooled = jnp.square(score(frozen, made) - 1).mean(1)
    fidelity = jnp.abs(image - again).mean((1, 2, 3))
    apart = jnp.square(score(judge, image) - 1).mean(1)
    apart += jnp.square(score(judge, jax.lax.stop_gradient(made))).mean(1)
    return bound + material_losses(params["material"], values, present) + fooled + FIDELITY * fidelity + apart


def simulated_pairs(
    params: Mapping[str, Any], key: jax.Array, count: int, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Images R(m(y), e) (count, ny, nx, channels) and labels y = argmax G(z), int32 (count, ny, nx).

    Args:
      params: of `new_simulator`.
      key: typed.
      count: of the pairs.
      shape: (ny, nx) of the images.
    """
    keys = jax.random.split(key, 3)
    latent = params["shapes"]["decoder"][0]["kernel"].shape[0]
    classes = params["material"]["mean"].shape[0]
    logits = decoded(params["shapes"], jax.random.normal(keys[0], (count, latent)), (*shape, classes))
    labels = jnp.argmax(logits, -1).astype(jnp.int32)
    noise = jax.random.normal(keys[2], (count, *shape, 1))
    y = jax.nn.one_hot(labels, classes)
    return rendered(params["renderer"], y, drawn_values(keys[1], params["material"], count), noise), labels
