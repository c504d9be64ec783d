"""Artifacts of computed tomography and their correction: beam hardening, scatter, rings, metal.

Sinograms are line integrals (..., views, detectors).
"""

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import ArgumentError, LinearOperator, as_inexact

_ENERGIES = np.array([10, 15, 20, 30, 40, 50, 60, 80, 100, 150, 200.0])
# Mass attenuation with coherent scattering, cm^2/g, and density, g/cm^3.
_MATERIALS = {
    "water": (
        1.0,
        np.array([5.329, 1.673, 0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505, 0.1370]),
    ),
    "bone": (
        1.92,
        np.array([28.51, 9.032, 4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480, 0.1309]),
    ),
}


def material_attenuation(material: str, energies: np.ndarray) -> np.ndarray:
    """Linear attenuation of a material, interpolated log-log in the tables of NIST.

    Args:
      material: "water" (1.00 g/cm^3) or "bone" (cortical, ICRU-44, 1.92 g/cm^3).
      energies: photon energies in keV, from 10 to 200, any shape.

    Returns:
      Attenuation in 1/mm, float64 of the shape of ``energies``.

    Raises:
      ValueError: if the material is not known or an energy is out of range.

    Source: Hubbell and Seltzer, Tables of X-Ray Mass Attenuation Coefficients, NISTIR 5632, 1995.
    """
    if material not in _MATERIALS:
        raise ArgumentError("material_attenuation: material", f"one of {sorted(_MATERIALS)}", repr(material))
    energies = np.asarray(energies, float)
    if not energies.size or not (energies.min() >= 10 and energies.max() <= 200):
        raise ArgumentError(
            "material_attenuation: energies",
            "numbers from 10 to 200 keV",
            f"{energies.min(initial=np.inf)} to {energies.max(initial=-np.inf)}",
        )
    density, table = _MATERIALS[material]
    return 0.1 * density * np.exp(np.interp(np.log(energies), np.log(_ENERGIES), np.log(table)))


def polychromatic_integrals(lengths: jax.Array, attenuation: jax.Array, spectrum: jax.Array) -> jax.Array:
    """Apparent line integrals of a polychromatic beam, ``-log sum_e w_e exp(-sum_m mu_me L_m)``.

    Args:
      lengths: path lengths through the materials (materials, ...), such as projections of their masks.
      attenuation: (materials, energies) in the inverse unit of the lengths, see
        :func:`material_attenuation`.
      spectrum: (energies,) non-negative weights of the detected spectrum (photons times the detector's
        response); they are normalized to one.

    Returns:
      Line integrals of the shape of ``lengths`` without its first axis. Differentiable.

    Raises:
      ValueError: if the shapes do not fit.
    """
    lengths = as_inexact(lengths)
    attenuation, spectrum = jnp.asarray(attenuation, lengths.dtype), jnp.asarray(spectrum, lengths.dtype)
    _check_spectrum("polychromatic_integrals", attenuation.shape, spectrum.shape)
    if not lengths.ndim or len(lengths) != len(attenuation):
        raise ArgumentError(
            "polychromatic_integrals: lengths",
            f"(materials, ...) with the {len(attenuation)} materials of attenuation",
            lengths.shape,
        )
    exponent = sum(
        mu.reshape(-1, *(1,) * (lengths.ndim - 1)) * length
        for mu, length in zip(attenuation, lengths, strict=True)
    )
    weights = (spectrum / jnp.sum(spectrum)).reshape(-1, *(1,) * (lengths.ndim - 1))
    return -jax.nn.logsumexp(-exponent, axis=0, b=weights)


def fit_beam_hardening(
    attenuation: np.ndarray,
    spectrum: np.ndarray,
    reference: np.ndarray,
    longest: tuple[float, ...],
    degree: int = 4,
) -> np.ndarray:
    """The polynomial that turns polychromatic line integrals into monochromatic ones.

    With one material (water) it is ``P(p)``; with a second one (bone) it is ``P(p, b)``, b being the
    monochromatic line integral of the second material alone, known from a first reconstruction. Fitted by
    least squares over paths from none to the longest, through the origin.

    Args:
      attenuation: (1 or 2, energies).
      spectrum: (energies,) non-negative weights.
      reference: (1 or 2,) attenuation of the materials at the reference energy.
      longest: longest path through each material.
      degree: total degree of the polynomial.

    Returns:
      Coefficients for :func:`correct_beam_hardening`, float64 ``(degree + 1,)`` or
      ``(degree + 1, degree + 1)``, index the power of p (and of b).

    Raises:
      ValueError: if shapes, ``longest`` or ``degree`` do not fit.

    Source: Joseph and Spital, J. Comput. Assist. Tomogr. 2:100, 1978.
    """
    attenuation, spectrum = np.asarray(attenuation, float), np.asarray(spectrum, float)
    reference = np.asarray(reference, float)
    _check_spectrum("fit_beam_hardening", attenuation.shape, spectrum.shape)
    materials = len(attenuation)
    if materials > 2 or reference.shape != (materials,) or len(longest) != materials:
        raise ArgumentError(
            "fit_beam_hardening: attenuation, reference and longest",
            "the same one or two materials",
            f"{materials}, shape {reference.shape} and {len(longest)}",
        )
    if min(longest) <= 0 or degree < 1:
        raise ArgumentError(
            "fit_beam_hardening: longest and degree", "positive numbers", f"{longest} and {degree}"
        )
    axes = [np.linspace(0, end, 200 if materials == 1 else 40) for end in longest]
    lengths = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")])
    exponent = np.tensordot(attenuation, lengths, (0, 0))
    least = exponent.min(0)
    weights = spectrum / spectrum.sum()
    measured = least - np.log(weights @ np.exp(least - exponent))
    variables = [measured] if materials == 1 else [measured, reference[1] * lengths[1]]
    scales = [v.max() for v in variables]
    powers = [index for index in np.ndindex(*(degree + 1,) * materials) if 1 <= sum(index) <= degree]
    columns = [
        np.prod([(v / s) ** n for v, s, n in zip(variables, scales, index, strict=True)], axis=0)
        for index in powers
    ]
    solution, *_ = np.linalg.lstsq(np.stack(columns, -1), reference @ lengths, rcond=None)
    coefficients = np.zeros((degree + 1,) * materials)
    for index, value in zip(powers, solution, strict=True):
        coefficients[index] = value / np.prod(np.power(scales, index))
    return coefficients


def correct_beam_hardening(
    integrals: jax.Array, coefficients: jax.Array, second: jax.Array | None = None
) -> jax.Array:
    """Evaluates the polynomial of :func:`fit_beam_hardening`.

    Args:
      integrals: polychromatic line integrals p.
      coefficients: (n,), or (n, m) with ``second``.
      second: monochromatic line integrals b of the second material, of the shape of ``integrals``.

    Returns:
      Monochromatic line integrals of the shape of ``integrals``. Differentiable.

    Raises:
      ValueError: if the coefficients do not have one axis per variable, or the shapes differ.
    """
    integrals = as_inexact(integrals)
    coefficients = jnp.asarray(coefficients, integrals.dtype)
    if coefficients.ndim != (1 if second is None else 2):
        raise ArgumentError(
            "correct_beam_hardening: coefficients",
            f"{(1 if second is None else 2)} axes {('without' if second is None else 'with')} second",
            f"shape {coefficients.shape}",
        )
    if second is None:
        return _horner(coefficients, integrals)
    second = jnp.asarray(second, integrals.dtype)
    if second.shape != integrals.shape:
        raise ArgumentError(
            "correct_beam_hardening: second", f"the shape of integrals, {integrals.shape}", second.shape
        )
    return _horner([_horner(row, second) for row in coefficients], integrals)


def add_scatter(integrals: jax.Array, fraction: float | jax.Array, width: float | jax.Array) -> jax.Array:
    """Line integrals of a detector that also sees scatter.

    With the primary transmission ``T = exp(-p)``, scatter is the potential ``max(p, 0) * T`` (what is
    scattered once along the ray and still arrives) times ``fraction``, spread by a Gaussian along the last
    axis: ``S = fraction * G(max(p, 0) T)``. The result is ``-log(T + S)``.

    Args:
      integrals: primary line integrals (..., detectors).
      fraction: of the scattered photons that are detected.
      width: standard deviation of the Gaussian in detector elements, positive.

    Returns:
      Line integrals of the shape of ``integrals``, no larger than these. Differentiable.

    Source: Ohnesorge, Flohr and Klingenbeck-Regn, Eur. Radiol. 9:563, 1999.
    """
    integrals = as_inexact(integrals)
    return -jnp.log(jnp.exp(-integrals) + _scatter(integrals, fraction, width))


def correct_scatter(
    integrals: jax.Array,
    fraction: float | jax.Array,
    width: float | jax.Array,
    *,
    largest_share: float = 0.95,
) -> jax.Array:
    """Removes the scatter of :func:`add_scatter` to first order in ``fraction``.

    Scatter is estimated from the measured transmission and subtracted, at most ``largest_share`` of it, so
    that the result is finite.

    Args:
      integrals: measured line integrals (..., detectors).
      fraction: as in :func:`add_scatter`.
      width: as in :func:`add_scatter`.
      largest_share: of the measured transmission that may be scatter, in [0, 1).

    Returns:
      Line integrals of the shape of ``integrals``. Differentiable.

    Raises:
      ValueError: if ``largest_share`` is out of range.
    """
    if not 0 <= largest_share < 1:
        raise ArgumentError("correct_scatter: largest_share", "a number in [0, 1)", largest_share)
    integrals = as_inexact(integrals)
    share = _scatter(integrals, fraction, width) * jnp.exp(integrals)
    return integrals - jnp.log1p(-jnp.minimum(share, largest_share))


def add_rings(integrals: jax.Array, gains: jax.Array) -> jax.Array:
    """Line integrals ``p - log(gains)`` of detector elements whose gain differs from what is assumed.

    Args:
      integrals: (..., views, detectors).
      gains: (detectors,) or broadcastable, positive, 1 for a perfect element.

    Returns:
      The shape of ``integrals``; the error is constant over views, a ring in the image.
    """
    integrals = as_inexact(integrals)
    return integrals - jnp.log(jnp.asarray(gains, integrals.dtype))


def remove_rings(integrals: jax.Array, size: int = 21) -> jax.Array:
    """Removes stripes of a sinogram by sorting.

    The values of every detector element are sorted over views, the sorted sinogram is smoothed by a running
    median over elements (reflected at the ends, the last element twice), and the values go back to their
    views. A stripe, which shifts an element's whole distribution, disappears; structures that move over the
    detector stay.

    Args:
      integrals: (..., views, detectors).
      size: odd number of elements of the median, more than twice the width of the widest stripe.

    Returns:
      The shape of ``integrals``. Differentiable almost everywhere.

    Raises:
      ValueError: if ``size`` is not odd and positive, or exceeds what the detector can reflect.

    Source: Vo, Atwood and Drakopoulos, Opt. Express 26:28396, 2018, algorithm 3; the ends as in its authors'
    code, ``remove_stripe_based_sorting`` of sarepy and tomopy.
    """
    integrals = as_inexact(integrals)
    if integrals.ndim < 2:
        raise ArgumentError("remove_rings: integrals", "(..., views, detectors)", integrals.shape)
    detectors = integrals.shape[-1]
    if size < 1 or size % 2 == 0 or size // 2 > detectors:
        raise ArgumentError(
            "remove_rings: size",
            f"an odd positive number of at most {2 * detectors + 1} for {detectors} detectors",
            size,
        )
    order = jnp.argsort(integrals, axis=-2)
    ranked = jnp.take_along_axis(integrals, order, axis=-2)
    half = size // 2
    padded = jnp.pad(ranked, [(0, 0)] * (ranked.ndim - 1) + [(half, half)], mode="symmetric")
    windows = jnp.stack([padded[..., i : i + detectors] for i in range(size)])
    return jnp.take_along_axis(jnp.median(windows, axis=0), jnp.argsort(order, axis=-2), axis=-2)


def metal_mask(image: jax.Array, threshold: float | jax.Array) -> jax.Array:
    """Booleans, True where ``image > threshold``; 2500 to 3000 HU, or that attenuation, for metal."""
    return jnp.asarray(image) > threshold


def metal_trace(A: LinearOperator, mask: jax.Array, tolerance: float = 1e-3) -> jax.Array:
    """The rays that cross metal.

    Args:
      A: projector from images to sinograms.
      mask: booleans (..., *A.in_shape).
      tolerance: a ray counts when its path exceeds this fraction of the longest one.

    Returns:
      Booleans (..., *A.out_shape).

    Raises:
      ValueError: if ``mask`` does not fit ``A``.
    """
    path = A(jnp.asarray(mask).astype(A.in_dtype))
    return path > tolerance * jnp.max(path)


def interpolate_trace(integrals: jax.Array, trace: jax.Array) -> jax.Array:
    """Replaces the rays of a metal trace by linear interpolation along the last axis, view by view.

    Beyond the last ray outside the trace its value is kept; a view that is all trace stays as it is.

    Args:
      integrals: (..., views, detectors).
      trace: booleans, broadcastable to ``integrals``.

    Returns:
      The shape of ``integrals``. Differentiable with respect to them.

    Raises:
      ValueError: if ``trace`` does not broadcast to ``integrals``.

    Source: Kalender, Hebel and Ebersberger, Radiology 164:576, 1987.
    """
    integrals = as_inexact(integrals)
    trace = jnp.asarray(trace, bool)
    try:
        trace = jnp.broadcast_to(trace, integrals.shape)
    except ValueError:
        raise ArgumentError(
            "interpolate_trace: trace", f"a shape broadcastable to {integrals.shape}", trace.shape
        ) from None
    n, last = integrals.shape[-1], integrals.ndim - 1
    place = jnp.arange(n)
    before = jax.lax.cummax(jnp.where(trace, -1, place), axis=last)
    after = jax.lax.cummin(jnp.where(trace, n, place), axis=last, reverse=True)
    left, right = jnp.where(before < 0, after, before), jnp.where(after == n, before, after)
    inside = jnp.clip(left, 0, n - 1), jnp.clip(right, 0, n - 1)
    low, high = (jnp.take_along_axis(integrals, i, axis=-1) for i in inside)
    share = (place - left) / jnp.maximum(right - left, 1)
    filled = low + share.astype(integrals.dtype) * (high - low)
    return jnp.where(trace & ~jnp.all(trace, axis=-1, keepdims=True), filled, integrals)


def _scatter(integrals, fraction, width):
    place = jnp.arange(integrals.shape[-1])
    kernel = jnp.exp(-0.5 * ((place[:, None] - place) / width) ** 2) / (width * (2 * jnp.pi) ** 0.5)
    potential = jnp.maximum(integrals, 0) * jnp.exp(-integrals)
    return fraction * jnp.matmul(potential, kernel.astype(integrals.dtype), precision="highest")


def _horner(coefficients, x):
    total = jnp.zeros_like(x)
    for c in coefficients[::-1]:
        total = total * x + c
    return total


def _check_spectrum(name, attenuation, spectrum):
    if len(attenuation) != 2 or spectrum != attenuation[1:]:
        raise ArgumentError(
            f"{name}: attenuation and spectrum",
            "(materials, energies) and (energies,)",
            f"{attenuation} and {spectrum}",
        )
