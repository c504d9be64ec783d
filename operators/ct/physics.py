"""From photon counts to line integrals and back: Hounsfield units, flat fields, noise, dose and weights.

Sinograms are (..., views, detectors) or (..., views, rows, columns); line integrals are dimensionless.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from operators.algebra import ArgumentError, as_inexact, safe_sqrt
from operators.solvers import positive


def hu_to_attenuation(hu: jax.Array, water: float | jax.Array) -> jax.Array:
    """Attenuation ``water * (1 + hu / 1000)`` of values in Hounsfield units.

    Args:
      hu: array of any shape.
      water: attenuation of water for the beam, 1/length: about 0.0193/mm at 70 keV.

    Returns:
      Attenuation in the unit of ``water``; negative below -1000 HU.
    """
    return water * (1 + as_inexact(hu) / 1000)


def attenuation_to_hu(attenuation: jax.Array, water: float | jax.Array) -> jax.Array:
    """Hounsfield units ``1000 * (attenuation / water - 1)``, the inverse of :func:`hu_to_attenuation`."""
    return 1000 * (as_inexact(attenuation) / water - 1)


def simulate_counts(
    key: jax.Array,
    integrals: jax.Array,
    photons: float | jax.Array,
    electronic_noise: float | jax.Array = 0.0,
) -> jax.Array:
    """Detected counts: ``Poisson(photons * exp(-integrals))`` plus Gaussian electronic noise.

    The result is real and, with electronic noise, may be negative. Sampling a Poisson variable has no
    derivative: gradients with respect to ``integrals`` and ``photons`` are zero.

    Args:
      key: typed PRNG key.
      integrals: line integrals.
      photons: mean number of photons of a ray without object, broadcastable to ``integrals``; one number per
        detector element models a bow-tie filter.
      electronic_noise: standard deviation of the electronic noise in photons, broadcastable likewise.

    Returns:
      Counts of the shape and dtype of ``integrals``.

    Raises:
      ValueError: if ``photons`` or ``electronic_noise`` does not broadcast to ``integrals``.
    """
    integrals = as_inexact(integrals)
    photons = as_broadcastable(photons, integrals, "simulate_counts: photons")
    noise = as_broadcastable(electronic_noise, integrals, "simulate_counts: electronic_noise")
    of_poisson, of_noise = jax.random.split(key)
    mean = jnp.maximum(photons, 0) * jnp.exp(-integrals)
    counts = jax.random.poisson(of_poisson, mean).astype(integrals.dtype)
    return counts + noise * jax.random.normal(of_noise, integrals.shape, integrals.dtype)


def counts_to_integrals(
    counts: jax.Array, photons: float | jax.Array, *, floor: float | None = None
) -> jax.Array:
    """Line integrals ``-log(counts / photons)``, finite whatever the counts.

    Without ``floor`` the logarithm is that of ``max(counts, 0) + 1/2``: for Poisson counts of mean m its
    expectation is ``log m`` up to O(1 / m^2), while that of the plain logarithm is off by ``1 / (2 m)``.
    With ``floor`` it is the plain logarithm of ``max(counts, floor)``.

    Args:
      counts: detected counts, which may be zero or, by electronic noise, negative.
      photons: mean number of photons of a ray without object, broadcastable to ``counts``.
      floor: smallest count, positive.

    Returns:
      Line integrals of the shape of ``counts``; 0 where ``photons`` is not positive.

    Raises:
      ValueError: if ``floor`` is not positive or ``photons`` does not broadcast to ``counts``.

    Source: for the half, Anscombe, Biometrika 43:461, 1956.
    """
    counts = as_inexact(counts)
    photons = as_broadcastable(photons, counts, "counts_to_integrals: photons")
    if floor is None:
        safe = jnp.maximum(counts, 0) + 0.5
    elif floor > 0:
        safe = jnp.maximum(counts, floor)
    else:
        raise ArgumentError("counts_to_integrals: floor", "a positive number", floor)
    return jnp.where(photons > 0, jnp.log(positive(photons)) - jnp.log(safe), 0)


def statistical_weights(counts: jax.Array, electronic_noise: float | jax.Array = 0.0) -> jax.Array:
    """Inverse variances of line integrals, ``counts^2 / (counts + electronic_noise^2)``.

    Args:
      counts: detected counts; negative ones count as zero.
      electronic_noise: standard deviation in photons, broadcastable to ``counts``.

    Returns:
      Non-negative weights of the shape of ``counts``, zero where nothing was detected.

    Raises:
      ValueError: if ``electronic_noise`` does not broadcast to ``counts``.

    Source: Thibault et al., "A recursive filter for noise reduction in statistical iterative tomographic
    imaging", Proc. SPIE 6065, 2006.
    """
    counts = as_inexact(counts)
    noise = as_broadcastable(electronic_noise, counts, "statistical_weights: electronic_noise")
    counts = jnp.maximum(counts, 0)
    return counts * (counts / positive(counts + noise**2))


def lower_dose(
    key: jax.Array,
    integrals: jax.Array,
    photons: float | jax.Array,
    fraction: float | jax.Array,
    electronic_noise: float | jax.Array = 0.0,
) -> jax.Array:
    """A measured sinogram as it would be at a fraction of its dose.

    The counts ``N = photons * exp(-integrals)`` become ``fraction * N`` plus Gaussian noise of variance
    ``fraction * (1 - fraction) * N + (1 - fraction^2) * electronic_noise^2``, so that mean and variance are
    those of a scan with ``fraction * photons``, the noise of the measurement being accounted for. Below some
    ten counts the shape of the distribution is not Poisson's. Differentiable in all but the key.

    Args:
      key: typed PRNG key.
      integrals: measured line integrals.
      photons: of the measurement, mean number of a ray without object, broadcastable to ``integrals``.
      fraction: of the dose, in (0, 1].
      electronic_noise: standard deviation in photons, broadcastable to ``integrals``; it does not change
        with the dose.

    Returns:
      Line integrals by :func:`counts_to_integrals`.

    Raises:
      ValueError: if ``fraction`` is out of range (checked on concrete values only) or an argument does not
        broadcast to ``integrals``.

    Source: Yu et al., J. Comput. Assist. Tomogr. 36:477, 2012; Zabic et al., Med. Phys. 40:031102, 2013.
    """
    integrals = as_inexact(integrals)
    if not isinstance(fraction, jax.core.Tracer) and not 0 < float(fraction) <= 1:
        raise ArgumentError("lower_dose: fraction", "a number in (0, 1]", fraction)
    photons = as_broadcastable(photons, integrals, "lower_dose: photons")
    noise = as_broadcastable(electronic_noise, integrals, "lower_dose: electronic_noise")
    counts = jnp.maximum(photons, 0) * jnp.exp(-integrals)
    variance = fraction * (1 - fraction) * counts + (1 - fraction**2) * noise**2
    drawn = jax.random.normal(key, integrals.shape, integrals.dtype)
    return counts_to_integrals(fraction * counts + safe_sqrt(variance) * drawn, fraction * photons)


def flat_field(
    raw: jax.Array, white: jax.Array, dark: jax.Array | float = 0.0, *, minimum: float = 1e-6
) -> jax.Array:
    """Line integrals ``-log((raw - dark) / (white - dark))`` of detector readings.

    Args:
      raw: readings with the object (..., views, detectors) or (..., views, rows, columns).
      white: readings without the object, averaged over frames, broadcastable to ``raw``.
      dark: readings without beam, averaged over frames, broadcastable to ``raw``.
      minimum: smallest transmission; smaller and negative ones are set to it.

    Returns:
      Finite line integrals of the shape of ``raw``; 0 at dead elements, where ``white <= dark``.

    Raises:
      ValueError: if ``white`` or ``dark`` does not broadcast to ``raw``, or ``minimum`` is not positive.
    """
    if minimum <= 0:
        raise ArgumentError("flat_field: minimum", "a positive number", minimum)
    raw = as_inexact(raw)
    white = as_broadcastable(white, raw, "flat_field: white")
    dark = as_broadcastable(dark, raw, "flat_field: dark")
    transmission = (raw - dark) / positive(white - dark)
    return jnp.where(white > dark, -jnp.log(jnp.maximum(transmission, minimum)), 0)


def as_broadcastable(value: ArrayLike, reference: jax.Array, name: str) -> jax.Array:
    """``value`` in the dtype of ``reference``; ValueError where it does not broadcast to its shape."""
    value = jnp.asarray(value).astype(reference.dtype)
    try:
        fits = jnp.broadcast_shapes(value.shape, reference.shape) == reference.shape
    except ValueError:
        fits = False
    if not fits:
        raise ArgumentError(name, f"a shape broadcastable to shape {reference.shape}", value.shape)
    return value
