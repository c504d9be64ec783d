"""Small hospitals in files, for tests of cohorts in folders."""

import json

import nibabel
import numpy as np
from PIL import Image

from fedrecon.data import FastMRIVolume, write_fastmri


def disc(ny, nx, center=0.0, radius=0.5):
    """1 inside a disc, 0 outside, (ny, nx)."""
    y, x = np.mgrid[-1 : 1 : ny * 1j, -1 : 1 : nx * 1j]
    return ((y - center) ** 2 + x**2 < radius**2).astype(float)


def centered_fft(image):
    """The k-space of images, centered and orthonormal, in double precision."""
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes), norm="ortho"), axes)


def write_mri(folder, sites, patients=4, slices=1, seed=0, **members):
    """Fully sampled fastMRI files: ``sites`` is name -> (coils, ny, nx)."""
    rng = np.random.default_rng(seed)
    for site, (coils, ny, nx) in sites.items():
        (folder / site).mkdir(parents=True)
        for patient in range(patients):
            image = disc(ny, nx, 0.1 * patient) + 0.05 * rng.normal(size=(slices, coils, ny, nx))
            kspace = centered_fft(image).astype(np.complex64)
            write_fastmri(folder / site / f"p{patient}.h5", FastMRIVolume(kspace, **members))
    return folder


def write_pictures(folder, sites, patients=4, seed=0, masks=True, channels=1):
    """PNG files in ``images/`` and ``masks/``: ``sites`` is name -> (ny, nx)."""
    rng = np.random.default_rng(seed)
    for site, (ny, nx) in sites.items():
        for kind in ("images", "masks")[: 1 + masks]:
            (folder / site / kind).mkdir(parents=True)
        for patient in range(patients):
            mask = disc(ny, nx, 0.1 * patient)
            gray = np.clip(60 + 100 * mask + 10 * rng.normal(size=(ny, nx)), 0, 255).astype(np.uint8)
            image = gray if channels == 1 else np.stack([gray] * channels, -1)
            Image.fromarray(image).save(folder / site / "images" / f"p{patient}.png")
            if masks:
                mask = (255 * mask).astype(np.uint8)
                Image.fromarray(mask).save(folder / site / "masks" / f"p{patient}.png")
    return folder


def write_nifti(folder, sites, patients=4, slices=2, seed=0, labels=("cyst", "normal"), masks=False):
    """NIfTI volumes and labels.csv: ``sites`` is name -> (ny, nx)."""
    rng = np.random.default_rng(seed)
    rows = ["file,label"]
    for site, (ny, nx) in sites.items():
        (folder / site).mkdir(parents=True)
        for patient in range(patients):
            kind = patient % len(labels)
            values = 100 + 50 * kind * disc(nx, ny)[..., None] + 5 * rng.normal(size=(nx, ny, slices))
            save_nifti(folder / site / f"p{patient}.nii.gz", values)
            if masks:
                mask = np.repeat(disc(nx, ny)[..., None], slices, -1)
                save_nifti(folder / site / f"p{patient}_mask.nii.gz", mask)
            rows.append(f"{site}/p{patient}.nii.gz,{labels[kind]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def save_nifti(path, values, affine=None):
    """A file of values (x, y, z), in the patient's axes to the right, front and head."""
    affine = np.diag([1.0, 1, 4, 1]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(np.asarray(values, np.float32), affine), path)


def write_manifest(folder, sites, **members):
    """cohort.json."""
    document = {"format": "fedrecon-cohort-1", "sites": sites} | members
    (folder / "cohort.json").write_text(json.dumps(document))
    return folder
