"""Changes that break a sound cohort of files, and the faults of single files."""

import shutil

import h5py
import numpy as np
import pydicom
from PIL import Image

from tests.data.hospital_files import save_nifti, write_manifest
from tests.data.raw_files import coil_images, write_epi, write_siemens


def content(name, value):
    def change(folder):
        (folder / name).write_bytes(value if isinstance(value, bytes) else value.encode())

    return change


def cut(name, part=0.5):
    def change(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * part)])

    return change


def swapped(name, before, after):
    def change(folder):
        data = (folder / name).read_bytes()
        assert before in data
        (folder / name).write_bytes(data.replace(before, after))

    return change


def picture(name, values):
    return lambda folder: Image.fromarray(np.asarray(values, np.uint8)).save(folder / name)


def removed(*names):
    def change(folder):
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def copied(source, target):
    def change(folder):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / source, folder / target)

    return change


def table(change):
    def edit(folder):
        path = folder / "labels.csv"
        path.write_text(change(path.read_text()))

    return edit


def hdf5(name, key, change):
    def edit(folder):
        with h5py.File(folder / name, "r+") as file:
            value = change(file[key][()]) if key in file else change(None)
            if key in file:
                del file[key]
            if value is not None:
                file[key] = value

    return edit


def attribute(name, place, key, value):
    def edit(folder):
        with h5py.File(folder / name, "r+") as file:
            file[place].attrs[key] = value

    return edit


def nifti(name, values):
    return lambda folder: save_nifti(folder / name, np.asarray(values, float))


def dicom(name, **elements):
    def edit(folder):
        dataset = pydicom.dcmread(folder / name)
        for key, value in elements.items():
            setattr(dataset, key, value)
        dataset.save_as(folder / name)

    return edit


def manifest(sites, **members):
    return lambda folder: write_manifest(folder, sites, **members)


def site(name="a", files=("a/*.png",), reader="picture", **members):
    return {"name": name, "reader": reader, "files": list(files)} | members


def nan(kspace):
    kspace[0, 0, 3, 3] = np.nan
    return kspace


def not_finite(values):
    values.flat[5] = np.inf
    return values


def holes(kspace):
    kspace[..., 1::2] = 0
    return kspace


def both(*changes):
    def edit(folder):
        for change in changes:
            change(folder)

    return edit


GRAY = np.arange(64).reshape(8, 8)
A, MASK = "a/images/p0.png", "a/masks/p0.png"
# Kind, fault, what the message names, and the pattern that it has; faults of one file may be skipped.
ONE_FILE = [
    (
        "pictures",
        lambda f: (f / "a" / "x.png").symlink_to("absent"),
        "a/x.png",
        "a file, found a link to nothing",
    ),
    ("pictures", content(A, b""), A, "found an empty file"),
    ("pictures", cut(A), A, "a readable picture .* truncated"),
    ("pictures", content(A, "text"), A, "a readable picture .* cannot identify"),
    ("pictures", removed(MASK), A, r"a mask \(the same name in masks/, or NAME_mask\), found none"),
    (
        "pictures",
        picture(MASK, np.zeros((8, 9))),
        MASK,
        r"shape \(1, 8, 8\), that of p0.png, found \(1, 8, 9\)",
    ),
    ("pictures", picture(MASK, GRAY % 3), MASK, "0 and one other value, .* found 3 values, 0, 1, 2"),
    ("pictures", picture(MASK, GRAY % 2 + 4), MASK, "0 and one other value, .* found 2 values, 4, 5"),
    (
        "pictures",
        picture(MASK, np.stack([GRAY, GRAY, 0 * GRAY], -1)),
        MASK,
        "a gray picture, .* found colors",
    ),
    ("pictures", cut(MASK), MASK, "a readable picture .* truncated"),
    ("pictures", removed(A), MASK, "an image that it is the mask of, found none"),
    (
        "pictures",
        content("a/images/x.xyz", "?"),
        "a/images/x.xyz",
        "a file of measurements or images .*another",
    ),
    (
        "pictures",
        nifti("a/images/x.nii", np.ones((8, 8, 1))),
        "a/images/x.nii",
        "pictures, as the others of a",
    ),
    (
        "pictures",
        picture(A, np.stack([GRAY] * 3, -1)),
        A,
        "1 channels as the most have, .* found 3",
    ),
    (
        "pictures",
        copied(A, "b/images/q.png"),
        "b/images/q.png",
        "a file unlike the others, found the content of",
    ),
    (
        "pictures",
        lambda f: Image.fromarray(np.full((8, 8), 700, np.uint16)).save(f / A),
        A,
        "an image of several values, found the value 700",
    ),
    (
        "nifti",
        table(lambda t: t.replace("a/p0.nii.gz,cyst\n", "")),
        "a/p0.nii.gz",
        "a label in labels.csv, found none",
    ),
    ("nifti", table(lambda t: t + "a/p9.nii.gz,cyst\n"), "labels.csv", "a file .* among those of the cohort"),
    ("nifti", nifti("a/p0.nii.gz", np.full((8, 8, 2), np.nan)), "a/p0.nii.gz", "finite values .* 128 NaN"),
    ("nifti", cut("a/p0.nii.gz"), "a/p0.nii.gz", "a readable NIfTI file"),
    ("nifti", content("a/p0.nii.gz", b""), "a/p0.nii.gz", "a NIfTI file, found an empty file"),
    ("nifti", nifti("a/p0.nii.gz", np.ones((8, 8, 2, 3))), "a/p0.nii.gz", "a volume of three axes"),
    ("nifti", nifti("a/p0.nii.gz", np.ones((8, 8, 2))), "a/p0.nii.gz", "an image of several values"),
    ("nifti", nifti("a/p0_mask.nii", np.ones((8, 8, 3))), "a/p0_mask.nii", r"shape \(2, 8, 8\), that of p0"),
    (
        "nifti",
        lambda f: save_nifti(
            f / "a/p0_seg.nii", np.ones((8, 8, 2)), np.diag([1.0, 1, 4, 1]) + np.eye(4, k=3)[:4] * 9
        ),
        "a/p0_seg.nii",
        "the place in the scanner of p0.nii.gz, found 9.0 mm off",
    ),
    ("mri", hdf5("a/p0.h5", "kspace", nan), "a/p0.h5", "key 'kspace': expected finite values, found 1 NaN"),
    (
        "mri",
        hdf5("a/p0.h5", "kspace", holes),
        "a/p0.h5",
        "fully sampled k-space, .* found .* and no reference",
    ),
    (
        "mri",
        hdf5("a/p0.h5", "kspace", lambda k: 0 * k),
        "a/p0.h5",
        "a signal in every slice, found a slice of zeros",
    ),
    (
        "mri",
        hdf5("a/p0.h5", "kspace", np.real),
        "a/p0.h5",
        "key 'kspace': expected type complex, found float32",
    ),
    ("mri", cut("a/p0.h5"), "a/p0.h5", "a readable HDF5 file"),
    ("mri", content("a/p0.h5", "text"), "a/p0.h5", "an HDF5 file, found a file of another type"),
    ("mri", content("a/p0.h5", b""), "a/p0.h5", "an HDF5 file, found an empty file"),
    ("mri", hdf5("a/p0.h5", "kspace", lambda k: None), "a/p0.h5", "HDF5 of measurements; name the keys"),
    ("mri", picture("a/x.png", GRAY), "a/x.png", "raw MRI, as the others of a, found pictures"),
    (
        "radial",
        hdf5("a/p0.h5", "traj", lambda k: 6.28 * k),
        "a/p0.h5",
        "trajectory': expected .*cycles/pix",
    ),
    ("radial", hdf5("a/p0.h5", "traj", lambda k: k[:-1]), "a/p0.h5", "key 'traj': expected shape"),
    ("radial", hdf5("a/p0.h5", "traj", lambda k: None), "a/p0.h5", "HDF5 of measurements; name the keys"),
    ("radial", hdf5("a/p0.h5", "kdata", lambda k: 0 * k), "a/p0.h5", "a signal in every slice"),
    ("radial", hdf5("a/p0.h5", "kdata", np.abs), "a/p0.h5", "key 'kdata': expected type complex"),
    ("radial", hdf5("a/p0.h5", "kdata", nan), "a/p0.h5", "key 'kdata': expected finite values, found 1 NaN"),
    ("radial", attribute("a/p0.h5", "/", "image_size", 0), "a/p0.h5", "@image_size': expected a positive"),
    ("radial", cut("a/p0.h5"), "a/p0.h5", "a readable HDF5 file"),
    ("epi", attribute("a/p0.h5", "image1", "matrix", -1), "a/p0.h5", "image1/@matrix': expected a positive"),
    ("epi", hdf5("a/p0.h5", "image1/polarity", lambda s: 0 * s), "a/p0.h5", "values 1 and -1, found"),
    ("epi", hdf5("a/p0.h5", "image1/kspace", lambda k: k[:-1]), "a/p0.h5", "image1/.*': expected shape"),
    ("epi", hdf5("a/p0.h5", "image1/kspace", lambda k: 0 * k), "a/p0.h5", "a signal in every slice"),
    (
        "epi",
        lambda f: write_epi(f / "a/p0.h5", coil_images(9), phase_lines=12),
        "a/p0.h5",
        "fully sampled k-space, or .* found 75.0 % of the samples and no reference",
    ),
    ("epi", cut("a/p0.h5"), "a/p0.h5", "a readable HDF5 file"),
    ("twix", cut("a/p0.dat", 0.97), "a/p0.dat", "expected"),
    ("twix", cut("a/p0.dat", 0.2), "a/p0.dat", "expected"),
    ("twix", content("a/p0.dat", b""), "a/p0.dat", "expected"),
    (
        "twix",
        lambda f: write_siemens(f / "a/p0.dat", coil_images(9), step=2),
        "a/p0.dat",
        "fully sampled k-space, or .* found 50.0 % of the samples and no reference",
    ),
    ("ct", hdf5("a/p0.h5", "angles_deg", lambda a: a[:-1]), "a/p0.h5", "key 'angles_deg': expected shape"),
    ("ct", hdf5("a/p0.h5", "angles_deg", np.deg2rad), "a/p0.h5", "degrees, found .* as if in radians"),
    ("ct", hdf5("a/p0.h5", "angles_deg", lambda a: a / 2), "a/p0.h5", "views over 180 degrees .* found none"),
    ("ct", hdf5("a/p0.h5", "sinogram", lambda s: s[0]), "a/p0.h5", "key 'sinogram': expected 3 axes"),
    ("ct", hdf5("a/p0.h5", "sinogram", not_finite), "a/p0.h5", "key 'sinogram': expected finite"),
    ("ct", attribute("a/p0.h5", "/", "detector_pixel", 0.0), "a/p0.h5", "@detector_pixel': expected a pos"),
    ("ct", attribute("a/p0.h5", "/", "rotation_centre_pixel", 99), "a/p0.h5", "an element from 0 to 31"),
    ("ct", cut("a/p0.h5"), "a/p0.h5", "a readable HDF5 file"),
    ("dicom", content("a/p0/00001.dcm", b""), "a/p0/00001.dcm", "expected"),
    ("dicom", content("a/p0/00001.dcm", "text" * 50), "a/p0/00001.dcm", "expected"),
    (
        "dicom",
        swapped("a/p0/00001.dcm", b"1.2.840.10008.1.2.1", b"1.2.84.10008.1.2.17"),
        "a/p0/00001.dcm",
        "expected",
    ),
    (
        "dicom",
        swapped("a/p0/00001.dcm", b"\x02\x00\x10\x00UI", b"\x02\x00\x11\x00UI"),
        "a/p0/00001.dcm",
        "expected",
    ),
    ("dicom", cut("a/p0/00001.dcm", 0.8), "a/p0/00001.dcm", "expected"),
    ("dicom", dicom("a/p0/00001.dcm", SeriesInstanceUID="1.2.3"), "a/p0/0000", "expected"),
    ("dicom", copied("a/p1/00001.dcm", "a/p0/00009.dcm"), "a/p0/0000", "expected"),
]
