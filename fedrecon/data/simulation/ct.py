"""Simulated parallel-beam CT: attenuation of random anatomies, finite detectors, photon and electronic noise.

The object is simulated on a grid twice as fine as the image, projected along two rays for each detector
element, and the element measures the mean intensity of its rays: what is measured is not what the
reconstruction's model would compute.

Lengths in examples are in pixels of the site's own image, so that one operator (pixel size 1, detector
spacing 1) serves sites with different fields of view.
"""

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.data.clients import common_entries
from fedrecon.data.simulation.anatomy import Anatomy, simulate_anatomy
from fedrecon.errors import ArgumentError
from operators import ParallelBeam, Radon

OVERSAMPLING = 2


@dataclasses.dataclass(frozen=True)
class CTSite:
    """Scanner, protocol and patients of one simulated site.

    Attributes:
      name: of the site.
      anatomy: ``"head"`` or ``"abdomen"``.
      field_of_view: edge length of the image, mm.
      views: number of views, evenly over 180 degrees.
      photons: mean number of photons for each detector element and view without an object.
      electronic_noise: standard deviation of the detector's own noise, in photons.
      water_attenuation: of the site's X-ray spectrum, 1/mm; an image in units of it is 1 + HU / 1000.
      slice_spacing: mm.
      patients: number of patients.
      prevalence: fraction of patients with lesions.
    """

    name: str
    anatomy: str
    field_of_view: float
    views: int = 96
    photons: float = 4e5
    electronic_noise: float = 8.0
    water_attenuation: float = 0.0193
    slice_spacing: float = 5.0
    patients: int = 8
    prevalence: float = 0.5


def ct_detector_count(image_shape: tuple[int, int]) -> int:
    """Elements one pixel wide that see the image from all sides: even, 1.5 times its longer edge."""
    return 2 * round(0.75 * max(image_shape))


@functools.partial(jax.jit, static_argnames=("elements",))
def _mean_intensity(attenuation: jax.Array, angles: jax.Array, elements: int) -> jax.Array:
    """Mean of exp(-line integral) over each element; attenuation on the fine grid, 1/pixel of the image."""
    rays = elements * OVERSAMPLING
    geometry = ParallelBeam(angles, rays, detector_spacing=1 / OVERSAMPLING)
    integrals = Radon(geometry, attenuation.shape[-2:], pixel_size=1 / OVERSAMPLING)(attenuation)
    shape = (*integrals.shape[:-1], elements, OVERSAMPLING)
    return jnp.exp(-integrals).reshape(shape).mean(-1)


def simulate_ct_patient(
    site: CTSite,
    patient: int,
    lesions: bool,
    image_shape: tuple[int, int],
    slices: int,
    seed: int,
    padded_views: int | None = None,
) -> dict[str, np.ndarray]:
    """Simulates the scan of one patient.

    Args:
      site: the scanner and its protocol.
      patient: index within the site.
      lesions: whether the patient has any.
      image_shape: (ny, nx); square pixels, the longer edge spans the field of view.
      slices: number of slices.
      seed: of the cohort; the result depends on it, the site's name and the patient's index.
      padded_views: number of views of the result, those beyond the site's being padding; None for none.

    Returns:
      A dict of numpy arrays with a leading slice axis, float32 unless stated: ``sinogram`` (views, detectors)
      measured line integrals of attenuation in units of ``scale``, over lengths in pixels, from photon counts
      (below one photon counted as one); ``angles`` (views,) radians; ``view_mask`` (views,), 0 at padded
      views, whose angle and sinogram are 0; ``target`` (ny, nx) attenuation in units of ``scale``, the mean
      over each pixel; ``scale`` () the attenuation of water in 1/mm, known from calibration;
      ``pixel_size`` () mm: measured line integrals are sinogram * scale * pixel_size; ``data_range`` ()
      largest target of the volume; ``volume`` () int32, zero; ``segmentation`` (ny, nx) 0 or 1 lesion;
      ``label`` () int32, 1 where the slice shows a lesion.

    Raises:
      ValueError: unknown anatomy, or fewer padded views than the site has.
    """
    rng = np.random.default_rng([seed, zlib.crc32(site.name.encode()), patient])
    ny, nx = image_shape
    pixel = site.field_of_view / max(image_shape)
    x, y = (
        (np.arange(OVERSAMPLING * n) - (OVERSAMPLING * n - 1) / 2) * pixel / OVERSAMPLING for n in (nx, ny)
    )
    anatomy = simulate_anatomy(
        site.anatomy, rng, x, -y, slices, site.slice_spacing, lesions, smallest_lesion=1.5 * pixel
    )
    lesion = anatomy.fractions[anatomy.tissues.index("lesion")]
    return measure_ct(site, _attenuation(anatomy), lesion, rng, padded_views)


def measure_ct(
    site: CTSite,
    relative: np.ndarray,
    lesion: np.ndarray,
    rng: np.random.Generator,
    padded_views: int | None = None,
) -> dict[str, np.ndarray]:
    """Examples, as of `simulate_ct_patient`, of a patient whose attenuation is known on the fine grid.

    Args:
      site: the scanner and its protocol.
      relative: attenuation relative to water, (slices, 2 ny, 2 nx) in the field of view.
      lesion: part of each of these pixels that is lesion.
      rng: of the noise.
      padded_views: as in `simulate_ct_patient`.

    Raises:
      ValueError: fewer padded views than the site has.
    """
    views = site.views if padded_views is None else padded_views
    if views < site.views:
        raise ArgumentError("padded_views", f"at least the {site.views} of {site.name!r}", views)
    slices = len(relative)
    image_shape = (relative.shape[1] // OVERSAMPLING, relative.shape[2] // OVERSAMPLING)
    pixel = site.field_of_view / max(image_shape)
    angles = np.zeros(views, np.float32)
    angles[: site.views] = np.pi * np.arange(site.views) / site.views
    mask = (np.arange(views) < site.views).astype(np.float32)
    unit = site.water_attenuation * pixel
    transmitted = _mean_intensity(relative * np.float32(unit), angles, ct_detector_count(image_shape))
    photons = site.photons * np.asarray(transmitted, np.float64)
    counts = rng.poisson(photons) + rng.normal(0, site.electronic_noise, photons.shape)
    sinogram = -np.log(np.maximum(counts, 1) / site.photons) / unit
    target = _block_mean(relative).astype(np.float32)
    return {
        "sinogram": (sinogram * mask[:, None]).astype(np.float32),
        "angles": np.repeat(angles[None], slices, 0),
        "view_mask": np.repeat(mask[None], slices, 0),
        "target": target,
        "scale": np.full(slices, site.water_attenuation, np.float32),
        "pixel_size": np.full(slices, pixel, np.float32),
    } | common_entries(target, (_block_mean(lesion) >= 0.5).astype(np.uint8))


def _attenuation(anatomy: Anatomy) -> np.ndarray:
    """Attenuation relative to water, float32 (slices, ny, nx)."""
    values = np.asarray([1 + t.hounsfield / 1000 for t in anatomy.properties()], np.float32)
    image = np.tensordot(values, anatomy.fractions, 1) * (1 + 0.005 * anatomy.texture)
    return np.maximum(image, 0).astype(np.float32)


def _block_mean(image: np.ndarray) -> np.ndarray:
    *lead, ny, nx = image.shape
    blocks = image.reshape(*lead, ny // OVERSAMPLING, OVERSAMPLING, nx // OVERSAMPLING, OVERSAMPLING)
    return blocks.mean((-3, -1))
