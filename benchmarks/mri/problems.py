"""Workloads of the MRI benchmark: their inputs in single precision, their results in double precision."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import operators
from benchmarks.measure import relative_error

_CHECKED_SAMPLES = 200
_CHECKED_ERROR = 1e-10


@dataclasses.dataclass(frozen=True)
class MRIProblem:
    """Inputs of ``y[t, b, c] = F_t(maps[c] * image[t, b])``: T trajectories with B images each, T or B is 1.

    Attributes:
      image: (T, B, *shape) complex64.
      maps: (coils, *shape) complex64.
      samples: (T, B, coils, M) complex64, what the adjoint and the gradient take; on the grid
        (T, B, coils, *shape), where it is not sampled zero.
      trajectory: (T, M, ndim) float32, cycles/pixel; None is the Cartesian grid.
      mask: (nx,) float32, the columns of the grid that are sampled; None where there is a trajectory.
    """

    image: np.ndarray
    maps: np.ndarray
    samples: np.ndarray
    trajectory: np.ndarray | None = None
    mask: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(ny, nx) or (nz, ny, nx)."""
        return self.maps.shape[1:]

    @property
    def lead(self) -> tuple[int, ...]:
        """The axes of the image before ``shape`` that are longer than one."""
        return tuple(n for n in self.image.shape[:2] if n > 1)

    def first(self) -> "MRIProblem":
        """The problem of the first image of the first trajectory alone."""
        return dataclasses.replace(
            self,
            image=self.image[:1, :1],
            samples=self.samples[:1, :1],
            trajectory=None if self.trajectory is None else self.trajectory[:1],
        )


@dataclasses.dataclass(frozen=True)
class Workload:
    """A problem by name.

    Attributes:
      title: one line for people.
      make: (trajectory (T, M, ndim) or None, shape, coils, images per trajectory, columns' mask or None).
    """

    title: str
    make: Callable[[], tuple]


def _radial(shape, spokes, samples, coils, images=1, frames=1):
    """One frame of evenly spread spokes, or consecutive frames of spokes a golden angle apart."""
    order = "linear" if frames == 1 else "golden"
    trajectory = operators.radial_trajectory(frames * spokes, samples, order)
    return np.asarray(trajectory).reshape(frames, -1, 2), shape, coils, images, None


def _spiral(shape, interleaves, coils):
    """What a scanner of 40 mT/m and 150 T/m/s measures of a field of view of 22 cm, every 2 microseconds."""
    system = {"field_of_view": 0.22, "gradient_limit": 0.04, "slew_limit": 150.0, "dwell_time": 2e-6}
    trajectory = operators.mri.spiral_trajectory(interleaves, shape[0], **system)
    return np.asarray(trajectory).reshape(1, -1, 2), shape, coils, 1, None


def _kooshball(shape, spokes, samples):
    trajectory = operators.mri.kooshball_trajectory(spokes, samples)
    return np.asarray(trajectory).reshape(1, -1, 3), shape, 1, 1, None


def _cartesian(shape, coils):
    mask = operators.equispaced_mask(shape[1], 4, 0.08)
    return None, shape, coils, 1, np.asarray(mask, np.float32)


WORKLOADS = {
    "a": Workload("256 x 256, 405 spokes x 512, 8 coils", lambda: _radial((256, 256), 405, 512, 8)),
    "b": Workload("320 x 320, 64 spokes x 640, 8 coils", lambda: _radial((320, 320), 64, 640, 8)),
    "c": Workload("256 x 256, spiral of 16 interleaves, 8 coils", lambda: _spiral((256, 256), 16, 8)),
    "d": Workload("96 x 96 x 96, 4000 spokes x 192, 1 coil", lambda: _kooshball((96, 96, 96), 4000, 192)),
    "e-shared": Workload("b, 16 images, one trajectory", lambda: _radial((320, 320), 64, 640, 8, images=16)),
    "e-own": Workload("b, 16 images, 16 trajectories", lambda: _radial((320, 320), 64, 640, 8, frames=16)),
    "f": Workload("320 x 320 Cartesian, 4 x fewer columns, 16 coils", lambda: _cartesian((320, 320), 16)),
    "tiny": Workload("24 x 20, 12 spokes x 40, 3 coils, for tests", lambda: _radial((24, 20), 12, 40, 3)),
    "tiny-f": Workload("24 x 20 Cartesian, 3 coils, for tests", lambda: _cartesian((24, 20), 3)),
}


def make_problem(workload: Workload, seed: int = 0) -> tuple[MRIProblem, dict[str, np.ndarray]]:
    """The inputs of a workload and its results in double precision.

    The image is the head phantom (of ellipsoids in space) times a smooth phase, the coils are a birdcage. The
    samples are white noise as strong as those of the image, so that no residual is a small difference.

    Returns:
      The problem, and complex128 results by operation: ``forward`` A x, ``adjoint`` A^H y, ``gram`` A^H A x
      and ``gradient`` 2 A^H (A x - y), that of ||A x - y||^2.

    Raises:
      RuntimeError: if the reference disagrees with the direct sum.
    """
    trajectory, shape, coils, images, mask = workload.make()
    rng = np.random.default_rng(seed)
    frames = 1 if trajectory is None else len(trajectory)
    image = _phantom(shape) * _phases(shape, frames * images, rng)
    image = image.reshape(frames, images, *shape).astype(np.complex64)
    maps = np.asarray(operators.mri.birdcage_maps(shape, coils)).astype(np.complex64)
    with jax.enable_x64(True):
        A = _reference_operator(trajectory, shape, maps, mask)
        x = jnp.asarray(image, np.complex128).reshape(_lead(image) + shape)
        clean = np.asarray(A(x)).reshape(frames, images, coils, -1)
        noise = rng.standard_normal((2, *clean.shape))
        noise = (noise[0] + 1j * noise[1]) * math.sqrt(np.mean(np.abs(clean) ** 2) / 2)
        samples = noise.astype(np.complex64)
        if trajectory is None:
            samples = (samples.reshape(frames, images, coils, *shape) * mask).astype(np.complex64)
            clean = clean.reshape(samples.shape)
        else:
            _check_against_the_sum(clean, image, maps, trajectory, rng)
        y = jnp.asarray(samples, np.complex128).reshape(_lead(image) + A.out_shape)
        gram, adjoint = (np.asarray(v).reshape(image.shape) for v in (A.H(A(x)), A.H(y)))
    reference = {"forward": clean, "adjoint": adjoint, "gram": gram, "gradient": 2 * (gram - adjoint)}
    return MRIProblem(image, maps, samples, trajectory, mask), reference


def _lead(image):
    return tuple(n for n in image.shape[:2] if n > 1)


def _reference_operator(trajectory, shape, maps, mask):
    if trajectory is None:
        mask = jnp.asarray(mask, np.float64)
        fourier = operators.CartesianFourier(shape, mask=mask)
    else:
        points = trajectory[0] if len(trajectory) == 1 else trajectory
        fourier = operators.NUFFT(jnp.asarray(points, np.float64), shape, eps=1e-12, gram_by_toeplitz=False)
    return operators.SENSE(fourier, jnp.asarray(maps, np.complex128))


def _check_against_the_sum(clean, image, maps, trajectory, rng):
    """Compares random samples of every coil of the first image of every trajectory with the direct sum."""
    shape = maps.shape[1:]
    for t, points in enumerate(trajectory.astype(np.float64)):
        chosen = rng.choice(len(points), min(_CHECKED_SAMPLES, len(points)), replace=False)
        total = maps.astype(np.complex128) * image[t, 0]
        for axis, n in enumerate(shape):
            phases = np.exp(-2j * np.pi * np.outer(points[chosen, axis], np.arange(n) - n // 2))
            if axis == 0:
                total = np.moveaxis(np.tensordot(phases, total, (1, 1)), 0, 1)
            else:
                total = np.einsum("cmn...,mn->cm...", total, phases)
        error = relative_error(clean[t, 0][:, chosen], total / math.sqrt(math.prod(shape)))
        if not error < _CHECKED_ERROR:
            raise RuntimeError(f"the reference differs from the direct sum by {error:.1e}")


def _phantom(shape):
    ellipses = operators.shepp_logan()
    if len(shape) == 2:
        return np.asarray(operators.rasterize(ellipses, shape))
    heights = (np.arange(shape[0]) - (shape[0] - 1) / 2) * (2 / shape[0])

    def section(height):
        smaller = dataclasses.replace(ellipses, axes=ellipses.axes * jnp.sqrt(1 - height**2))
        return operators.rasterize(smaller, shape[1:])

    return np.asarray(jax.lax.map(section, jnp.asarray(heights, jnp.float32)))


def _phases(shape, count, rng):
    """(count, *shape): plane waves of less than one period over the field of view, all different."""
    axes = np.meshgrid(*(np.arange(n) / n - 0.5 for n in shape), indexing="ij", sparse=True)
    waves = rng.uniform(-0.5, 0.5, (count, len(shape)))
    return np.stack(
        [np.exp(2j * np.pi * sum(w * a for w, a in zip(wave, axes, strict=True))) for wave in waves]
    )
