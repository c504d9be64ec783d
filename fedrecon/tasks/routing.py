"""Test-time routing: layers whose weights are mixtures of several trained models, found without labels."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.models import BatchNorm, Conv
from fedrecon.types import Batch, PyTree, Task, Variables

# Layers that are linear in their weights, which is what mixing outputs in place of weights asks for.
LINEAR: tuple[type[nn.Module], ...] = (Conv, nn.Conv, nn.ConvTranspose)
# Pixels of the window of the shape term, 2 d + 1, and its weight; weights of entropy and consistency.
_WINDOW, _SHAPE = 21, 1e-6
_ENTROPY, _CONSISTENCY, _NOISE = 10.0, 0.1, 0.5

Route = Callable[[str, jax.Array], jax.Array]


class Routing(NamedTuple):
    """What is adapted: routing weights by layer, and the affine parameters of normalization layers.

    Attributes:
      layers: path -> {"w1" (C, 2 C), "b1", "w2" (2 C, experts), "b2"}.
      params: parameters of the last expert, None where they are not adapted.
    """

    layers: Mapping[str, Mapping[str, jax.Array]]
    params: PyTree


def routed_predict(task: Task, experts: Variables, route: Route) -> Callable[[PyTree, Batch], PyTree]:
    """``predict(params, batch)`` with convolutions of ``sum_e r_e W_e``, r of each example by itself.

    Convolutions are linear in their weights, so outputs are mixed in place of weights: the same numbers.
    Batch normalization takes the moments of the batch. Layers inside of compiled or repeated parts of a
    network are not supported.

    Args:
      task: of a flax network.
      experts: `Variables` with leaves (experts, ...).
      route: ``route(path, mean of the layer's input (examples, C)) -> r (examples, experts)``.

    Returns:
      Predictions of the task, the parameters of other layers being ``params``.
    """
    count = len(jax.tree.leaves(experts.params)[0])
    stats = jax.tree.map(lambda x: x[-1], experts.stats)

    def predict(params: PyTree, batch: Batch) -> PyTree:
        def mixed(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            module, inside = context.module, context.method_name == "__call__"
            if not (inside and module.path):
                return call(*args, **kwargs)
            x = args[0]
            if isinstance(module, LINEAR):
                own, alone = _at(experts.params, module.path), module.clone(parent=None)
                r = route("/".join(module.path), x.mean(tuple(range(1, x.ndim - 1))))
                outputs: list[Any] = [
                    alone.apply({"params": jax.tree.map(lambda w, e=e: w[e], own)}, x) for e in range(count)
                ]
                return sum(y * r[:, e].reshape(-1, *(1,) * (y.ndim - 1)) for e, y in enumerate(outputs))
            if isinstance(module, BatchNorm | nn.BatchNorm):
                axes = tuple(range(x.ndim - 1))
                own = _at(params, module.path)
                y = (x - x.mean(axes)) * jax.lax.rsqrt(x.var(axes) + module.epsilon)
                return y * own.get("scale", 1) + own.get("bias", 0)
            return call(*args, **kwargs)

        with nn.intercept_methods(mixed):
            return task.predict(params, stats, batch)

    return predict


def _at(tree: Mapping, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def entropy(p: jax.Array) -> jax.Array:
    """Mean over pixels of ``- sum_c p_c log p_c / log C``, of probabilities (..., C)."""
    return -(p * jnp.log(p + 1e-6)).sum(-1).mean() / jnp.log(p.shape[-1])


def boundary_length(p: jax.Array) -> jax.Array:
    """``1e-6 |maxpool p - minpool p|_2`` of foreground probabilities, windows of 21 x 21, (..., ny, nx, C).

    It is 0 of constant maps and grows with the length of boundaries.
    """
    foreground = p[..., 1:]
    window = (1,) * (foreground.ndim - 3) + (_WINDOW, _WINDOW, 1)
    stride = (1,) * foreground.ndim

    def largest(x: jax.Array) -> jax.Array:
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, stride, "SAME")

    spread = _SHAPE * (largest(foreground) + largest(-foreground))
    total = jnp.square(spread).sum()
    return jnp.where(total > 0, jnp.sqrt(jnp.where(total > 0, total, 1)), 0)


def consistency(of: Callable[[jax.Array], jax.Array], image: jax.Array, key: jax.Array) -> jax.Array:
    """Mean square of ``undo f(turned x + noise) - f(x)``; turns by right angles where images are square."""
    keys = jax.random.split(key, 3)
    noisy = image + _NOISE * jax.random.normal(keys[0], image.shape)
    square = image.shape[-3] == image.shape[-2]
    turns = jax.random.randint(keys[1], (), 0, 4 if square else 2)
    flip = jax.random.bernoulli(keys[2])

    def turn(x: jax.Array, k: int) -> jax.Array:
        return jnp.rot90(x, k, axes=(1, 2))

    steps = (0, 1, 2, 3) if square else (0, 2)
    turned = jax.lax.switch(turns, [lambda x, k=k: turn(x, k) for k in steps], noisy)
    turned = jnp.where(flip, turned[:, ::-1], turned)
    back = of(turned)
    back = jnp.where(flip, back[:, ::-1], back)
    back = jax.lax.switch(turns, [lambda x, k=k: turn(x, -k) for k in steps], back)
    return jnp.square(back - of(image)).mean()


def init_routing(task: Task, experts: Variables, image: jax.Array, key: jax.Array) -> Routing:
    """Random routing weights, as of ``torch.nn.Linear``, and the last expert's normalization layers.

    Raises:
      ValueError: the network has no convolutions that are called one by one.
    """
    seen: dict[str, int] = {}
    count = len(jax.tree.leaves(experts.params)[0])

    def record(path: str, mean: jax.Array) -> jax.Array:
        seen[path] = mean.shape[-1]
        return jnp.ones((len(mean), count)) / count

    params = jax.tree.map(lambda x: x[-1], experts.params)
    predict = routed_predict(task, experts, record)
    jax.eval_shape(predict, params, {"image": image, "valid": jnp.ones(len(image), bool)})
    if not seen:
        raise ArgumentError("task", "a network of convolutions, whose weights are mixed", "none in it")

    def layer(key: jax.Array, size: int) -> dict[str, jax.Array]:
        found = {}
        for number, (rows, columns) in enumerate(((size, 2 * size), (2 * size, count)), 1):
            for name, shape in (("w", (rows, columns)), ("b", (columns,))):
                key, own = jax.random.split(key)
                bound = rows**-0.5
                found[f"{name}{number}"] = jax.random.uniform(own, shape, minval=-bound, maxval=bound)
        return found

    keys = jax.random.split(key, len(seen))
    layers = {path: layer(k, size) for k, (path, size) in zip(keys, seen.items(), strict=True)}
    kept = jax.tree.map(lambda own, x: x if own else None, task.normalization.params, params)
    return Routing(layers, kept)


def sigmoid_route(layers: Mapping, key: jax.Array | None = None) -> Route:
    """``r = sigmoid(fc2(dropout_0.2(fc1(mean))))``; without a key nothing is dropped."""

    def route(path: str, mean: jax.Array) -> jax.Array:
        own = layers[path]
        hidden = mean @ own["w1"] + own["b1"]
        if key is not None:
            number = sorted(layers).index(path)
            kept = jax.random.bernoulli(jax.random.fold_in(key, number), 0.8, hidden.shape)
            hidden = jnp.where(kept, hidden / 0.8, 0)
        return jax.nn.sigmoid(hidden @ own["w2"] + own["b2"])

    return route


def routed_adaptation(
    task: Task,
    experts: Variables,
    images: jax.Array,
    key: jax.Array,
    *,
    batch_size: int = 8,
    passes: int = 10,
    learning_rate: float = 1e-3,
) -> Callable[[jax.Array], jax.Array]:
    """IOP-FL outside: probabilities at a site that did not train, of its images alone (Jiang et al. 2023).

    Routing weights and affine parameters of normalization layers descend ``10 entropy + 0.1 consistency +
    boundary_length`` of the predictions by Adam; the weights of the experts stay.

    Args:
      task: a segmentation; its predictions are probabilities, classes last.
      experts: `Variables` with leaves (experts, ...): personal models, and the global one last.
      images: (examples, ny, nx, channels), the site's, without labels.
      key: of initial weights, batches, noise and dropout.
      batch_size: images of a step; the last ones of a pass that do not fill a batch are left out.
      passes: over the images.
      learning_rate: of Adam.

    Returns:
      ``predict(images) -> probabilities`` after the last pass.
    """
    size = min(batch_size, len(images))
    state = init_routing(task, experts, images[:size], key)
    last = jax.tree.map(lambda x: x[-1], experts.params)
    optimizer = optax.adam(learning_rate)

    def probabilities(routing: Routing, image: jax.Array, key: jax.Array | None) -> jax.Array:
        params = jax.tree.map(
            lambda own, x: x if own is None else own, routing.params, last, is_leaf=lambda x: x is None
        )
        batch = {"image": image, "valid": jnp.ones(len(image), bool)}
        return routed_predict(task, experts, sigmoid_route(routing.layers, key))(params, batch)

    def loss(routing: Routing, image: jax.Array, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key)
        p = probabilities(routing, image, keys[0])
        same = consistency(lambda x: probabilities(routing, x, keys[0]), image, keys[1])
        return _ENTROPY * entropy(p) + _CONSISTENCY * same + boundary_length(p)

    @jax.jit
    def step(carry: tuple, image: jax.Array, key: jax.Array) -> tuple:
        routing, moments = carry
        updates, moments = optimizer.update(jax.grad(loss)(routing, image, key), moments)
        return optax.apply_updates(routing, updates), moments

    carry = (state, optimizer.init(state))
    for number in range(passes):
        own = jax.random.fold_in(key, number + 1)
        order = jax.random.permutation(own, len(images))
        for start in range(0, len(images) - size + 1, size):
            carry = step(carry, images[order[start : start + size]], jax.random.fold_in(own, start))
    return jax.jit(lambda image: probabilities(carry[0], image, None))
