"""In what a site's MRI differs from that of others: one number of a volume for each axis, and their tests."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage, stats

from fedrecon.errors import ArgumentError
from fedrecon.evaluation.significance import holm_adjusted

# Parts of the largest frequency: below the first along both axes coils are told apart; noise is read above
# the third along one axis and above the second along the other, where there is little signal.
_LOW, _MIDDLE, _HIGH = 0.35, 0.25, 0.8
# Below this part of the 99th percentile of the intensities there is no tissue.
_TISSUE = 0.1
# Deviation in pixels of the Gaussian that shading is estimated by.
_SHADING = 6.0


class Shift(NamedTuple):
    """How a site differs from others along one axis.

    Attributes:
      difference: of the means, in standard deviations within the two groups (Cohen's d); infinite where
        neither varies and the means differ.
      p_value: of the rank test of Mann and Whitney, corrected by Holm over the axes.
    """

    difference: float
    p_value: float


def acquisition_probes(
    kspace: np.ndarray, mask: np.ndarray, image: np.ndarray, marked: np.ndarray | None = None
) -> dict[str, float]:
    """What a volume says of the scanner, the protocol and the patient, each number by one axis alone.

    The probes:
      - "sampling": the part of k-space that was measured;
      - "noise": the deviation of a coil's noise over the mean intensity of tissue in a coil; from the
        smallest eigenvalue of the covariance of the coils over high frequencies, which holds least signal;
      - "contrast": the deviation of the logarithm of the intensities of tissue, less its shading;
      - "coils": the effective number of coils, (sum of eigenvalues)^2 / (sum of their squares) of the
        covariance of the coils over low frequencies;
      - "prevalence", with ``marked``: the part of the slices that has a marked pixel.
    A change of contrast that moves the signal within the body (an echo time of 20 ms in place of 80) moves
    "coils" a little, too.

    Args:
      kspace: (slices, coils, ny, nx) complex, zero frequency in the middle, scaled as `operators.fft2c`;
        coils of zeros do not count.
      mask: (slices, ny, nx), or what broadcasts to it, nonzero where measured.
      image: (slices, ny, nx), root of the sum of squares of the coils.
      marked: (slices, ny, nx) masks of lesions; None without.

    Raises:
      ArgumentError: the shapes do not go together, a value is not finite, there is no signal, or no sample of
        high frequencies.
    """
    if kspace.ndim != 4:
        raise ArgumentError("kspace", "(slices, coils, ny, nx)", kspace.shape)
    shape = (len(kspace), *kspace.shape[2:])
    for name, array in (("image", image), ("marked", marked)):
        if array is not None and np.shape(array) != shape:
            raise ArgumentError(name, f"{shape}", np.shape(array))
    for name, array in (("kspace", kspace), ("image", image)):
        if not np.isfinite(array).all():
            raise ArgumentError(name, "finite values", "NaN or infinity")
    try:
        mask = np.broadcast_to(np.asarray(mask) != 0, shape)
    except ValueError:
        raise ArgumentError("mask", f"{shape}, or what broadcasts to it", np.shape(mask)) from None
    kspace = kspace[:, np.abs(kspace).max((0, 2, 3)) > 0]
    tissue = image > _TISSUE * np.percentile(image, 99)
    if not kspace.size or not tissue.any():
        raise ArgumentError("kspace", "a signal", "zeros alone")
    part = [np.abs(np.fft.fftshift(np.fft.fftfreq(n))) * 2 for n in shape[1:]]
    least, most = np.minimum(part[0][:, None], part[1]), np.maximum(part[0][:, None], part[1])
    outer = mask & (most > _HIGH) & (least > _MIDDLE)
    coils = kspace.shape[1]
    if outer.sum() < 2 * coils:
        raise ArgumentError("mask", f"at least {2 * coils} samples of high frequencies", int(outer.sum()))
    noise = np.sqrt(_coil_powers(kspace, outer)[0] / 2)
    powers = _coil_powers(kspace, mask & (most < _LOW))
    found = {
        "sampling": float(mask.mean()),
        "noise": float(noise / (image[tissue].mean() / np.sqrt(coils))),
        "contrast": float(_without_shading(image, tissue).std()),
        "coils": float(powers.sum() ** 2 / (powers**2).sum()),
    }
    if marked is not None:
        found["prevalence"] = float(np.asarray(marked).any((1, 2)).mean())
    return found


def _coil_powers(kspace: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Eigenvalues of the covariance of the coils, the smallest first, over bool (slices, ny, nx)."""
    samples = np.moveaxis(kspace, 1, -1)[where].astype(np.complex128)
    return np.linalg.eigvalsh(samples.conj().T @ samples / max(len(samples), 1))


def _without_shading(image: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Logarithms of the intensities of tissue, less their local means in the plane."""
    width = (0, _SHADING, _SHADING)
    inside = np.where(tissue, np.log(np.where(tissue, image, 1)), 0)
    weight = ndimage.gaussian_filter(tissue.astype(float), width)
    return (inside - ndimage.gaussian_filter(inside, width) / np.maximum(weight, 1e-6))[tissue]


def site_shifts(
    own: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]
) -> dict[str, Shift]:
    """Along which axes a site's patients differ from those of others.

    Args:
      own: probes of the site's patients, at least 3.
      others: those of the others, with the same names.

    Returns:
      A `Shift` by name.

    Raises:
      ArgumentError: too few patients, other names, or a probe that is not finite.
    """
    for name, group in (("own", own), ("others", others)):
        if len(group) < 3:
            raise ArgumentError(name, "at least 3 patients", len(group))
    names = list(own[0])
    if any(set(patient) != set(names) for patient in (*own, *others)):
        raise ArgumentError("others", f"patients with the probes {', '.join(names)}", "other names")
    found = {}
    for name in names:
        a, b = (np.array([patient[name] for patient in group], float) for group in (own, others))
        if not np.isfinite([*a, *b]).all():
            raise ArgumentError(f"own or others[{name!r}]", "finite probes", "NaN or infinity")
        away = a.mean() - b.mean()
        within = np.sqrt((((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()) / (len(a) + len(b) - 2))
        alike = np.ptp(np.concatenate([a, b])) == 0
        difference = 0.0 if alike else np.sign(away) * np.inf if within == 0 else away / within
        found[name] = Shift(float(difference), 1.0 if alike else float(stats.mannwhitneyu(a, b).pvalue))
    adjusted = holm_adjusted({name: shift.p_value for name, shift in found.items()})
    return {name: shift._replace(p_value=adjusted[name]) for name, shift in found.items()}
