"""Networks that know their site: channels chosen by its embedding, heads calibrated by those of others."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.types import Batch, Metrics, PyTree, Task, Variables

# Names beside those of the network: of parameters, and of the statistics that say whose model it is.
SELECTION, CALIBRATION, SITE = "channel_selection", "head_calibration", "site"
# Pixels of the window of maxima and of the Gaussian, its deviation, and the least disagreement that counts.
_WINDOW, _SIGMA, _LEAST = 31, 6.0, 0.2


def channel_weights(weights: Mapping[str, jax.Array], x: jax.Array, site: jax.Array) -> jax.Array:
    """PCS: ``h = sigmoid(g([mean x; z]) + g([max x; z]))`` with ``z = W2 relu(W1 e)``, (examples, C).

    Args:
      weights: "w1" (sites, C), "w2" (C, C), "v1" (2 C, C / 16), "v2" (C / 16, C).
      x: (examples, ny, nx, C).
      site: e, one-hot (sites,).
    """
    z = jax.nn.relu(site @ weights["w1"]) @ weights["w2"]

    def g(pooled: jax.Array) -> jax.Array:
        both = jnp.concatenate([pooled, jnp.broadcast_to(z, pooled.shape)], -1)
        return jax.nn.relu(both @ weights["v1"]) @ weights["v2"]

    return jax.nn.sigmoid(g(x.mean((1, 2))) + g(x.max((1, 2))))


def foreground(logits: jax.Array) -> jax.Array:
    """Probabilities of foreground classes: sigmoid of one channel, softmax of several without the first."""
    return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)[..., 1:]


def disagreement(own: jax.Array, others: jax.Array, known: jax.Array) -> jax.Array:
    """Where heads disagree: 1 at maxima of windows of 31 x 31 above 0.2 of the image's largest, else 0.

    Of ``u = sqrt(sum_j (p_j - p_i)^2 / (n - 1))`` over the other sites.

    Args:
      own: p_i (examples, ny, nx, K).
      others: p_j (sites, examples, ny, nx, K).
      known: (sites,), 1 for the other sites, n - 1 of them.
    """
    squares = jnp.tensordot(known, jnp.square(others - own), 1) / jnp.maximum(known.sum(), 1)
    u = jnp.sqrt(squares)
    largest = u.max((1, 2), keepdims=True)
    u = jnp.where(largest > 0, u / jnp.where(largest > 0, largest, 1), 0)
    window = (1, _WINDOW, _WINDOW, 1)
    near = jax.lax.reduce_window(u, -jnp.inf, jax.lax.max, window, (1,) * 4, "SAME")
    return ((u == near) & (u > _LEAST)).astype(u.dtype)


def blurred(x: jax.Array) -> jax.Array:
    """Sums over windows of 31 x 31 with a Gaussian of deviation 6 and peak 1, (examples, ny, nx, K)."""
    line = jnp.exp(-jnp.square(jnp.arange(_WINDOW) - _WINDOW // 2) / (2 * _SIGMA**2)).astype(x.dtype)

    def along(x: jax.Array, axis: int) -> jax.Array:
        moved = jnp.moveaxis(x, axis, -1)
        rows = moved.reshape(-1, moved.shape[-1])
        sums = jax.vmap(lambda row: jnp.convolve(row, line, mode="full"))(rows)
        start = _WINDOW // 2
        sums = sums[:, start : start + moved.shape[-1]]
        return jnp.moveaxis(sums.reshape(moved.shape), -1, axis)

    return along(along(x, 1), 2)


def calibrated_logits(
    weights: Mapping[str, jax.Array], features: jax.Array, own: jax.Array, where: jax.Array
) -> jax.Array:
    """HC: a convolution of 3 x 3 of ``[f (G * u) + f, f (G * p_i) + f]`` of all classes.

    Args:
      weights: "kernel" (3, 3, 2 K C, channels) and "bias" (channels,).
      features: f (examples, ny, nx, C).
      own: p_i (examples, ny, nx, K).
      where: u, as of `disagreement`.
    """
    parts = []
    for u, p in zip(jnp.split(blurred(where), own.shape[-1], -1), _split(blurred(own)), strict=True):
        parts += [features * u + features, features * p + features]
    x = jnp.concatenate(parts, -1)
    dimensions = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, weights["kernel"], (1, 1), "SAME", dimension_numbers=dimensions)
    return y + weights["bias"]


def _split(x: jax.Array) -> list[jax.Array]:
    return jnp.split(x, x.shape[-1], -1)


def site_task(
    task: Task,
    example: Mapping[str, Any],
    *,
    sites: int = 16,
    select: bool = True,
    calibrate: bool = True,
    contrast: float = 0.1,
) -> Task:
    """LC-Fed's network of a segmentation (Wang et al. 2022), see `fedrecon.federated.methods.lc_fed`.

    The last block of a U-Net's encoder gets ``x h + x`` with h of `channel_weights`. With "calibrated" among
    the statistics, predictions are those of `calibrated_logits`, and the loss is that of them and of the
    head's own; features and probabilities are not differentiated there. The loss also has ``- contrast
    mean_j |h_i - h_j|^2`` of the other sites j, whose h is not differentiated.

    Args:
      task: a segmentation of images by a U-Net, with "encoder" and "head".
      example: shapes and dtypes of a batch.
      sites: the most sites.
      select, calibrate: whether channels are selected, and heads calibrated; without both it is the task.
      contrast: of the selection, at least 0.

    Returns:
      The task; its statistics also have `SITE`: one-hot "site" (sites,), the "heads" of all sites, "known"
      (sites,) whose there are, and "calibrated" (), all 0 at first; no loss changes them.

    Raises:
      ValueError: another network, or an argument out of range.
    """
    if not (select or calibrate):
        return task
    if not contrast >= 0:
        raise ArgumentError("contrast", "a number of at least 0", repr(contrast))
    shapes = jax.eval_shape(task.init, jax.random.key(0)).params
    if not {"encoder", "head"} <= set(shapes) or len(shapes["head"]["kernel"].shape) != 4:
        raise ArgumentError("task", "a segmentation of images by unet, with an encoder", "another network")
    last = max(name for name in shapes["encoder"] if name.startswith("block"))
    channels = shapes["encoder"][last]["conv2"]["kernel"].shape[-1]
    *_, inside, outputs = shapes["head"]["kernel"].shape

    def init(key: jax.Array) -> Variables:
        variables = task.init(key)
        normal, keys = nn.initializers.he_normal(), jax.random.split(jax.random.fold_in(key, 1), 5)
        narrow = max(channels // 16, 1)
        sizes = {"w1": (sites, channels), "w2": (channels, channels), "v1": (2 * channels, narrow)}
        sizes["v2"] = (narrow, channels)
        own = {name: normal(k, size) for k, (name, size) in zip(keys, sizes.items(), strict=False)}
        width = 2 * max(outputs - 1, 1) * inside
        last_layer = {"kernel": normal(keys[4], (3, 3, width, outputs)), "bias": jnp.zeros(outputs)}
        params = {**variables.params, SELECTION: own, CALIBRATION: last_layer}
        heads = jax.tree.map(lambda x: jnp.zeros((sites, *x.shape), x.dtype), variables.params["head"])
        known = {"site": jnp.zeros(sites), "known": jnp.zeros(sites)}
        stats = {**variables.stats, SITE: {**known, "heads": heads, "calibrated": jnp.float32(0)}}
        return Variables(params, stats)

    def layers(params: PyTree, own: Mapping, seen: dict, calibrated: Any) -> Callable:
        def watch(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            y = call(*args, **kwargs)
            if context.method_name != "__call__":
                return y
            if select and context.module.path == ("encoder", last):
                seen["x"], seen["h"] = y, channel_weights(params[SELECTION], y, own["site"])
                return y * seen["h"][:, None, None] + y
            if calibrate and context.module.path == ("head",):
                f, z = jax.lax.stop_gradient((args[0], y))
                heads = jax.lax.stop_gradient(own["heads"])
                of_all = jnp.einsum("byxf,sfk->sbyxk", f, heads["kernel"][:, 0, 0])
                of_all = foreground(of_all + heads["bias"][:, None, None, None])
                p = foreground(z)
                where = disagreement(p, of_all, own["known"] * (1 - own["site"]))
                return jnp.where(calibrated, calibrated_logits(params[CALIBRATION], f, p, where), y)
            return y

        return watch

    def plain(tree: Mapping) -> dict:
        return {name: x for name, x in tree.items() if name not in (SELECTION, CALIBRATION, SITE)}

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        own: Mapping[str, Any] = stats[SITE]
        seen: dict[str, jax.Array] = {}
        with nn.intercept_methods(layers(params, own, seen, False)):
            value, (new, metrics) = task.loss(plain(params), plain(stats), batch, key)
        if select and contrast:
            value -= contrast * _apart(params[SELECTION], seen, own, batch["valid"])
        if calibrate:
            with nn.intercept_methods(layers(params, own, {}, True)):
                again = task.loss(plain(params), plain(stats), batch, key)[0]
            value += jnp.where(own["calibrated"] > 0, again, 0)
        return value, ({**new, SITE: own}, metrics)

    def seen_by(function: Callable) -> Callable:
        def call(params: PyTree, stats: PyTree, batch: Batch) -> Any:
            own = stats[SITE]
            with nn.intercept_methods(layers(params, own, {}, own["calibrated"] > 0)):
                return function(plain(params), plain(stats), batch)

        return call

    false = jax.tree.map(lambda x: False, jax.eval_shape(init, jax.random.key(0)))
    normalization = Variables(
        {**false.params, **task.normalization.params}, {**false.stats, **task.normalization.stats}
    )
    return Task(init, loss, seen_by(task.metrics), seen_by(task.predict), normalization)


def _apart(weights: Mapping, seen: Mapping, own: Mapping, valid: jax.Array) -> jax.Array:
    """Mean over the other sites of the mean squared difference of h_i and h_j, of valid examples."""
    others = own["known"] * (1 - own["site"])
    each = jax.vmap(lambda site: channel_weights(weights, seen["x"], site))(jnp.eye(len(others)))
    squares = jnp.square(seen["h"] - jax.lax.stop_gradient(each)).mean(-1)
    mean = jnp.where(valid, squares, 0).sum(-1) / jnp.maximum(valid.sum(), 1)
    return (others * mean).sum() / jnp.maximum(others.sum(), 1)
