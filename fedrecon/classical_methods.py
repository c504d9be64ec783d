"""Classical reconstructions of one slice by the name of a method: the table of `fedrecon.classical`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import operators
from operators import LinearOperator


class ClassicalProblem(NamedTuple):
    """One slice, its coil images of order one.

    Attributes:
      fourier: operator of one coil's image.
      y: measurements (coils, *fourier.out_shape).
      maps: coil sensitivities (coils, ny, nx).
      density: density compensation (samples,); ones of shape () for Cartesian sampling.
      mask: (ny, nx) bool, concrete; None for non-Cartesian sampling.
      calibration: fully sampled k-space block (coils, cy, cx) of a separate scan; None without one.
      weight: of the regularization, absolute, traced; None where the method has none.
      iterations: number, or its upper bound; None where the method has none.
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
    """A reconstruction: a function of a `ClassicalProblem`.

    Attributes:
      run: the function; it returns a real or complex image (ny, nx) in units of the maps, and a dict of
        scalars that say how it ended.
      weight: default weight, None when the method has none or it follows from the noise.
      noise_weight: default weight in units of the noise; None where `weight` says.
      iterations: default number or upper bound, None when the method has none.
      maps: whether it reads the coil maps.
      cartesian: whether it needs Cartesian sampling.
    """

    run: Callable[[ClassicalProblem], tuple[jax.Array, dict[str, jax.Array]]]
    weight: float | None = None
    iterations: int | None = None
    maps: bool = True
    cartesian: bool = False
    noise_weight: float | None = None


def _coil_images(p: ClassicalProblem) -> jax.Array:
    return p.fourier.H(p.density * p.y)


def _gridding(p: ClassicalProblem) -> jax.Array:
    # The maps need not be of unit length.
    power = jnp.sum(jnp.square(jnp.abs(p.maps)), axis=0)
    return operators.solvers.gridding(p.sense, p.y, p.density) / jnp.where(power > 0, power, 1)


def _cg_sense(p: ClassicalProblem) -> tuple[jax.Array, dict[str, jax.Array]]:
    tolerance = 1e-4
    x, info = operators.cg_sense(
        p.sense,
        p.y,
        regularization=p.weight,
        iterations=p.iterations,
        tolerance=tolerance,
        return_info=True,
    )
    converged = info.residual <= tolerance
    return x, {"iterations": info.iterations, "change": info.residual, "converged": converged}


def _first_order(solve: Callable, tolerance: float, **options: Callable[[], Any]) -> Callable:
    """A method of `operators` that stops where the relative change of a step is at most ``tolerance``."""

    def run(p: ClassicalProblem) -> tuple[jax.Array, dict[str, jax.Array]]:
        more = {name: value() for name, value in options.items()}
        limits = {"iterations": p.iterations, "tolerance": tolerance, "return_info": True}
        x, info = solve(p.sense, p.y, p.weight, **limits, **more)
        return x, {"iterations": info.iterations, "change": info.change, "converged": info.converged}

    return run


def _l1_wavelet(*arguments: Any, **options: Any) -> Any:
    A, y, weight = arguments
    largest = jnp.max(jnp.abs(A.H(y)))
    return operators.l1_wavelet(A, y, weight / jnp.where(largest > 0, largest, 1), **options)


def _direct(solve: Callable[[ClassicalProblem], jax.Array]) -> Callable:
    return lambda p: (solve(p), {})


def _spirit(p: ClassicalProblem) -> jax.Array:
    limits = {"regularization": p.weight, "iterations": p.iterations}
    return operators.rss(operators.ifft2c(operators.mri.spirit(p.y, p.mask, p.calibration, **limits)))


METHODS = {
    "rss": Method(_direct(lambda p: operators.rss(_coil_images(p))), maps=False),
    "gridding": Method(_direct(_gridding)),
    "cg-sense": Method(_cg_sense, iterations=100, noise_weight=0.5),
    "l1-wavelet": Method(
        _first_order(_l1_wavelet, 3e-4, key=lambda: jax.random.key(0)), iterations=500, noise_weight=0.08
    ),
    "total-variation": Method(
        _first_order(operators.total_variation, 2e-4), iterations=1000, noise_weight=0.05
    ),
    "tgv": Method(_first_order(operators.solvers.total_generalized_variation, 5e-4), 1e-3, 1000),
    "nlinv": Method(
        _direct(lambda p: operators.mri.nlinv(p.fourier, p.y, p.iterations)[0]), None, 9, maps=False
    ),
    "grappa": Method(
        _direct(
            lambda p: operators.rss(
                operators.ifft2c(operators.mri.grappa(p.y, p.mask, p.calibration, regularization=p.weight))
            )
        ),
        1e-2,
        maps=False,
        cartesian=True,
    ),
    "spirit": Method(_direct(_spirit), 1e-2, 50, maps=False, cartesian=True),
}
