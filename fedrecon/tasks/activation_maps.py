"""Where a classifier looks: gradient-weighted class activation maps."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.types import Batch, PyTree, Task


def grad_cam(task: Task, layer: str = "") -> Callable[[PyTree, PyTree, Batch, jax.Array], jax.Array]:
    """Grad-CAM (Selvaraju et al. 2017): channels of a layer, weighted by how much a class asks for them.

    ``relu(sum_k alpha_k A_k)`` with the channels A_k of the layer and the mean over pixels, alpha_k, of the
    derivative of the class's logit in them. Where means over pixels and one linear layer follow, alpha_k is
    that layer's weight over the number of pixels (the class activation map of Zhou et al. 2016).

    Args:
      task: a classification whose predictions call one flax module, which returns logits (examples, classes).
      layer: path of the layer, joined by "/"; by default the last that returns (examples, ny, nx, channels).

    Returns:
      ``maps(params, stats, batch, label) -> float (examples, ny, nx)``, not negative, of the layer's pixels;
      ``label`` int (examples,) are the classes that are asked for.

    Raises:
      ValueError: from the maps, if there is no such layer.
    """

    def run(params: PyTree, stats: PyTree, batch: Batch, wanted: str, offset: jax.Array | float) -> tuple:
        """Logits, what the wanted layer returns with an offset, and the paths of layers with pixels."""
        paths: list[str] = []
        seen: dict[str, jax.Array] = {}

        def watch(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            output = call(*args, **kwargs)
            if context.method_name != "__call__":
                return output
            path = "/".join(context.module.path)
            if not path:
                seen["logits"] = output
            elif getattr(output, "ndim", 0) == 4:
                paths.append(path)
                if path == wanted:
                    seen["layer"] = output = output + offset
            return output

        with nn.intercept_methods(watch):
            task.predict(params, stats, batch)
        return seen.get("logits"), seen.get("layer"), tuple(paths)

    def maps(params: PyTree, stats: PyTree, batch: Batch, label: jax.Array) -> jax.Array:
        found: list[tuple[str, ...]] = []
        jax.eval_shape(lambda p, s, b: found.append(run(p, s, b, "", 0.0)[2]), params, stats, batch)
        wanted = layer or (found[0][-1] if found[0] else "")
        if wanted not in found[0]:
            expected = f"one of {', '.join(found[0]) or 'none'}"
            raise ArgumentError("layer", expected, repr(wanted))
        shape = jax.eval_shape(lambda p, s, b: run(p, s, b, wanted, 0.0)[1], params, stats, batch)

        def asked(offset: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits, output, _ = run(params, stats, batch, wanted, offset)
            return jnp.take_along_axis(logits, label[:, None], axis=1).sum(), output

        gradient, output = jax.grad(asked, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
        weights = gradient.mean((1, 2), keepdims=True)
        return jax.nn.relu((weights * output).sum(-1))

    return maps
