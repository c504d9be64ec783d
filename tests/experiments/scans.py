"""Small scans of a phantom in files, and what the reconstruct command makes of them."""

import h5py
import numpy as np

import operators
from experiments.reconstruct import ReconstructOptions, run
from fedrecon.data import (
    FastMRIVolume,
    write_fastmri,
)

SHAPE = (32, 32)
# Off-center and unlike its mirror images.
PHANTOM = np.asarray(operators.rasterize(operators.shepp_logan(), SHAPE)) * (1 + 0.3 * np.arange(32) / 32)
MAPS = np.asarray(operators.mri.birdcage_maps(SHAPE, 4))
MAPS = MAPS / np.linalg.norm(MAPS, axis=0)


def error(image, reference):
    return np.linalg.norm(np.abs(image) - reference) / np.linalg.norm(reference)


def write_phantom(path, scale=1.0, slices=1, **changes):
    kspace = np.asarray(operators.fft2c(MAPS * PHANTOM)) * np.float32(scale)
    write_fastmri(path, FastMRIVolume(np.stack([kspace] * slices).astype(np.complex64), **changes))
    return str(path)


def write_spokes(path, delays=(0.0, 0.0), turns=1):
    """Direct sums at 48 spokes of 64 samples, columns (kx, ky) as the layout has them, of late gradients."""
    angle = turns * np.pi * np.arange(48)[:, None] / 48
    radius = (np.arange(64) - 32) / 64
    kx, ky = radius * np.cos(angle), radius * np.sin(angle)
    n = np.arange(32) - 16
    played = ((radius - d / 64) * f(angle) for d, f in zip(delays, (np.sin, np.cos), strict=True))
    rows, columns = (np.exp(-2j * np.pi * k[..., None] * n) for k in played)
    kdata = np.einsum("smi,cij,smj->csm", rows, MAPS * PHANTOM, columns) / 32
    with h5py.File(path, "w") as file:
        file["kdata"] = kdata[None].astype(np.complex64)
        file["traj"] = np.stack([kx, ky], -1).astype(np.float32)
        file.attrs["image_size"] = 32
    return str(path)


def images(path, **options):
    output = path.parent / f"{path.name}.out.h5"
    run(ReconstructOptions(str(path), str(output), **options))
    with h5py.File(output) as file:
        return file["image"][()], dict(file.attrs)
