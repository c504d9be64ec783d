"""Images as functions of the place: a small network of coordinates, fitted to one measurement."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrecon.errors import ArgumentError
from operators import LinearOperator

# Under the root of the total variation, in squared units of the image: differences below are smooth.
_SMOOTH = 1e-6
# The rate at the last step over that at the first.
_LAST_RATE = 0.05
# Standard deviation of the features at the start.
_START = 1e-2


class Implicit(NamedTuple):
    """What a fit gave.

    Attributes:
      image: of ``in_shape``.
      steps: at which the error was measured.
      errors: |A x - y| / |y| at the held-out samples there.
      best: index of the lowest.
    """

    image: jax.Array
    steps: list[int]
    errors: list[float]
    best: int


def implicit_representation(
    operator: LinearOperator,
    y: jax.Array,
    held_out: jax.Array,
    key: jax.Array,
    *,
    total_variation: float = 0.02,
    coarsest: int = 8,
    features: int = 2,
    width: int = 32,
    steps: int = 600,
    every: int = 50,
    learning_rate: float = 3e-2,
    progress: Callable[[int], Any] = lambda count: None,
) -> Implicit:
    """Fits an image that is a network of its coordinates to the samples of one measurement.

    ``x(r) = c N(g_0(r), g_1(r), ...)``: g_i are trained features on grids of ``coarsest`` 2^i cells, the
    finest as fine as the image, interpolated linearly at r, N a perceptron of two hidden layers, of two
    outputs where images are complex, and c half of the largest pixel of the multiple of A^H y that explains
    y best, without what is held out. Adam lowers ``|A x - y|^2 / |y|^2`` over the samples that are not held
    out, plus ``total_variation`` times the mean length of the differences of neighbors over c. The number of
    steps with the lowest error at the held-out samples is what a second fit, from the same start, to all
    samples takes; its rate falls as that of the first.

    Features start near zero, so that the first images are smooth. Random frequencies in place of grids start
    from noise, which a large image with few samples does not lose in as many steps.

    Args:
      operator: A, of images or volumes, real or complex.
      y: measurement, ``out_shape``; not measured samples 0.
      held_out: bool, broadcastable to ``out_shape``: samples that choose the number of steps.
      key: typed key of features and weights.
      total_variation: see above; 0 for none.
      coarsest: cells of the coarsest grid along the longest axis.
      features: of each grid.
      width: of the perceptron's hidden layers.
      steps: most that are taken.
      every: between looks at held-out samples; a divisor of ``steps``.
      learning_rate: falls to a twentieth by a cosine.
      progress: called with the number of steps finished since the last call.

    Raises:
      ValueError: the numbers are out of their ranges, held-out samples are none or all of y, or y is zero.

    Source: grids of Müller et al., ACM Trans. Graph. 41:102, 2022, dense instead of hashed; of scanners Zha,
    Zhang and Li, MICCAI 2022 (NAF); Shen, Pauly and Xing, IEEE Trans. Neural Netw. Learn. Syst. 35:770, 2022
    (NeRP, without its prior image); Feng et al., IEEE Trans. Med. Imaging 43:1539, 2024 (IMJENSE, total
    variation; coil maps are given here).
    """
    if not learning_rate > 0:
        raise ArgumentError("learning_rate", "a positive number", learning_rate)
    if not 0 < coarsest <= max(operator.in_shape):
        raise ArgumentError("coarsest", f"1 to {max(operator.in_shape)} cells", coarsest)
    if not 0 < every <= steps or steps % every:
        raise ArgumentError("every", f"a divisor of steps, {steps}", every)
    held = jnp.broadcast_to(jnp.asarray(held_out, bool), y.shape)
    power = jnp.square(jnp.abs(y))
    parts = [float(jnp.where(chosen, power, 0).sum()) for chosen in (held, ~held)]
    if not min(parts) > 0:
        raise ArgumentError(
            "held_out", "some of the samples that are not zero, and others", f"{parts} of |y|^2"
        )
    complex_image = jnp.issubdtype(operator.in_dtype, jnp.complexfloating)
    scale = _scale(operator, jnp.where(held, 0, y))
    at, start = jax.random.split(key)
    cells = _cells(operator.in_shape, coarsest)
    weights = [
        [_interpolation(n, g) for n, g in zip(operator.in_shape, level, strict=True)] for level in cells
    ]
    grids = [
        _START * jax.random.normal(jax.random.fold_in(at, i), (*(g + 1 for g in level), features))
        for i, level in enumerate(cells)
    ]
    sizes = (features * len(cells), width, width, 2 if complex_image else 1)
    begin = grids, _perceptron(start, sizes)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps, _LAST_RATE))

    def image(params: Any, weights: Any) -> jax.Array:
        grids, layers = params
        h = jnp.concatenate([_interpolated(*level) for level in zip(grids, weights, strict=True)], -1)
        h = h.reshape(-1, h.shape[-1])
        for kernel, bias in layers[:-1]:
            h = jax.nn.relu(h @ kernel + bias)
        found = h @ layers[-1][0] + layers[-1][1]
        x = found[:, 0] + 1j * found[:, 1] if complex_image else found[:, 0]
        return (scale * x).reshape(operator.in_shape).astype(operator.in_dtype)

    def loss(params: Any, weights: Any, given: jax.Array) -> jax.Array:
        x = image(params, weights)
        apart = jnp.square(jnp.abs(operator(x) - y))
        total = jnp.where(given, apart, 0).sum() / jnp.where(given, power, 0).sum()
        return total + (total_variation * _variation(x / scale) if total_variation else 0)

    @jax.jit
    def train(carried: Any, weights: Any, given: jax.Array) -> Any:
        def step(carried: Any, _: None) -> tuple[Any, None]:
            params, state = carried
            gradient = jax.grad(loss)(params, weights, given)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, carried, length=every)[0]

    @jax.jit
    def error(params: Any, weights: Any) -> jax.Array:
        apart = jnp.square(jnp.abs(operator(image(params, weights)) - y))
        return jnp.sqrt(jnp.where(held, apart, 0).sum() / jnp.where(held, power, 0).sum())

    carried, at_steps, errors = (begin, optimizer.init(begin)), [], []
    for count in range(every, steps + 1, every):
        carried = train(carried, weights, ~held)
        at_steps.append(count)
        errors.append(float(error(carried[0], weights)))
        progress(every)
    best = int(np.argmin(errors))
    carried = begin, optimizer.init(begin)
    for _ in range(best + 1):
        carried = train(carried, weights, jnp.ones_like(held))
        progress(every)
    return Implicit(jax.jit(image)(carried[0], weights), at_steps, errors, best)


def _scale(operator: LinearOperator, y: jax.Array) -> jax.Array:
    """Half of the largest pixel of the multiple of A^H y that explains y best."""
    direct = operator.H(y)
    again = operator(direct)
    size = jnp.vdot(again, y).real / jnp.vdot(again, again).real
    return jnp.abs(size * direct).max() / 2


def _cells(shape: tuple[int, ...], coarsest: int) -> list[tuple[int, ...]]:
    """Cells of each grid along each axis: twice as many from grid to grid, those of the pixels at last."""
    longest, found = max(shape), []
    while coarsest < longest:
        found.append(tuple(max(1, round(coarsest * n / longest)) for n in shape))
        coarsest *= 2
    return [*found, shape]


def _interpolation(pixels: int, cells: int) -> jax.Array:
    """Weights of nodes in pixels, (pixels, cells + 1): pixel i is at i cells / pixels."""
    at = np.arange(pixels) * cells / pixels
    low = np.minimum(at.astype(int), cells - 1)
    found = np.zeros((pixels, cells + 1), np.float32)
    found[np.arange(pixels), low] = 1 - (at - low)
    found[np.arange(pixels), low + 1] = at - low
    return jnp.asarray(found)


def _interpolated(grid: jax.Array, weights: Sequence[jax.Array]) -> jax.Array:
    """(*nodes, features) at all pixels: (*shape, features)."""
    for axis, matrix in enumerate(weights):
        grid = jnp.moveaxis(jnp.tensordot(matrix, grid, (1, axis)), 0, axis)
    return grid


def _perceptron(key: jax.Array, sizes: tuple[int, ...]) -> list[tuple[jax.Array, jax.Array]]:
    """Normal weights of He et al.; half as large in the last layer."""
    found = []
    for i, (given, made) in enumerate(itertools.pairwise(sizes)):
        gain = math.sqrt(2 / given) if i < len(sizes) - 2 else 0.5 / math.sqrt(given)
        found.append((gain * jax.random.normal(jax.random.fold_in(key, i), (given, made)), jnp.zeros(made)))
    return found


def _variation(x: jax.Array) -> jax.Array:
    """Mean length of the differences to the next pixel along each axis; at the last one 0."""
    total: Any = _SMOOTH
    for axis in range(x.ndim):
        edge = jax.lax.slice_in_dim(x, x.shape[axis] - 1, x.shape[axis], axis=axis)
        total = total + jnp.square(jnp.abs(jnp.diff(x, axis=axis, append=edge)))
    return jnp.sqrt(total).mean()
