"""Simulated multi-coil MRI: contrast, receive coils, noise and undersampling of random anatomies.

The object is simulated on a grid twice as fine as the image in both directions, multiplied by the coil fields
there, and cropped in k-space: what is measured is not what the reconstruction's model would compute.
"""

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.data.clients import center_columns
from fedrecon.data.formats import EncodingSpace, FastMRIVolume, ISMRMRDHeader, format_ismrmrd_header
from fedrecon.data.simulation.anatomy import Anatomy, Grid, Tissue, random_field, simulate_anatomy
from fedrecon.errors import ArgumentError
from operators import equispaced_mask, fft2c, ifft2c, poisson_disc_mask, random_mask, rss

OVERSAMPLING = 2
# Semi-axes of the ellipse on which the coils lie, as fractions of the field of view.
COIL_ELLIPSE = {"head": (0.58, 0.66), "abdomen": (0.62, 0.50)}


@dataclasses.dataclass(frozen=True)
class MRISite:
    """Scanner, protocol and patients of one simulated site.

    Attributes:
      name: of the site.
      anatomy: ``"head"`` or ``"abdomen"``.
      field_of_view: edge length of the image, mm.
      field_strength: T; T1 grows with it.
      repetition_time: ms.
      echo_time: ms.
      inversion_time: ms, of an inversion-recovery sequence; None for spin echo.
      fat_suppression: fraction of the signal of fat that is suppressed.
      coils: number of receive loops around the body.
      mask: ``"random"`` or ``"equispaced"`` columns, or ``"poisson"`` samples in both directions.
      acceleration: nominal, see `operators.random_mask`, `equispaced_mask` and `poisson_disc_mask`.
      center_fraction: fraction of the columns in the fully sampled center.
      snr: mean signal inside the body (root of the sum of squares over coils) over the standard deviation
        of the real (or imaginary) part of one coil's noise, in the fully sampled image.
      reference_averages: acquisitions averaged for the reference: its noise is smaller by the root of it.
      gain: factor between signal and stored values.
      slice_spacing: mm.
      patients: number of patients.
      prevalence: fraction of patients with lesions.
    """

    name: str
    anatomy: str
    field_of_view: float
    field_strength: float
    repetition_time: float
    echo_time: float
    inversion_time: float | None = None
    fat_suppression: float = 0.0
    coils: int = 8
    mask: str = "random"
    acceleration: float = 4.0
    center_fraction: float = 0.1
    snr: float = 30.0
    reference_averages: int = 16
    gain: float = 1.0
    slice_spacing: float = 4.0
    patients: int = 8
    prevalence: float = 0.5


def tissue_signal(tissue: Tissue, site: MRISite) -> float:
    """Magnitude of a tissue in a spin-echo or inversion-recovery image, relative to undecayed water."""
    t1 = tissue.t1 * (site.field_strength / 1.5) ** tissue.t1_exponent
    recovery = 1 - np.exp(-site.repetition_time / t1)
    if site.inversion_time is not None:
        recovery = abs(1 - 2 * np.exp(-site.inversion_time / t1) + np.exp(-site.repetition_time / t1))
    return float(tissue.proton_density * recovery * np.exp(-site.echo_time / tissue.t2))


def chest_coils(
    rng: np.random.Generator, coils: int, shape: tuple[int, int], field_of_view: float
) -> jax.Array:
    """Coils as around a chest that fills the field of view, for images that are stored without geometry.

    Args:
      rng: for where the coils are.
      coils: their number.
      shape: (ny, nx).
      field_of_view: the extent of the longer edge in mm.

    Returns:
      ``(coils, ny, nx)`` complex64, as of `coil_fields`.
    """
    pixel = field_of_view / max(shape)
    y, x = ((np.arange(n) - n // 2) * pixel for n in shape)
    angles = 2 * np.pi * (np.arange(coils) + rng.uniform(0.2, 0.3)) / coils
    reach = rng.uniform(0.97, 1.05, coils) * field_of_view
    centers = np.stack([0.65 * reach * np.cos(angles), 0.65 * reach * np.sin(angles)], 1)
    radii = np.full(coils, min(0.75 * np.pi / coils, 0.35) * field_of_view)
    return coil_fields(*(jnp.asarray(v, jnp.float32) for v in (x, -y, centers, radii)))


@functools.partial(jax.jit, static_argnames="segments")
def coil_fields(
    x: jax.Array, y: jax.Array, centers: jax.Array, radii: jax.Array, segments: int = 24
) -> jax.Array:
    """Receive fields ``Bx - i By`` of circular loops that face the origin, by the law of Biot and Savart.

    Args:
      x: ``(nx,)`` mm.
      y: ``(ny,)`` mm.
      centers: ``(coils, 2)`` (x, y) of the loops' centers, mm; the loops' axes point to the origin.
      radii: ``(coils,)`` mm; a radius of 0 gives a coil of zeros.
      segments: straight pieces of each loop.

    Returns:
      ``(coils, ny, nx)`` complex64, in the plane z = 0, of unit root-mean-square over the coils in the center
      of the grid.
    """
    # Not `operators.mri.loop_field`: these loops cross the image, where a wire 5 mm thick bounds the field.
    turns = 2 * jnp.pi * jnp.arange(segments) / segments
    distance = jnp.linalg.norm(centers, axis=1, keepdims=True)
    tangent = jnp.stack([-centers[:, 1], centers[:, 0]], 1) / distance
    across, up = radii[:, None] * jnp.cos(turns), radii[:, None] * jnp.sin(turns)
    wire = centers[:, None] + across[..., None] * tangent[:, None]
    step_across, step_up = -up, across

    def add(total, piece):
        position, height, dt, dz = piece
        rx = x - position[:, 0, None, None]
        ry = y[:, None] - position[:, 1, None, None]
        rz = -height[:, None, None]
        cube = (rx**2 + ry**2 + rz**2 + 25.0) ** -1.5
        dx, dy = (dt[:, None] * tangent).T[..., None, None]
        bx, by = dy * rz - dz[:, None, None] * ry, dz[:, None, None] * rx - dx * rz
        return total + cube * (bx - 1j * by), None

    pieces = (wire.swapaxes(0, 1), up.T, step_across.T, step_up.T)
    start = jnp.zeros((len(centers), len(y), len(x)), jnp.complex64)
    fields, _ = jax.lax.scan(add, start, pieces)
    middle = fields[:, len(y) // 2, len(x) // 2]
    return fields / jnp.sqrt(jnp.sum(jnp.abs(middle) ** 2))


@functools.partial(jax.jit, static_argnames="shape")
def _acquire(image, fields, key, sigma, averages, shape):
    """Noisy k-space (slices, coils, ny, nx), and the magnitude of a mean of many (slices, ny, nx)."""
    fine = image.shape[-2:]
    kspace = fft2c(fields * image[:, None]) * (shape[0] * shape[1] / (fine[0] * fine[1])) ** 0.5
    start = [f // 2 - n // 2 for f, n in zip(fine, shape, strict=True)]
    kspace = kspace[..., start[0] : start[0] + shape[0], start[1] : start[1] + shape[1]]
    present = (jnp.abs(fields).max((-2, -1)) > 0)[:, None, None]
    noise = [jax.random.normal(k, (2, *kspace.shape)) for k in jax.random.split(key)]
    measured, reference = (sigma * present * jax.lax.complex(n[0], n[1]) for n in noise)
    return kspace + measured, rss(ifft2c(kspace + reference / jnp.sqrt(averages)))


def simulate_mri_patient(
    site: MRISite,
    patient: int,
    lesions: bool,
    image_shape: tuple[int, int],
    slices: int,
    seed: int,
    padded_coils: int | None = None,
) -> FastMRIVolume:
    """Simulates the scan of one patient.

    Args:
      site: the scanner and its protocol.
      patient: index within the site.
      lesions: whether the patient has any.
      image_shape: (ny, nx) of image and k-space; both span the site's field of view.
      slices: number of slices.
      seed: of the cohort; the result depends on it, the site's name and the patient's index.
      padded_coils: number of coils of the result, those beyond the site's being zero; None for none.

    Returns:
      The undersampled noisy measurement, its mask, the reference (root of the sum of squares of the fully
      sampled average of ``reference_averages`` acquisitions, with noise of its own) and the lesions; the
      attribute "noise_deviation" is that of a complex sample, in the unit of the k-space.

    Raises:
      ValueError: unknown anatomy or mask, or a mask that cannot be drawn.
    """
    identity = zlib.crc32(site.name.encode())
    rng = np.random.default_rng([seed, identity, patient])
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), identity & 0x7FFFFFFF), patient)
    keys = jax.random.split(key)
    x, y = fine_grid(image_shape, site.field_of_view)
    pixel = site.field_of_view / min(image_shape)
    anatomy = simulate_anatomy(site.anatomy, rng, x, y, slices, site.slice_spacing, lesions, 1.5 * pixel)
    image = _object(rng, site, anatomy, x, y)
    coils = site.coils if padded_coils is None else padded_coils
    fields = coil_fields(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), *_loops(rng, site, coils))
    magnitude = np.abs(image)
    signal = float(magnitude[magnitude > 0.1 * np.percentile(magnitude, 99)].mean())
    kspace, reference = _acquire(
        image, fields, keys[0], signal / site.snr, float(site.reference_averages), tuple(image_shape)
    )
    mask = draw_mask(site, keys[1], image_shape)
    header = EncodingSpace(
        (*image_shape[::-1], 1), (site.field_of_view, site.field_of_view, site.slice_spacing)
    )
    return FastMRIVolume(
        kspace=np.asarray(kspace) * mask * np.float32(site.gain),
        mask=mask > 0,
        reconstruction_rss=np.asarray(reference) * np.float32(site.gain),
        segmentation=lesion_mask(anatomy),
        header_xml=format_ismrmrd_header(ISMRMRDHeader(header, header)),
        attributes={
            "patient_id": f"{site.name}-{patient:03d}",
            "acquisition": f"{site.anatomy} TR {site.repetition_time:g} TE {site.echo_time:g}",
            "site": site.name,
            # Of a complex sample, both parts together.
            "noise_deviation": float(2**0.5 * signal / site.snr * site.gain),
        },
    )


def draw_mask(site: MRISite, key: jax.Array, image_shape: tuple[int, int]) -> np.ndarray:
    """Draws a sampling mask of the site's kind, float32 ``(ny, nx)``, 1 where measured.

    Raises:
      ValueError: unknown kind, or one that cannot be drawn.
    """
    columns = image_shape[1]
    if site.mask == "random":
        mask = random_mask(key, columns, site.acceleration, site.center_fraction)
    elif site.mask == "equispaced":
        offset = jax.random.randint(key, (), 0, int(site.acceleration))
        mask = equispaced_mask(columns, site.acceleration, site.center_fraction, offset)
    elif site.mask == "poisson":
        mask = poisson_disc_mask(key, image_shape, site.acceleration, calibration_shape(site, image_shape))
    else:
        expected = "'random', 'equispaced' or 'poisson'"
        raise ArgumentError(f"site {site.name!r}", f"mask {expected}", repr(site.mask))
    return np.array(np.broadcast_to(mask, image_shape), np.float32)


def calibration_shape(site: MRISite, image_shape: tuple[int, int]) -> tuple[int, int]:
    """The (ny, nx) of the block around DC that the site's masks sample fully and coils are estimated from."""
    if site.mask == "poisson":
        rows, columns = (min(n, 2 * center_columns(n, site.center_fraction)) for n in image_shape)
        return rows, columns
    columns = center_columns(image_shape[1], site.center_fraction)
    return min(image_shape[0], 2 * columns), columns


def fine_grid(image_shape: tuple[int, int], field_of_view: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centers (x, y) in mm of the grid of the object, pixel N // 2 at the origin, y falling."""
    ny, nx = (OVERSAMPLING * n for n in image_shape)
    return (np.arange(nx) - nx // 2) * field_of_view / nx, (ny // 2 - np.arange(ny)) * field_of_view / ny


def lesion_mask(anatomy: Anatomy) -> np.ndarray:
    """Pixels at least half filled by a lesion, uint8 ``(slices, ny, nx)``, pixel N // 2 at the origin."""
    area = anatomy.fractions[anatomy.tissues.index("lesion")]
    for axis in (-2, -1):
        # A pixel of the image spans one fine pixel and half of each of its neighbors.
        area = 0.5 * area + 0.25 * (np.roll(area, 1, axis) + np.roll(area, -1, axis))
        area = np.take(area, np.arange(0, area.shape[axis], OVERSAMPLING), axis)
    return (area >= 0.5).astype(np.uint8)


def _object(
    rng: np.random.Generator, site: MRISite, anatomy: Anatomy, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Transverse magnetization (slices, ny, nx), complex64: contrast, texture, transmit field, phase."""
    signals = np.asarray([tissue_signal(t, site) for t in anatomy.properties()], np.float32)
    signals[anatomy.tissues.index("fat")] *= 1 - site.fat_suppression
    grid = Grid(x, y, site.slice_spacing * np.arange(len(anatomy.texture)), float(x[1] - x[0]))
    size = site.field_of_view
    image = np.tensordot(signals, anatomy.fractions, 1) * (1 + 0.05 * anatomy.texture)
    image = image * (1 + 0.08 * random_field(rng, size, size)(grid))
    phase = 0.5 * random_field(rng, 0.8 * size, size)(grid) + rng.uniform(0, 2 * np.pi)
    phase = phase + (rng.uniform(-2, 2) * x + rng.uniform(-2, 2) * y[:, None]) / size
    return (image * np.exp(1j * phase)).astype(np.complex64)


def _loops(rng: np.random.Generator, site: MRISite, coils: int) -> tuple[jax.Array, jax.Array]:
    """Centers (coils, 2) and radii (coils,) of the loops, placed a little differently for each patient."""
    wide, high = (site.field_of_view * f for f in COIL_ELLIPSE[site.anatomy])
    angles = 2 * np.pi * (np.arange(coils) + 0.25) / site.coils + rng.uniform(-0.06, 0.06, coils)
    reach = rng.uniform(0.97, 1.05, coils)
    centers = np.stack([wide * reach * np.cos(angles), high * reach * np.sin(angles)], 1)
    radius = min(1.15 * np.pi * (wide + high) / 2 / site.coils, 0.5 * high)
    radii = np.where(np.arange(coils) < site.coils, radius, 0.0)
    return jnp.asarray(centers, jnp.float32), jnp.asarray(radii, jnp.float32)
