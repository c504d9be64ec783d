"""Small raw files of hospitals: spokes, echo-planar lines of both directions, Siemens lines, sinograms."""

import h5py
import numpy as np

from tests.data.hospital_files import centered_fft, disc
from tests.data.twix_files import readout, write_twix

SIZE, DELAY = 16, 0.3


def coil_images(patient, coils=2, size=SIZE):
    """Two discs seen by coils of different phase and place, (coils, size, size)."""
    x = np.linspace(-1, 1, size)
    image = disc(size, size, 0.1 * patient, 0.8) + disc(size, size, -0.2, 0.25)
    return np.stack([image * np.exp(1j * c) * (1 + 0.4 * np.cos(2 * x + c)) for c in range(coils)])


def write_radial(path, images, spokes=26, samples=2 * SIZE):
    """Spokes through DC by the sum over pixels, in double precision."""
    size = images.shape[-1]
    angle = np.pi * np.arange(spokes) / spokes
    radius = (np.arange(samples) - samples // 2) / samples
    ky, kx = (np.outer(f(angle), radius) for f in (np.sin, np.cos))
    n = np.arange(size) - size // 2
    rows, columns = (np.exp(-2j * np.pi * k.reshape(-1, 1) * n) for k in (ky, kx))
    kdata = np.einsum("my,cyx,mx->cm", rows, images, columns) / size
    with h5py.File(path, "w") as file:
        file["kdata"] = kdata.reshape(1, len(images), spokes, samples).astype(np.complex64)
        file["traj"] = np.stack([kx, ky], -1).astype(np.float32)
        file.attrs["image_size"] = size
    return path


def write_epi(path, *stacks, phase_lines=None):
    """Images (coils, readout, phase encoding) as lines of both directions, which are late by ``DELAY``."""
    with h5py.File(path, "w") as file:
        for number, images in enumerate((None, *stacks)):
            source = stacks[0] if images is None else images
            size = source.shape[-1]
            n = np.arange(size) - size // 2
            columns = n if phase_lines is None else n[:phase_lines]
            sign = np.where(np.arange(len(columns)) % 2, -1, 1)
            lines, k = [], []
            for column, direction in zip(columns, sign, strict=True):
                nominal = direction * n / size
                late = nominal - direction * DELAY / size
                phase = np.exp(-2j * np.pi * (0 if images is None else column) * n / size)
                along = np.exp(-2j * np.pi * np.outer(late, n))
                lines.append(np.einsum("my,cyx,x->mc", along, source, phase))
                k.append(np.stack([nominal, np.full(size, column / size if images is not None else 0.0)], -1))
            group = file.create_group("calibration" if images is None else f"image{number}")
            group["kspace"] = (np.stack(lines) / size).astype(np.complex64)
            group["traj"], group["polarity"] = np.stack(k).astype(np.float32), sign.astype(np.int8)
            group.attrs["matrix"], group.attrs["calibration"] = size, images is None
            group.attrs["calibration_group"] = "calibration"
            group.attrs["fov_mm"], group.attrs["slice_thickness_mm"] = 3.75 * size, 4.0
    return path


def write_siemens(path, images, step=1):
    """Every ``step``-th line of a VB file, without oversampling."""
    kspace = centered_fft(images)
    size = images.shape[-1]
    lines = [readout(kspace[:, :, i], i, centers=(size // 2, 0)) for i in range(0, size, step)]
    return write_twix(path, lines, **{"sKSpace.lBaseResolution": size})


def chords(points, directions, discs):
    """Line integrals of discs (x, y, radius, attenuation) along rays through points, unit directions."""
    total = 0
    for x, y, radius, attenuation in discs:
        across = (points[..., 0] - x) * directions[..., 1] - (points[..., 1] - y) * directions[..., 0]
        total = total + 2 * attenuation * np.sqrt(np.maximum(radius**2 - across**2, 0))
    return total


def write_parallel(path, slices, views=48, elements=32, axis=None, arc=180.0):
    """Parallel beams through slices of discs, in lengths of elements; ``axis`` is the element at the axis."""
    axis = (elements - 1) / 2 if axis is None else axis
    t = np.deg2rad(arc / views * np.arange(views))[:, None]
    s = np.arange(elements) - axis
    points = np.stack([s * np.cos(t), s * np.sin(t)], -1)
    directions = np.stack([-np.sin(t), np.cos(t)], -1)
    with h5py.File(path, "w") as file:
        file["sinogram"] = np.stack([chords(points, directions, discs) for discs in slices]).astype(
            np.float32
        )
        file["angles_deg"] = np.rad2deg(t[:, 0])
        file.attrs["rotation_centre_pixel"], file.attrs["detector_pixel"] = axis, 1.0
    return path


def write_fan(path, discs, views=120, elements=32, source=100.0, detector=50.0, arc=360.0):
    """A fan onto a flat detector whose elements are 1 mm wide at the axis, in the layout of Helsinki."""
    t = np.deg2rad(arc / views * np.arange(views))[:, None, None]
    spacing = (source + detector) / source
    u = ((np.arange(elements) - (elements - 1) / 2) * spacing)[:, None]
    e, n = (np.concatenate(pair, -1) for pair in ((np.cos(t), np.sin(t)), (-np.sin(t), np.cos(t))))
    along = (source + detector) * n + u * e
    along = along / np.linalg.norm(along, axis=-1, keepdims=True)
    with h5py.File(path, "w") as file:
        group = file.create_group("arc")
        group["sinogram"] = chords(-source * n, along, discs).astype(np.float32)
        group["angles_deg"] = np.rad2deg(t[:, 0, 0])
        for name, value in (
            ("source_to_origin", source),
            ("source_to_detector", source + detector),
            ("detector_pixel", spacing),
            ("recon_pixel", 1.0),
        ):
            file.attrs[f"{name}_mm"] = value
    return path
