"""Off-resonance and T2* decay during the readout: time-segmented Fourier operators and field maps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from operators.algebra import (
    ArgumentError,
    LinearOperator,
    as_inexact,
    assign,
    frozen_pytree,
    is_complex,
    positive_integer,
    squared,
)

_METHODS = ("svd", "min-max")
_DECAY_BINS = 16
# Share of the fit spread evenly over the widened range of frequencies: it ties down the derivative in the
# field where all pixels share one frequency, and costs next to nothing where they do not.
_EVEN_SHARE = 1e-4


@frozen_pytree
class OffResonance(LinearOperator):
    """A Fourier operator whose samples are acquired while the field map and decay act on the image.

    ``y_m = sum_n F_mn exp(-(r2_n + 2 pi i f_n) t_m) x_n``, F being the Fourier operator, whose kernel is
    ``exp(-2 pi i k . n)``: a positive frequency turns the phase as a positive k-space coordinate does; negate
    maps of the other sign. The exponential is approximated by ``segments`` products,

    ``exp(-(r2_n + 2 pi i f_n) t_m) ~ sum_l temporal[l, m] spatial[l, n]``,

    so one application costs ``segments`` applications of the Fourier operator. With "svd" the products span
    the best subspace for a histogram of the maps (and times near the ends weighted somewhat more); with
    "min-max" ``spatial[l] = exp(-(r2 + 2 pi i f) tau_l)`` at equispaced times ``tau_l`` and ``temporal`` is
    the least-squares interpolator for that histogram, whose coefficients are larger and error a little
    higher. The error falls faster than exponentially once ``segments`` exceeds the range of f times the
    duration; ask :func:`off_resonance_segments`.

    Differentiable in the image and the two maps: ``spatial`` is a smooth function of them, ``temporal`` and
    the subspace are held fixed in the derivative, to which they contribute no more than the error of the
    approximation. Times have no gradient. Coils go inside or outside: ``OffResonance(SENSE(F, maps), ...)``
    and ``SENSE(OffResonance(F, ...), maps)`` are equal.

    Args:
      fourier: operator F of complex images, such as NUFFT, CartesianFourier, or SENSE of one of them.
      field_map: frequencies f in Hz, of shape ``fourier.in_shape``.
      times: acquisition times t in s since the excitation, broadcastable to ``fourier.out_shape``: (samples,)
        or (ny, nx). Only samples at t = 0 see no field.
      segments: number of products.
      r2_map: decay rates R2* in 1/s, non-negative, of shape ``fourier.in_shape``; None stands for zeros.
      method: "svd" or "min-max".

    Attributes:
      fourier: the Fourier operator.
      spatial: (segments, *fourier.in_shape) complex.
      temporal: (segments, *times.shape) complex.

    Raises:
      ValueError: if a shape does not fit, ``segments`` is not positive or ``method`` is unknown.
      TypeError: if ``fourier`` is no operator of complex images, or a map or the times are complex.

    Source: Noll et al., IEEE Trans. Med. Imaging 10:629, 1991; Sutton et al., IEEE Trans. Med. Imaging
    22:178, 2003; Fessler et al., IEEE Trans. Signal Process. 53:3393, 2005.

    Example:
      >>> F = operators.CartesianFourier((1, 4))
      >>> A = operators.OffResonance(F, jnp.full((1, 4), 25.0), jnp.full((1, 4), 0.01), segments=1)
      >>> phase = A(jnp.ones((1, 4)))[0, 2] / F(jnp.ones((1, 4)))[0, 2]
      >>> print(np.asarray(jnp.angle(phase) / (2 * jnp.pi)).round(3))
      -0.25
    """

    fourier: LinearOperator
    spatial: jax.Array
    temporal: jax.Array

    def __init__(
        self,
        fourier: LinearOperator,
        field_map: jax.Array,
        times: jax.Array,
        segments: int,
        r2_map: jax.Array | None = None,
        method: str = "svd",
    ) -> None:
        if not isinstance(fourier, LinearOperator):
            raise TypeError(
                f"OffResonance: fourier: expected a LinearOperator, found {type(fourier).__name__}"
            )
        if not is_complex(fourier.in_dtype):
            raise TypeError(
                f"OffResonance: fourier: expected an operator on complex images, found {fourier.in_dtype}"
            )
        segments = positive_integer(segments, "OffResonance: segments")
        if method not in _METHODS:
            raise ArgumentError("OffResonance: method", f"one of {_METHODS}", repr(method))
        field_map, times, r2_map = _check_maps(field_map, times, r2_map, "OffResonance")
        if field_map.shape != fourier.in_shape:
            raise ArgumentError(
                "OffResonance: field_map", f"the shape {fourier.in_shape} of the image", field_map.shape
            )
        out = fourier.out_shape
        if times.ndim > len(out) or any(
            t not in (1, n) for t, n in zip(times.shape[::-1], out[::-1], strict=False)
        ):
            raise ArgumentError(
                "OffResonance: times", f"a shape broadcastable to {out}", f"shape {times.shape}"
            )
        nodes, projection, temporal = _interpolators(field_map, times, r2_map, segments, method)
        exponentials = _decay(_rates(field_map, r2_map)[..., None], nodes)
        spatial = jnp.einsum("...k,lk->l...", exponentials, projection, precision="highest")
        assign(self, fourier=fourier, spatial=spatial, temporal=temporal)

    in_shape = property(lambda self: self.fourier.in_shape)
    out_shape = property(lambda self: self.fourier.out_shape)
    in_dtype = property(lambda self: jnp.promote_types(self.fourier.in_dtype, self.spatial.dtype))
    out_dtype = property(lambda self: jnp.promote_types(self.fourier.out_dtype, self.spatial.dtype))

    def _aligned(self) -> jax.Array:
        missing = len(self.out_shape) - (self.temporal.ndim - 1)
        return jnp.expand_dims(self.temporal, tuple(range(1, 1 + missing)))

    def _forward(self, x):
        segments = self.fourier._forward(self.spatial * jnp.expand_dims(x, x.ndim - len(self.in_shape)))
        return jnp.sum(self._aligned() * segments, axis=-1 - len(self.out_shape))

    def _adjoint(self, y):
        segments = self._aligned().conj() * jnp.expand_dims(y, y.ndim - len(self.out_shape))
        return jnp.sum(self.spatial.conj() * self.fourier._adjoint(segments), axis=-1 - len(self.in_shape))


def off_resonance_segments(
    field_map: jax.Array, times: jax.Array, tolerance: float = 1e-3, r2_map: jax.Array | None = None
) -> int:
    """The number of segments with which :class:`OffResonance` meets a tolerance.

    The error is that of method "svd", root mean square over the histogram of the maps and the duration,
    relative to the exponential itself; "min-max" needs one to three segments more. Runs on concrete values,
    not under ``jit``.

    Args:
      field_map: frequencies in Hz, of any shape.
      times: acquisition times in s, of any shape.
      tolerance: relative error, in (0, 1).
      r2_map: decay rates in 1/s, of the shape of ``field_map``; None stands for zeros.

    Returns:
      A positive number.

    Raises:
      ValueError: if a shape does not fit, the maps are empty, or ``tolerance`` is out of range.
      TypeError: if a map or the times are complex.
    """
    if not 1e-10 <= tolerance < 1:
        raise ArgumentError("off_resonance_segments: tolerance", "a number in [1e-10, 1)", tolerance)
    with jax.enable_x64(True):
        field_map, times = np.asarray(field_map, np.float64), np.asarray(times, np.float64)
        r2_map = None if r2_map is None else np.asarray(r2_map, np.float64)
        field_map, times, r2_map = _check_maps(field_map, times, r2_map, "off_resonance_segments")
        range_times_duration = float(jnp.ptp(field_map) * jnp.ptp(times))
        points = 32 + 4 * math.ceil(range_times_duration)
        fit, _ = _fit_problem(field_map, times, r2_map, points)
        power = np.linalg.svd(np.asarray(fit), compute_uv=False) ** 2
    left = power.sum() - np.cumsum(power)
    return int(np.argmax(left <= tolerance**2 * power.sum())) + 1


def field_map_from_echoes(images: jax.Array, echo_times: jax.Array) -> jax.Array:
    """Off-resonance frequency from the phase of gradient echoes, the sign being that of ``exp(-2 pi i f t)``.

    The first two echoes give f unambiguously within ``1 / (2 (t_1 - t_0))`` of zero; the phase of every later
    echo is unwrapped against them and a line is fitted, each echo weighted by its signal power. Coils are
    combined by their signal power. Pixels without signal get zero. Differentiable in the images.

    Args:
      images: (..., echoes, coils, ny, nx) complex, one coil axis of length one for combined images.
      echo_times: (echoes,) in s, increasing, at least two; concrete.

    Returns:
      (..., ny, nx), Hz.

    Raises:
      ValueError: if a shape does not fit or the times do not increase.
      TypeError: if ``images`` is not complex.

    Source: Funai et al., IEEE Trans. Med. Imaging 27:1484, 2008.
    """
    images, times = jnp.asarray(images), np.asarray(echo_times, float)
    if not is_complex(images.dtype):
        raise TypeError(f"field_map_from_echoes: images: expected a complex dtype, found {images.dtype}")
    if times.ndim != 1 or times.size < 2 or not (np.diff(times) > 0).all():
        raise ArgumentError("field_map_from_echoes: echo_times", "at least two that increase", times)
    if images.ndim < 4 or images.shape[-4] != times.size:
        raise ArgumentError(
            "field_map_from_echoes: images", f"(..., {times.size}, coils, ny, nx)", images.shape
        )
    scale = jnp.max(jnp.abs(images), initial=0)
    images = images / jnp.where(scale > 0, scale, 1)
    echoes = jnp.moveaxis(images, -4, 0)
    gaps = jnp.asarray(2 * np.pi * np.diff(times), images.real.dtype)
    turns = jnp.sum(echoes[:-1].conj() * echoes[1:], axis=-3)
    first = -_angle(turns[0]) / gaps[0]
    expected = -first * gaps.reshape(-1, *[1] * first.ndim)
    steps = expected + _angle(turns * jax.lax.complex(jnp.cos(expected), -jnp.sin(expected)))
    phases = jnp.concatenate([jnp.zeros_like(steps[:1]), jnp.cumsum(steps, axis=0)])
    power = jnp.sum(squared(echoes), axis=-3)
    total = jnp.sum(power, axis=0)
    weights = power / jnp.where(total > 0, total, 1)
    t = jnp.asarray(2 * np.pi * (times - times[0]), power.dtype).reshape(-1, *[1] * first.ndim)
    t = t - jnp.sum(weights * t, axis=0)
    spread = jnp.sum(weights * t**2, axis=0)
    return -jnp.sum(weights * t * phases, axis=0) / jnp.where(spread > 0, spread, 1)


def _check_maps(
    field_map: ArrayLike, times: ArrayLike, r2_map: ArrayLike | None, where: str
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The three as real arrays of one dtype; raises as :class:`OffResonance` does."""
    arrays = {"field_map": as_inexact(field_map), "times": as_inexact(times)}
    if r2_map is not None:
        arrays["r2_map"] = as_inexact(r2_map)
    for name, array in arrays.items():
        if is_complex(array.dtype):
            raise TypeError(f"{where}: {name}: expected a real dtype, found {array.dtype}")
        if not array.size:
            raise ArgumentError(f"{where}: {name}", "at least one element", f"shape {array.shape}")
    if r2_map is not None and arrays["r2_map"].shape != arrays["field_map"].shape:
        raise ArgumentError(
            f"{where}: r2_map", f"the shape {arrays['field_map'].shape} of field_map", arrays["r2_map"].shape
        )
    dtype = jnp.result_type(*arrays.values())
    field_map, times, *r2_map = (array.astype(dtype) for array in arrays.values())
    return field_map, times, r2_map[0] if r2_map else None


def _rates(field_map: jax.Array, r2_map: jax.Array | None) -> jax.Array:
    """``r2 + 2 pi i f`` in 1/s, complex."""
    turns = 2 * math.pi * field_map
    return jax.lax.complex(*jnp.broadcast_arrays(jnp.zeros_like(turns) if r2_map is None else r2_map, turns))


def _decay(rates: jax.Array, times: jax.Array) -> jax.Array:
    return jnp.exp(-rates * times)


def _interpolators(
    field_map: jax.Array, times: jax.Array, r2_map: jax.Array | None, segments: int, method: str
) -> tuple[jax.Array, ...]:
    """Nodes (nodes,) in s, projection (segments, nodes) and temporal (segments, *times.shape).

    ``spatial[l] = sum_k projection[l, k] exp(-rate nodes[k])``. Nothing here carries gradients.
    """
    stop = jax.lax.stop_gradient
    field_map, times = stop(field_map), stop(times)
    r2_map = None if r2_map is None else stop(r2_map)
    points = 32 + 2 * segments
    fit, (rates, weights, nodes) = _fit_problem(field_map, times, r2_map, points)
    if method == "svd":
        # The triangular factor has the right singular vectors of the many bins.
        basis = jnp.linalg.svd(jnp.linalg.qr(fit, mode="r"))[2][:segments]
        projection = basis.conj()
    else:
        middle, half = _interval(times)
        offsets = (2 * np.arange(segments) + 1 - segments) / max(segments - 1, 1)
        nodes = middle + half * jnp.asarray(offsets, times.dtype)
        columns = weights[:, None] * _decay(rates[:, None], nodes)
        # The columns are close to dependent; the default cut would grow with the number of bins.
        basis = jnp.linalg.lstsq(columns, fit, rcond=segments * float(jnp.finfo(times.dtype).eps))[0]
        projection = jnp.eye(segments, dtype=basis.dtype)
    temporal = jnp.tensordot(
        basis, _chebyshev_interpolation(times, points).astype(basis.dtype), 1, precision="highest"
    )
    return tuple(map(stop, (nodes, projection, temporal)))


def _fit_problem(
    field_map: jax.Array, times: jax.Array, r2_map: jax.Array | None, points: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    """The exponentials on a histogram of the maps (bins, points), scaled by the root of each bin's share.

    Returns them with (rates (bins,), root shares (bins,), Chebyshev nodes of the times (points,)). The range
    of frequencies is widened by a quarter of a cycle over the duration on either side.
    """
    middle, half = _interval(times)
    nodes = middle + half * jnp.asarray(_chebyshev_nodes(points), times.dtype)
    margin = jnp.where(half > 0, 1 / (8 * jnp.where(half > 0, half, 1)), 0)
    bins = 64 + 4 * points
    index, centers = _bins(field_map, bins, margin)
    if r2_map is None:
        counts, rates = jnp.bincount(index, length=bins), _rates(centers, None)
    else:
        decay_index, decays = _bins(r2_map, _DECAY_BINS, 0)
        counts = jnp.bincount(index * _DECAY_BINS + decay_index, length=bins * _DECAY_BINS)
        rates = _rates(centers[:, None], decays).ravel()
    share = counts.astype(field_map.dtype) / field_map.size
    root = jnp.sqrt((1 - _EVEN_SHARE) * share + _EVEN_SHARE / share.size)
    return root[:, None] * _decay(rates[:, None], nodes), (rates, root, nodes)


def _bins(values: jax.Array, count: int, margin: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """Bin of every value (values.size,) and centers (count,) over the values' range and a margin."""
    low, high = jnp.min(values) - margin, jnp.max(values) + margin
    width = (high - low) / count
    index = jnp.floor((values.ravel() - low) / jnp.where(width > 0, width, 1)).astype(int)
    return jnp.clip(index, 0, count - 1), low + width * (jnp.arange(count, dtype=values.dtype) + 0.5)


def _interval(times: jax.Array) -> tuple[jax.Array, jax.Array]:
    low, high = jnp.min(times), jnp.max(times)
    return (low + high) / 2, (high - low) / 2


def _chebyshev_nodes(points: int) -> np.ndarray:
    return np.cos(np.pi * (np.arange(points) + 0.5) / points)


def _chebyshev_interpolation(times: jax.Array, points: int) -> jax.Array:
    """Values of the polynomials that are one at one Chebyshev node: (points, *times.shape)."""
    middle, half = _interval(times)
    angle = jnp.arccos(jnp.clip((times - middle) / jnp.where(half > 0, half, 1), -1, 1))
    orders = np.arange(points)
    transform = np.cos(np.outer(np.arccos(_chebyshev_nodes(points)), orders)) * (2 - (orders == 0)) / points
    waves = jnp.cos(jnp.asarray(orders, times.dtype).reshape(-1, *[1] * times.ndim) * angle)
    return jnp.tensordot(jnp.asarray(transform, times.dtype), waves, 1, precision="highest")


def _angle(z: jax.Array) -> jax.Array:
    """The angle, whose gradient at zero is zero instead of NaN."""
    return jnp.where(z == 0, 0, jnp.angle(jnp.where(z == 0, 1, z)))
