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
      noise_weight: default weight in units of the noise, where ``choose`` begins; None where `weight` says.
      choose: function of a `ClassicalProblem` and the standard deviation of the real and the imaginary part
        of its errors, that finds the default weight from the measurement; None without one.
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
    choose: Callable[[ClassicalProblem, jax.Array], jax.Array] | None = None


# Rounds of the choice of a weight, and steps of each.
_ROUNDS, _STEPS = 2, 50
# Without errors solvers need a weight to converge to.
SMALLEST_WEIGHT = 3e-5


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


def _first_order(solve: Callable, tolerance: float) -> Callable:
    """A method of `operators` that stops where the relative change of a step is at most ``tolerance``."""

    def run(p: ClassicalProblem) -> tuple[jax.Array, dict[str, jax.Array]]:
        limits = {"iterations": p.iterations, "tolerance": tolerance, "return_info": True}
        x, info = solve(p.sense, p.y, p.weight, **limits)
        return x, {"iterations": info.iterations, "change": info.change, "converged": info.converged}

    return run


def _l1_wavelet(*arguments: Any, **options: Any) -> Any:
    A, y, weight = arguments
    largest = jnp.max(jnp.abs(A.H(y)))
    return operators.l1_wavelet(A, y, weight / jnp.where(largest > 0, largest, 1), **options)


def _chooser(solve: Callable, size: Callable[[jax.Array], jax.Array], start: float, share: float) -> Callable:
    """The weight for which it is ``share`` times the errors' variance over the mean of the image's ``size``.

    Of a prior ``exp(-weight / variance * size(x))`` whose scale is not known, this is the weight that is most
    probable together with the image (Bioucas-Dias, Figueiredo and Oliveira, ICASSP 2006), but for
    ``share``: coefficients are no independent draws. Sparser images get larger weights. It was chosen on
    measured heads and phantoms, whose best weights are at 0.2 to 0.7 of it.
    """

    def choose(p: ClassicalProblem, errors: jax.Array) -> jax.Array:
        def refined(_: int, weight: jax.Array) -> jax.Array:
            x = solve(p.sense, p.y, weight, iterations=_STEPS)
            total = size(x)
            weight = share * errors**2 * x.size / jnp.where(total > 0, total, 1)
            return jnp.clip(weight, 0.01 * errors, 0.5 * errors)

        weight = jax.lax.fori_loop(0, _ROUNDS, refined, start * errors)
        return jnp.maximum(weight, SMALLEST_WEIGHT)

    return choose


def _wavelet_size(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.abs(operators.Wavelet(x.shape, "db2", None, x.dtype)(x)))


def _variation(x: jax.Array) -> jax.Array:
    return jnp.sum(operators.rss(operators.FiniteDifferences(x.shape, x.dtype)(x)))


def _spun_wavelet(*arguments: Any, **options: Any) -> jax.Array:
    return _l1_wavelet(*arguments, key=jax.random.key(0), **options)


def _direct(solve: Callable[[ClassicalProblem], jax.Array]) -> Callable:
    return lambda p: (solve(p), {})


def _spirit(p: ClassicalProblem) -> jax.Array:
    limits = {"regularization": p.weight, "iterations": p.iterations}
    return operators.rss(operators.ifft2c(operators.mri.spirit(p.y, p.mask, p.calibration, **limits)))


_variation_weight = _chooser(operators.total_variation, _variation, 0.05, 0.25)

METHODS = {
    "rss": Method(_direct(lambda p: operators.rss(_coil_images(p))), maps=False),
    "gridding": Method(_direct(_gridding)),
    "cg-sense": Method(_cg_sense, iterations=100, noise_weight=0.5),
    "l1-wavelet": Method(
        _first_order(_spun_wavelet, 3e-4),
        iterations=500,
        noise_weight=0.08,
        choose=_chooser(_spun_wavelet, _wavelet_size, 0.08, 0.33),
    ),
    "total-variation": Method(
        _first_order(operators.total_variation, 2e-4),
        iterations=1000,
        noise_weight=0.05,
        choose=_variation_weight,
    ),
    "tgv": Method(
        _first_order(operators.solvers.total_generalized_variation, 5e-4),
        iterations=1000,
        noise_weight=0.05,
        choose=_variation_weight,
    ),
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
