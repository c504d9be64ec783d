"""Reconstruction of measured slices by a method of a given name."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import operators
from fedrecon.data import Measurement
from fedrecon.errors import ArgumentError
from operators import LinearOperator
from operators.mri import center_slice

COIL_MAPS = ("calibration", "walsh", "espirit")
# Maps of a smaller center of k-space leave aliases as bright as the object.
SMALLEST_CALIBRATION = 6


class ClassicalProblem(NamedTuple):
    """One slice, its coil images of order one.

    Attributes:
      fourier: operator of one coil's image.
      y: measurements (coils, *fourier.out_shape).
      maps: coil sensitivities (coils, ny, nx).
      density: density compensation (samples,); ones of shape () for Cartesian sampling.
      mask: (ny, nx) bool, concrete; None for non-Cartesian sampling.
      calibration: fully sampled k-space block (coils, cy, cx) of a separate scan; None without one.
      weight: of the regularization, None where the method has none.
      iterations: None where the method has none.
    """

    fourier: LinearOperator
    y: jax.Array
    maps: Any
    density: jax.Array
    mask: Any
    calibration: jax.Array | None
    weight: Any
    iterations: Any

    @property
    def sense(self) -> LinearOperator:
        """The operator of all coils."""
        return operators.SENSE(self.fourier, self.maps)


class Method(NamedTuple):
    """A reconstruction: a function of a `ClassicalProblem` that returns a real or complex image (ny, nx).

    Attributes:
      run: the function.
      weight: default weight, None when the method has none.
      iterations: default number, None when the method has none.
      maps: whether it reads the coil maps.
      cartesian: whether it needs Cartesian sampling.
    """

    run: Callable[[ClassicalProblem], jax.Array]
    weight: float | None = None
    iterations: int | None = None
    maps: bool = True
    cartesian: bool = False


def _coil_images(p: ClassicalProblem) -> jax.Array:
    return p.fourier.H(p.density * p.y)


METHODS = {
    "rss": Method(lambda p: operators.rss(_coil_images(p)), maps=False),
    "gridding": Method(lambda p: operators.solvers.gridding(p.sense, p.y, p.density)),
    "cg-sense": Method(
        lambda p: operators.cg_sense(p.sense, p.y, regularization=p.weight, iterations=p.iterations), 1e-2, 30
    ),
    "l1-wavelet": Method(
        lambda p: operators.l1_wavelet(
            p.sense, p.y, p.weight, iterations=p.iterations, key=jax.random.key(0)
        ),
        2e-3,
        100,
    ),
    "total-variation": Method(
        lambda p: operators.total_variation(p.sense, p.y, p.weight, iterations=p.iterations), 2e-3, 200
    ),
    "tgv": Method(
        lambda p: operators.solvers.total_generalized_variation(
            p.sense, p.y, p.weight, iterations=p.iterations
        ),
        2e-3,
        400,
    ),
    "nlinv": Method(lambda p: operators.mri.nlinv(p.fourier, p.y, p.iterations)[0], None, 9, maps=False),
    "grappa": Method(
        lambda p: operators.rss(
            operators.ifft2c(operators.mri.grappa(p.y, p.mask, p.calibration, regularization=p.weight))
        ),
        1e-2,
        maps=False,
        cartesian=True,
    ),
    "spirit": Method(
        lambda p: operators.rss(
            operators.ifft2c(
                operators.mri.spirit(
                    p.y, p.mask, p.calibration, regularization=p.weight, iterations=p.iterations
                )
            )
        ),
        1e-2,
        50,
        maps=False,
        cartesian=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class ClassicalSettings:
    """Everything a reconstruction depends on except the measurement.

    Attributes:
      method: a key of `METHODS`.
      coil_maps: one of `COIL_MAPS`: low-resolution coil images over their root sum of squares,
        eigenvectors of their local covariance (Walsh), or ESPIRiT.
      calibration_size: largest edge of the k-space center they come from, clipped to what is fully sampled.
      weight: of the regularization, for images of order one; None: the method's.
      iterations: None: the method's.
    """

    method: str
    coil_maps: str = "calibration"
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
    """

    measurement: Measurement
    density: jax.Array
    scale: float


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
    if not largest > 0:
        raise ArgumentError("measurement", "a signal", "k-space of zeros")
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
    return PreparedMeasurement(scaled, density, scale)


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
    return prepared._replace(measurement=kept)


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
) -> np.ndarray:
    """Images of all slices.

    Args:
      prepared: the measurement.
      settings: how to reconstruct.
      progress: called with the number of slices finished since the last call.

    Returns:
      (slices, ny, nx), complex64 or float32; times ``prepared.scale`` they are in the unit of the measurement
      under orthonormal transforms.

    Raises:
      ValueError: the method needs Cartesian sampling, or too little of the center of k-space is sampled.
    """
    measurement = prepared.measurement
    if METHODS[settings.method].cartesian and measurement.mask is None:
        raise ArgumentError("method", f"Cartesian sampling with {settings.method}", "a trajectory")
    sampling = measurement.trajectory if measurement.mask is None else measurement.mask
    assert sampling is not None, "measurements have one of them"
    solvers = {}
    images = []
    for i, y in enumerate(measurement.kspace):
        # Trajectories may be common to all slices.
        key = sampling[i].tobytes() if sampling.ndim == 3 else b""
        if key not in solvers:
            solvers[key] = _solver(prepared, i, settings)
        calibration = y if measurement.calibration is None else measurement.calibration[i]
        images.append(np.asarray(solvers[key](y, calibration)))
        progress(1)
    return np.stack(images)


def calibration_block(sampled: np.ndarray, size: int) -> tuple[int, int]:
    """The (ny, nx) of the fully sampled block around DC whose edges are at most ``size``.

    Of several, that with the longest shorter edge, then the largest; (0, 0) when DC is not sampled.
    """
    ny, nx = sampled.shape
    best, columns = (0, 0), min(nx, size)
    for rows in range(1, min(ny, size) + 1):
        while columns and not sampled[center_slice(ny, rows), center_slice(nx, columns)].all():
            columns -= 1
        if columns:
            best = max(best, (rows, columns), key=lambda block: (min(block), block[0] * block[1]))
    return best


def _fourier(measurement: Measurement, mask: np.ndarray | None, index: int) -> LinearOperator:
    k = measurement.trajectory
    if k is not None:
        return operators.NUFFT(k[index] if k.ndim == 3 else k, measurement.image_shape)
    return operators.CartesianFourier(measurement.image_shape, jnp.asarray(mask, jnp.float32))


def _density(density: jax.Array, index: int) -> jax.Array:
    return density[index] if density.ndim == 2 else density


def calibration_size(measurement: Measurement, index: int, size: int) -> tuple[int, int]:
    """The (ny, nx) of the block that coil maps of a slice come from, with edges of at most ``size``."""
    return calibration_block(_calibrated(measurement, index), size)


def _calibrated(measurement: Measurement, index: int) -> np.ndarray:
    """Samples (ny, nx) that a slice's calibration has."""
    if measurement.calibration is not None:
        return np.any(measurement.calibration, (0, 1))
    return np.ones(measurement.image_shape, bool) if measurement.mask is None else measurement.mask[index]


def _solver(prepared: PreparedMeasurement, index: int, settings: ClassicalSettings) -> Callable:
    """A compiled function of the measurements and the calibration of slices sampled as the one given."""
    measurement, density = prepared.measurement, _density(prepared.density, index)
    mask = None if measurement.mask is None else measurement.mask[index]
    method, shape = METHODS[settings.method], measurement.image_shape
    fourier = _fourier(measurement, mask, index)
    separate = measurement.calibration is not None
    sampled = _calibrated(measurement, index)
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
    place = (center_slice(n, c) for n, c in zip(shape, calibration_block(sampled, max(shape)), strict=True))
    kernel = (slice(None), *place)

    @jax.jit
    def solve(y, calibration):
        gridded = calibration if mask is not None else operators.fft2c(fourier.H(density * y))
        maps = _coil_maps(gridded, block, settings.coil_maps) if method.maps else None
        problem = ClassicalProblem(
            fourier=fourier,
            y=y,
            maps=maps,
            density=density,
            mask=mask,
            calibration=calibration[kernel] if separate else None,
            weight=settings.weight,
            iterations=settings.iterations,
        )
        return method.run(problem)

    return solve


def _coil_maps(kspace: jax.Array, block: tuple[int, int], kind: str) -> jax.Array:
    if kind == "calibration":
        return operators.mri.estimate_coil_maps(kspace, block)
    if kind == "espirit":
        # Without cropping, so that the background is that of the root of the sum of squares.
        return operators.espirit_maps(kspace, block, tuple(min(6, n) for n in block), crop=0.0)[0]
    window = np.zeros(kspace.shape[-2:], np.float32)
    place = tuple(center_slice(n, c) for n, c in zip(window.shape, block, strict=True))
    window[place] = np.outer(*(np.hanning(c + 2)[1:-1] for c in block))
    return operators.mri.walsh_maps(operators.ifft2c(window * kspace))
