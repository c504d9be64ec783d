"""Reconstruction of measured slices by a method of a given name."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import operators
from fedrecon.classical_maps import (
    COIL_MAPS,
    SMALLEST_CALIBRATION,
    calibrated,
    calibration_block,
    coil_maps,
    misfit,
)
from fedrecon.classical_methods import METHODS, SMALLEST_WEIGHT, ClassicalProblem
from fedrecon.data import Measurement
from fedrecon.errors import ArgumentError
from operators import LinearOperator
from operators.mri import center_slice

# Of samples: images, sums of up to 1e7 of them, are numbers of float32, too.
_SMALLEST = 1e-31


@dataclasses.dataclass(frozen=True)
class ClassicalSettings:
    """Everything a reconstruction depends on except the measurement.

    Attributes:
      method: a key of `METHODS`.
      coil_maps: one of `COIL_MAPS`: low-resolution coil images over their root sum of squares,
        eigenvectors of their local covariance (Walsh), or ESPIRiT.
      calibration_size: largest edge of the k-space center they come from, clipped to what is fully sampled.
      weight: of the regularization, for images of order one; None: the method's, what `settled` finds, or
        what the method chooses for every slice.
      iterations: None: the method's.
    """

    method: str
    coil_maps: str = "espirit"
    calibration_size: int = 24
    weight: float | None = None
    iterations: int | None = None

    def __post_init__(self) -> None:
        method = METHODS.get(self.method)
        if method is None:
            raise ArgumentError("method", f"one of {', '.join(METHODS)}", repr(self.method))
        if self.coil_maps not in COIL_MAPS:
            raise ArgumentError("coil_maps", f"one of {', '.join(COIL_MAPS)}", repr(self.coil_maps))
        for name in ("weight", "iterations"):
            value, default = getattr(self, name), getattr(method, name)
            if name == "weight" and method.noise_weight is not None:
                continue
            if value is not None and default is None:
                raise ArgumentError(name, f"none, {self.method} has none", value)
            object.__setattr__(self, name, default if value is None else value)


class PreparedMeasurement(NamedTuple):
    """A measurement ready for `reconstruct`.

    Attributes:
      measurement: whitened where there was noise to do so, and divided by ``scale``.
      density: density compensation (samples,), (slices, samples) where slices have their own trajectories,
        or ones of shape ().
      scale: largest root of the sum of squares of the coil images.
      noise: standard deviation of the real and the imaginary part of its noise, see `noise_level`.
    """

    measurement: Measurement
    density: jax.Array
    scale: float
    noise: float


def prepare(measurement: Measurement, whiten: bool = True) -> PreparedMeasurement:
    """Brings a measurement of any scanner to coil images of order one.

    Args:
      measurement: what was measured.
      whiten: use the noise scan, where there is one, to make the noise of the coils alike and independent;
        ``scale`` is then in standard deviations of the noise.

    Raises:
      ValueError: nothing was measured, or the trajectory is not in cycles per pixel.
    """
    kspace, calibration = measurement.kspace, measurement.calibration
    if whiten and measurement.noise is not None:
        matrix = operators.mri.whitening_matrix(operators.mri.noise_covariance(measurement.noise))
        kspace = np.asarray(operators.mri.whiten(kspace, matrix, 1))
        if calibration is not None:
            calibration = np.asarray(operators.mri.whiten(calibration, matrix, 1))
    density = jnp.ones(())
    if measurement.trajectory is not None:
        own = np.reshape(measurement.trajectory, (-1, *measurement.trajectory.shape[-2:]))
        density = jnp.stack([operators.density_compensation(k, measurement.image_shape) for k in own])
        density = density if measurement.trajectory.ndim == 3 else density[0]
    # Measurements as small as 1e-30 would otherwise vanish when squared.
    largest = np.abs(kspace).max()
    if not _SMALLEST < largest < 1 / _SMALLEST:
        found = float(largest) or "k-space of zeros"
        raise ArgumentError("measurement", f"a signal from {_SMALLEST} to {1 / _SMALLEST}", found)
    whole = None if measurement.mask is None else np.ones((), bool)
    size = jax.jit(lambda fourier, density, y: operators.rss(fourier.H(density * y)).max())
    sizes = []
    for i, one in enumerate(kspace):
        fourier = _fourier(measurement, whole, i)
        sizes.append(float(size(fourier, _density(density, i), jnp.asarray(one / largest))))
    scale = float(largest) * max(sizes)
    scaled = dataclasses.replace(
        measurement,
        kspace=kspace / np.float32(scale),
        calibration=None if calibration is None else calibration / np.float32(scale),
    )
    return PreparedMeasurement(scaled, density, scale, noise_level(scaled))


def noise_level(measurement: Measurement) -> float:
    """Standard deviation of the real and the imaginary part of the noise, from the outermost samples.

    The tenth of the measured samples that lies farthest from the center holds little signal, and the smallest
    tenth of their squared magnitudes least of it. Without noise it is what the object leaves there.
    """
    squares = []
    for i, y in enumerate(measurement.kspace):
        k = measurement.trajectory
        if k is not None:
            radius, measured = np.linalg.norm(k[i] if k.ndim == 3 else k, axis=-1), True
        else:
            assert measurement.mask is not None, "measurements have one of them"
            axes = (2 * np.arange(n) / n - 1 for n in measurement.image_shape)
            radius, measured = np.hypot(*np.meshgrid(*axes, indexing="ij")), measurement.mask[i]
        radius = np.where(measured, radius, -1.0)
        outer = radius >= np.quantile(radius[radius >= 0], 0.9)
        squares.append(np.square(np.abs(y[:, outer])).ravel())
    found = np.concatenate(squares)
    # Coils that pad a measurement are zero.
    found = found[found > 0]
    # Squared magnitudes of complex noise are exponentially distributed.
    return float(np.sqrt(np.quantile(found, 0.1) / (-2 * np.log(0.9)))) if found.size else 0.0


def settled(settings: ClassicalSettings, prepared: PreparedMeasurement) -> ClassicalSettings:
    """The settings with the weight that None stands for, where it is in proportion to the noise.

    None stays where the method chooses the weight of every slice while it reconstructs.
    """
    method = METHODS[settings.method]
    if settings.weight is not None or method.noise_weight is None or method.choose is not None:
        return settings
    return dataclasses.replace(settings, weight=max(method.noise_weight * prepared.noise, SMALLEST_WEIGHT))


def undersample(prepared: PreparedMeasurement, mask: np.ndarray) -> PreparedMeasurement:
    """Keeps the samples of every slice where ``mask``, (nx,) or (ny, nx), is 1.

    Samples outside the part of k-space that was measured (padding, what partial Fourier left out) stay
    unmeasured.

    Raises:
      ValueError: the measurement is not fully sampled on a Cartesian grid, see `measured_part`.
    """
    measurement = prepared.measurement
    measured_part(measurement)
    assert measurement.mask is not None, "measured_part's test"
    mask = (np.asarray(mask) > 0) & measurement.mask
    kept = dataclasses.replace(measurement, kspace=measurement.kspace * mask[:, None], mask=mask)
    return prepared._replace(measurement=kept, noise=noise_level(kept))


def measured_part(measurement: Measurement) -> tuple[slice, slice]:
    """Rows and columns of the part of k-space that a fully sampled Cartesian measurement fills.

    Raises:
      ValueError: a trajectory, or samples inside this part were not measured.
    """
    mask = measurement.mask
    if mask is None:
        raise ArgumentError("measurement", "fully sampled Cartesian k-space", "a trajectory")
    lines = [np.flatnonzero(np.any(mask, axes)) for axes in ((0, 2), (0, 1))]
    rows, columns = (slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0) for used in lines)
    part = mask[:, rows, columns]
    if not part.all() or not part.size:
        found = f"{mask.mean():.1%} of the samples"
        raise ArgumentError("measurement", "fully sampled Cartesian k-space", found)
    return rows, columns


def reconstruct(
    prepared: PreparedMeasurement,
    settings: ClassicalSettings,
    progress: Callable[[int], None] = lambda count: None,
    *,
    return_info: bool = False,
) -> Any:
    """Images of all slices.

    Args:
      prepared: the measurement.
      settings: how to reconstruct.
      progress: called with the number of slices finished since the last call.
      return_info: also return how it ended.

    Returns:
      (slices, ny, nx), complex64 or float32; times ``prepared.scale`` they are in the unit of the measurement
      under orthonormal transforms. With ``return_info`` also a list of one dict per slice: ``iterations``
      made, the relative ``change`` of the last one (the residual with cg-sense), whether it ``converged``
      before the bound, and the ``weight`` where the method chose it; empty for methods that do not say.

    Raises:
      ValueError: the method needs Cartesian sampling, or too little of the center of k-space is sampled.
    """
    measurement, settings = prepared.measurement, settled(settings, prepared)
    if METHODS[settings.method].cartesian and measurement.mask is None:
        raise ArgumentError("method", f"Cartesian sampling with {settings.method}", "a trajectory")
    sampling = measurement.trajectory if measurement.mask is None else measurement.mask
    assert sampling is not None, "measurements have one of them"
    plans: dict[bytes, tuple[Any, jax.Array, _Plan]] = {}
    images, infos = [], []
    for i, y in enumerate(measurement.kspace):
        # Trajectories may be common to all slices.
        key = sampling[i].tobytes() if sampling.ndim == 3 else b""
        if key not in plans:
            plans[key] = _plan(prepared, i, settings)
        fourier, density, plan = plans[key]
        calibration = y if measurement.calibration is None else measurement.calibration[i]
        image, info = _solve(plan, settings.weight, prepared.noise, fourier, density, y, calibration)
        images.append(np.asarray(image))
        infos.append({name: np.asarray(value).item() for name, value in info.items()})
        progress(1)
    return (np.stack(images), infos) if return_info else np.stack(images)


def _fourier(measurement: Measurement, mask: np.ndarray | None, index: int) -> LinearOperator:
    k = measurement.trajectory
    if k is not None:
        return operators.NUFFT(k[index] if k.ndim == 3 else k, measurement.image_shape)
    return operators.CartesianFourier(measurement.image_shape, jnp.asarray(mask, jnp.float32))


def _density(density: jax.Array, index: int) -> jax.Array:
    return density[index] if density.ndim == 2 else density


class _Plan(NamedTuple):
    """What a compiled reconstruction is specialized to: hashable, without the weight.

    Attributes:
      method: its name.
      coil_maps: one of `COIL_MAPS`.
      iterations: None where the method has none.
      block: (ny, nx) of the center that maps come from.
      kernel_block: that of a separate calibration scan that interpolation is calibrated on; None without one.
      mask: shape and packed bits of the mask, for methods that need its values; None for others.
      cartesian: whether sampling is.
      choose: whether the method chooses the weight.
    """

    method: str
    coil_maps: str
    iterations: int | None
    block: tuple[int, int]
    kernel_block: tuple[int, int] | None
    mask: tuple[tuple[int, int], bytes] | None
    cartesian: bool
    choose: bool


def _plan(
    prepared: PreparedMeasurement, index: int, settings: ClassicalSettings
) -> tuple[LinearOperator, jax.Array, _Plan]:
    """The Fourier operator, the density and the plan of slices sampled as the one given."""
    measurement = prepared.measurement
    mask = None if measurement.mask is None else measurement.mask[index]
    method, shape = METHODS[settings.method], measurement.image_shape
    sampled = calibrated(measurement, index)
    block = calibration_block(sampled, settings.calibration_size)
    smallest = min(SMALLEST_CALIBRATION, *shape, settings.calibration_size)
    if method.maps and min(block) < smallest:
        without = ", ".join(name for name, other in METHODS.items() if not other.maps and not other.cartesian)
        raise ArgumentError(
            "coil_maps",
            f"a fully sampled center of k-space of {smallest} x {smallest} or more, or a method without maps "
            f"({without})",
            f"{block[0]} x {block[1]}",
        )
    plan = _Plan(
        settings.method,
        settings.coil_maps,
        settings.iterations,
        block,
        None if measurement.calibration is None else calibration_block(sampled, max(shape)),
        (shape, np.packbits(mask).tobytes()) if method.cartesian and mask is not None else None,
        mask is not None,
        settings.weight is None and method.choose is not None,
    )
    return _fourier(measurement, mask, index), _density(prepared.density, index), plan


@functools.partial(jax.jit, static_argnums=0)
def _solve(
    plan: _Plan,
    weight: Any,
    noise: Any,
    fourier: LinearOperator,
    density: jax.Array,
    y: Any,
    calibration: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One slice from its measurements and those of its calibration; compiled once per plan and shapes."""
    method, shape, mask, maps = METHODS[plan.method], fourier.in_shape, None, None
    if plan.mask is not None:
        (ny, nx), bits = plan.mask
        mask = np.unpackbits(np.frombuffer(bits, np.uint8), count=ny * nx).reshape(ny, nx).astype(bool)
    if method.maps:
        gridded = calibration if plan.cartesian else operators.fft2c(fourier.H(density * y))
        maps = coil_maps(gridded, plan.block, plan.coil_maps, noise)
    if plan.kernel_block is not None:
        place = (center_slice(n, c) for n, c in zip(shape, plan.kernel_block, strict=True))
        calibration = calibration[(slice(None), *place)]
    else:
        calibration = None
    problem = ClassicalProblem(fourier, y, maps, density, mask, calibration, weight, plan.iterations)
    chosen: dict[str, jax.Array] = {}
    if plan.choose:
        assert method.choose is not None and maps is not None, "methods that choose weights read maps"
        errors = jnp.hypot(noise, misfit(maps, gridded, plan.block, y))
        chosen["weight"] = method.choose(problem, errors)
        problem = problem._replace(weight=chosen["weight"])
    image, info = method.run(problem)
    info = info | chosen
    return (image if maps is None else image * operators.rss(maps)), info
