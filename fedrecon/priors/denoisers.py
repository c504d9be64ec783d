"""Denoisers as priors: plug-and-play estimates and samples of the posterior distribution."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from operators import LinearOperator, cg

# denoiser(v, s) -> the mean of images x given v = x + s n, n of unit variance (complex: in each part), of the
# shape and dtype of v; s is a scalar.
Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


def noise_levels(largest: float, smallest: float, count: int) -> jax.Array:
    """``count`` levels from the largest to the smallest, each the same part of the one before.

    Raises:
      ValueError: levels that are not positive or do not fall, or fewer than two.
    """
    if not 0 < smallest < largest:
        raise ArgumentError("smallest", f"a number between 0 and largest, {largest}", smallest)
    if count < 2:
        raise ArgumentError("count", "2 or more", count)
    return jnp.geomspace(largest, smallest, count)


def data_step(
    operator: LinearOperator, y: jax.Array, near: jax.Array, weight: jax.Array, iterations: int
) -> jax.Array:
    """``argmin_x |A x - y|^2 + weight |x - near|^2`` by conjugate gradients from ``near``."""
    residual = operator.H(y) - operator.gram(near)
    found = cg(operator.gram, residual, regularization=weight, iterations=iterations)[0]
    return (near + found).astype(near.dtype)


def plug_and_play(
    operator: LinearOperator,
    y: jax.Array,
    denoiser: Denoiser,
    levels: jax.Array,
    *,
    noise: float | jax.Array,
    cg_iterations: int = 10,
    initial: jax.Array | None = None,
) -> jax.Array:
    """The image that data and denoiser agree on: ADMM with a denoiser in place of a proximal map.

    With s one of ``levels`` after the other and t = noise^2 / s^2,

    * ``x <- argmin |A x - y|^2 + t |x - (z - u)|^2``;
    * ``z <- D(x + u, s)``;
    * ``u <- (u + x - z) s'^2 / s^2``, s' the next level, as the multiplier u / s^2 stays what it is.

    Of a Gaussian prior D is a proximal map, and z goes to the maximum of the posterior density, with equal
    levels, too; of other priors the fixed point is that of their denoisers. Differentiable in all arguments.

    Args:
      operator: A.
      y: measurement, ``operator.out_shape``.
      denoiser: D.
      levels: (steps,) standard deviations s, positive.
      noise: standard deviation of the errors of y (of complex ones, of each part), positive.
      cg_iterations: upper bound of the steps of each solve.
      initial: image to start from; None for A^H y.

    Returns:
      z of ``operator.in_shape``.

    Source: Venkatakrishnan, Bouman and Wohlberg, GlobalSIP 2013; falling levels as of Zhang et al., IEEE
    Trans. Pattern Anal. Mach. Intell. 44:6360, 2022.
    """
    levels = jnp.asarray(levels)
    start = operator.H(y) if initial is None else initial.astype(operator.in_dtype)
    following = jnp.concatenate([levels[1:], levels[-1:]])

    def step(
        state: tuple[jax.Array, jax.Array], level: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        z, u = state
        s, after = level
        x = data_step(operator, y, z - u, jnp.square(noise / s), cg_iterations)
        z = denoiser(x + u, s).astype(x.dtype)
        u = ((u + x - z) * jnp.square(after / s)).astype(x.dtype)
        return (z, u), None

    return jax.lax.scan(step, (start, jnp.zeros_like(start)), (levels, following))[0][0]


def diffpir(
    operator: LinearOperator,
    y: jax.Array,
    denoiser: Denoiser,
    key: jax.Array,
    levels: jax.Array,
    *,
    noise: float | jax.Array,
    renewal: float | None = None,
    spread: float | None = None,
    cg_iterations: int = 10,
) -> jax.Array:
    """A sample of images that explain a measurement: diffusion with a data step at each noise level.

    From ``v = s_1 n`` on, with s one of ``levels`` after the other and s' the next one (last: 0),

    * ``x <- D(v, s)``, the denoised image;
    * ``x <- argmin |A x - y|^2 + (noise / r)^2 |x - D|^2``, r = s;
    * ``v <- x + s' (sqrt(1 - c) (v - x) / s + sqrt(c) n)``, n noise of unit variance.

    These are iterates of the publication over sqrt(alpha_t), where s = sqrt((1 - alpha_t) / alpha_t), with
    lambda = 1. Samples by other keys differ as the data allow; their mean and deviation estimate those of the
    posterior distribution. They are approximate: D alone tells nothing of how errors of the denoised image
    are correlated. And each number c renews more noise than the denoiser takes away in short steps, whose
    samples then vary too little (of a Gaussian prior without data by the factor ``(1 + sqrt(1 - c)) / 2`` of
    the variance), so that c is by default that of ancestral sampling, ``1 - s'^2 / s^2``.

    Args:
      operator: A.
      y: measurement, ``operator.out_shape``.
      denoiser: D.
      key: typed key.
      levels: (steps,) standard deviations, falling; the first above that of images, the last small.
      noise: standard deviation of the errors of y (of complex ones, of each part), positive.
      renewal: c, in [0, 1], as zeta of the publication; None for ancestral sampling.
      spread: standard deviation of pixels about their mean; the error of a denoised image is then taken as
        ``r = s spread / sqrt(s^2 + spread^2)``, which is that of a white prior, whose samples are exact in
        short steps (Song et al., ICLR 2023). None for r = s.
      cg_iterations: upper bound of the steps of each solve.

    Returns:
      x of ``operator.in_shape``, after the last level.

    Raises:
      ValueError: ``renewal`` out of its range.

    Source: Zhu et al., CVPR Workshops 2023, arXiv:2305.08995.
    """
    if renewal is not None and not 0 <= renewal <= 1:
        raise ArgumentError("renewal", "a number in [0, 1]", renewal)
    levels = jnp.asarray(levels)
    keys = jax.random.split(key, len(levels) + 1)

    def draw(key: jax.Array) -> jax.Array:
        shape, dtype = operator.in_shape, operator.in_dtype
        if not jnp.issubdtype(dtype, jnp.complexfloating):
            return jax.random.normal(key, shape, dtype)
        # Of unit variance in each part.
        return (jax.random.normal(key, shape, dtype) * 2**0.5).astype(dtype)

    def step(v: jax.Array, at: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        s, after, key = at
        r = s if spread is None else s * spread / jnp.sqrt(s**2 + spread**2)
        x = data_step(operator, y, denoiser(v, s).astype(v.dtype), jnp.square(noise / r), cg_iterations)
        c = 1 - jnp.square(after / s) if renewal is None else renewal
        v = x + after * (jnp.sqrt(1 - c) * (v - x) / s + jnp.sqrt(c) * draw(key))
        return v.astype(x.dtype), None

    following = jnp.concatenate([levels[1:], jnp.zeros_like(levels[:1])])
    start = (levels[0] * draw(keys[0])).astype(operator.in_dtype)
    # The last step goes to the noise level 0: v is the image.
    return jax.lax.scan(step, start, (levels, following, keys[1:]))[0]
