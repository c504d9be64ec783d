"""Ramp filters of filtered back-projection."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from operators.algebra import ArgumentError, positive_number

_WINDOWS = {
    "ram-lak": lambda f: np.ones_like(f),
    "shepp-logan": lambda f: np.sinc(f / 2),
    "cosine": lambda f: np.cos(np.pi * f / 2),
    "hamming": lambda f: 0.54 + 0.46 * np.cos(np.pi * f),
    "hann": lambda f: 0.5 + 0.5 * np.cos(np.pi * f),
}


def check_filter(filter: str, cutoff: float, name: str) -> tuple[str, float]:
    """The filter and its cutoff; raises ValueError or TypeError naming ``name`` if there is none such."""
    if not isinstance(filter, str) or filter not in _WINDOWS:
        raise ArgumentError(f"{name}: filter", f"one of {sorted(_WINDOWS)}", repr(filter))
    value = positive_number(cutoff, f"{name}: cutoff")
    if value > 1:
        raise ArgumentError(f"{name}: cutoff", "a number in (0, 1]", cutoff)
    return filter, value


def ramp_response(
    length: int,
    spacing: float | jax.Array,
    filter: str = "ram-lak",
    cutoff: float = 1.0,
    arc_step: float | jax.Array | None = None,
) -> np.ndarray | jax.Array:
    """Frequency response, in 1/length, of the band-limited ramp sampled in space.

    The transform of Ramachandran and Lakshminarayanan's kernel, times a window that is one at zero frequency.
    Its value at zero frequency is positive, which keeps the scale of reconstructions right (Kak and Slaney,
    Principles of Computerized Tomographic Imaging, 1988, chapter 3).

    Args:
      length: even number of samples of the padded row.
      spacing: distance of the samples, a number or a scalar array.
      filter: "ram-lak", "shepp-logan", "cosine", "hamming" or "hann".
      cutoff: fraction of the Nyquist frequency, in (0, 1], to which the window is stretched; zero beyond.
      arc_step: for samples at equal angles around the source, the angle between neighbors: the kernel at
        angle g is multiplied by ``(g / sin g)^2`` (ibid., section 3.4.1).

    Returns:
      (length // 2 + 1,) for ``rfft``: float64 numpy, or a jax array where a length or angle is one.

    Raises:
      ValueError, TypeError: if the filter is unknown or the cutoff out of range.
    """
    filter, cutoff = check_filter(filter, cutoff, "ramp_response")
    n = np.fft.fftfreq(length, 1 / length)
    odd = n % 2 == 1
    kernel = np.where(odd, -1 / (np.pi * np.where(odd, n, 1)) ** 2, 0)
    kernel[0] = 0.25
    frequency = np.linspace(0, 1, length // 2 + 1) / cutoff
    inside = frequency <= 1 + 1e-9
    window = np.where(inside, np.clip(_WINDOWS[filter](np.minimum(frequency, 1)), 0, None), 0)
    response = np.fft.rfft(kernel).real
    if arc_step is None:
        return response * window / spacing
    # The difference alone is transformed in working precision. Angles beyond the detector do not matter.
    angle = jnp.minimum(np.where(odd, np.abs(n), 1) * arc_step, 3.0)
    extra = kernel * jnp.where(odd, (angle / jnp.sin(angle)) ** 2 - 1, 0)
    return (response + jnp.fft.rfft(extra).real) * window / spacing


def footprint(angles: jax.Array, pixel: tuple[jax.Array | float, ...]) -> jax.Array:
    """Width of a pixel on the detector, (views,) in elements, as lines of pixels across the rays see it.

    Pixels next to each other on such lines lie ``max(dx |cos t|, dy |sin t|)`` apart on the detector: the
    footprint of the distance-driven model. Pixels narrower than an element count as one element wide: a finer
    image shows nothing new.

    Args:
      angles: (views,) in radians.
      pixel: width and height (dx, dy) of a pixel as they are seen on the detector, in elements.

    Source: De Man and Basu, Phys. Med. Biol. 49:2463, 2004.
    """
    dx, dy = (jnp.maximum(p, 1) for p in pixel)
    return jnp.maximum(dx * jnp.abs(jnp.cos(angles)), dy * jnp.abs(jnp.sin(angles)))


def padded_length(count: int) -> int:
    """Smallest even number of at least ``2 * count`` without prime factors above 5, for a fast FFT."""
    length = 2 * count
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


def filter_rows(rows: jax.Array, response: ArrayLike, length: int, keep: int) -> jax.Array:
    """Zero-pads rows (..., count) to ``length``, multiplies their spectrum and keeps the first samples."""
    spectrum = jnp.fft.rfft(rows, n=length, axis=-1)
    spectrum = spectrum * jnp.asarray(response, rows.dtype)
    return jnp.fft.irfft(spectrum, n=length, axis=-1)[..., :keep]


def filter_finely(
    rows: jax.Array, response: ArrayLike, length: int, width: jax.Array, highest: float
) -> jax.Array:
    """Filtered rows at every half element, for linear interpolation between them.

    Interpolated, they are close to the filtered rows, piecewise constant on elements, averaged over a width
    and without what lies above ``highest``.

    Args:
      rows: (..., views, rows, count).
      response: (..., length // 2 + 1) as for :func:`filter_rows`, of the elements.
      length: of the zero-padded rows, an even number.
      width: (views,) in elements.
      highest: cycles per element, at most 1.

    Returns:
      (..., views, rows, 2 * count - 1).
    """
    spectrum = jnp.fft.rfft(rows, n=length, axis=-1) * jnp.asarray(response, rows.dtype)
    kept = min(math.floor(highest * length * (1 + 1e-9)), length - 1) + 1
    again = spectrum[..., length - kept + 1 : length // 2] if kept > length // 2 + 1 else spectrum[..., :0]
    spectrum = jnp.concatenate([spectrum[..., :kept], again[..., ::-1].conj()], axis=-1)
    frequency = np.arange(kept) / length
    constant = np.sinc(frequency) / np.sinc(frequency / 2) ** 2 * roll_off(frequency, highest)
    footprint = jnp.sinc(jnp.asarray(frequency, rows.dtype) * width[:, None])
    spectrum = spectrum * (2 * jnp.asarray(constant, rows.dtype) * footprint)[:, None]
    return jnp.fft.irfft(spectrum, n=2 * length, axis=-1)[..., : 2 * rows.shape[-1] - 1]


def highest_frequency(filter: str, cutoff: float, sampling: float = 1.0) -> float:
    """Where the spectrum of interpolated rows is to end, in cycles per element.

    Beyond the Nyquist frequency it repeats what lies below, more and more of it alias. Views average that
    away, and edges gain; where they are less than a sixth of those that all frequencies take, less of it
    leaves fewer streaks.

    Args:
      filter, cutoff: as in :func:`ramp_response`.
      sampling: views by the pi / 2 for every element that all frequencies take (Crowther, DeRosier and Klug,
        Proc. R. Soc. Lond. A 317:319, 1970).
    """
    if cutoff != 1 or filter in ("cosine", "hann"):
        return cutoff / 2
    return 0.5 + 0.2 * min(6 * sampling, 1.0) ** 2


def roll_off(frequency: np.ndarray, highest: float) -> np.ndarray:
    """One up to the Nyquist frequency, then half a period of a cosine down to zero at ``highest``.

    Cut off at once, edges would ring through the whole image.
    """
    beyond = np.clip((frequency - 0.5) / max(highest - 0.5, 1e-9), 0, 1) if highest > 0.5 else 0 * frequency
    return 0.5 + 0.5 * np.cos(np.pi * beyond)
