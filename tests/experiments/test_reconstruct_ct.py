"""The reconstruct command for CT: the disc at its place and in its unit everywhere; wrong flags are named."""

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

import operators
from experiments.reconstruct import ReconstructOptions, run
from fedrecon import Variables
from fedrecon.data import CTMeasurement, RawMeasurement, read_dicom_slices, write_ismrmrd
from fedrecon.learned import (
    Architecture,
    CheckedNetwork,
    IntervalBound,
    Signs,
    load_network,
    save_network,
)
from fedrecon.learned_tomography import reconstruct_tomography
from operators import FanBeam, ParallelBeam
from operators.ct import filtered_radon

# Radius, x and y (upwards) in elements of the detector, and attenuation of an element's length.
RADIUS, X, Y, VALUE = 6.0, 7.0, -4.0, 0.05


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """Three rows of a detector, whose discs are as bright as their number."""
    path = tmp_path_factory.mktemp("ct") / "scan.h5"
    angles = np.pi * np.arange(60) / 60
    distance = np.arange(64) - 29.25 - (X * np.cos(angles) + Y * np.sin(angles))[:, None]
    chords = 2 * VALUE * np.sqrt(np.maximum(RADIUS**2 - distance**2, 0))
    with h5py.File(path, "w") as file:
        file["sinogram"] = np.stack([chords, 2 * chords, 3 * chords])
        file["angles_deg"] = np.rad2deg(angles)
        file.attrs["detector_pixel"], file.attrs["rotation_centre_pixel"] = 1.0, 29.25
    return path


def output(scan, folder, name, **options):
    run(ReconstructOptions(str(scan), str(folder / name), **options))
    return folder / name


def place_of_disc(values, affine):
    """Center of mass in the coordinates of the affine, of (columns, rows, slices)."""
    bright = np.where(values > values.max() / 2, 1.0, 0.0)
    index = [np.sum(bright * np.arange(n).reshape(-1, *(1,) * (2 - k))) for k, n in enumerate(values.shape)]
    return (affine @ [*(np.array(index) / bright.sum()), 1])[:3]


def test_dicom_and_nifti_put_the_disc_in_its_place(scan, tmp_path):
    """Elements of 0.5 mm: the disc is 3.5 mm to the left of the patient and 2 mm to the back."""
    nibabel, _ = pytest.importorskip("nibabel"), pytest.importorskip("highdicom")
    options = {"element_size": 0.5, "water_attenuation": VALUE / 0.5}
    series = read_dicom_slices(output(scan, tmp_path, "a.dcm", **options))
    assert series.values.shape == (3, 59, 59) and series.spacing == pytest.approx((0.5, 0.5, 0.5))
    # Water in the first slice, twice and three times its attenuation in the next ones; air around.
    row, column = 29 - round(Y), 29 + round(X)
    np.testing.assert_allclose(series.values[:, row, column], [0, 1000, 2000], atol=80)
    np.testing.assert_allclose(series.values[:, 5:9, 5:9], -1000, atol=120)
    first = series.values[:1].transpose(2, 1, 0)
    np.testing.assert_allclose(place_of_disc(first + 1000, series.affine), [3.5, 2, -0.5], atol=0.1)
    image = nibabel.load(output(scan, tmp_path, "a.nii.gz", **options))
    np.testing.assert_allclose(image.get_fdata().transpose(2, 1, 0), series.values, atol=0.1)
    first = image.get_fdata()[..., :1]
    np.testing.assert_allclose(place_of_disc(first + 1000, image.affine), [-3.5, -2, -0.5], atol=0.1)


def test_slices_grids_and_methods(scan, tmp_path, capsys):
    path = output(scan, tmp_path, "a.h5", method="cgls", slices=["2"], image_shape=["40", "48"])
    with h5py.File(path) as file:
        image, record = file["image"][()], dict(file.attrs)
    assert image.shape == (1, 40, 48) and record["method"] == "cgls" and record["unit"] == "1/pixel"
    assert record["pixel_size"] == pytest.approx(2 * 29.75 / 48) and record["format"] == "tomography"
    assert np.median(image[image > VALUE]) == pytest.approx(3 * VALUE, rel=0.1)
    assert "tomography: ParallelBeam, 60 views, 1 slices of 40 x 48" in capsys.readouterr().out
    page = imread(output(scan, tmp_path, "a.png"))[..., 0]
    assert page.shape == (118, 118)


def untrained(path, physics="ct"):
    """A network that takes one gradient step."""
    architecture = Architecture("varnet", 1, 2, 1)
    A = jax.vmap(lambda a: filtered_radon(ParallelBeam(a, 8), (8, 8)))(jnp.zeros((1, 4)))
    y = jnp.zeros((1, *A.out_shape))
    variables = jax.jit(architecture.build().init)(jax.random.key(0), A, y)
    variables = Variables(variables["params"], variables.get("batch_stats", {}))
    bounds = Signs(10.0, float("nan"), 10.0)
    found = CheckedNetwork(
        architecture, variables, bounds, "varnet of nothing", physics, None, IntervalBound(0.9, 2.0)
    )
    save_network(path, found)
    return str(path)


def test_a_network_reconstructs_parallel_beams(scan, tmp_path, capsys):
    """In the unit of the file, whatever the brightness of the slices; half widths in the same unit."""
    weights = untrained(tmp_path / "network.npz")
    with h5py.File(output(scan, tmp_path, "a.h5", weights=weights)) as file:
        image, widths, record = file["image"][()], file["half_width"][()], dict(file.attrs)
    assert image.shape == widths.shape == (3, 59, 59)
    for number in (1, 2, 3):
        assert np.median(image[0][image[0] > VALUE / 2]) == pytest.approx(VALUE, rel=0.1)
        np.testing.assert_allclose(image[number - 1], number * image[0], atol=1e-4)
        np.testing.assert_allclose(widths[number - 1], number * widths[0], atol=1e-4)
    # At the least two percent of the brightest pixel, times the quantile.
    assert 0.02 * 2 * VALUE < widths[0].min() < widths[0].max() < VALUE
    assert record["method"] == "network" and record["out_of_distribution"] == ""
    assert "3 images, as in training" in capsys.readouterr().out
    known = output(scan, tmp_path, "b.h5", weights=weights, element_size=0.5, water_attenuation=VALUE / 0.5)
    with h5py.File(known) as file:
        np.testing.assert_allclose(file["image"], 1000 * (image / VALUE - 1), atol=2)
        np.testing.assert_allclose(file["half_width"], 1000 * widths / VALUE, atol=2)
        assert file.attrs["unit"] == "HU"


def test_networks_that_are_not_for_the_file_are_named(scan, tmp_path):
    for physics, options, words in (
        ("mri", {}, "--weights: expected a network of CT, as --input is, found one of MRI"),
        ("ct", {"method": "fbp"}, "--method: expected none with --weights"),
    ):
        weights = untrained(tmp_path / f"{physics}.npz", physics)
        with pytest.raises(ValueError, match=words):
            output(scan, tmp_path, "a.h5", weights=weights, **options)
    geometry = FanBeam(jnp.zeros(4), 8, 1.0, 40.0, 20.0)
    fan = CTMeasurement("fan", np.ones((1, 4, 8), np.float32), geometry, (8, 8), 1.0, 1.0, "pixel")
    with pytest.raises(ValueError, match="expected parallel beams, which networks are for, found FanBeam"):
        reconstruct_tomography(load_network(tmp_path / "ct.npz"), fan)
    empty = CTMeasurement(
        "flat", np.zeros((1, 4, 8), np.float32), ParallelBeam(jnp.zeros(4), 8), (8, 8), 1.0, 1.0, "pixel"
    )
    with pytest.raises(ValueError, match="expected a slice with something that attenuates"):
        reconstruct_tomography(load_network(tmp_path / "ct.npz"), empty)


def test_magnetic_resonance_as_dicom(tmp_path):
    pytest.importorskip("ismrmrd"), pytest.importorskip("highdicom")
    image = np.zeros((3, 1, 16, 16), np.complex64)
    image[1, 0, 3, 12] = 2
    kspace = np.asarray(operators.fft2c(image)).astype(np.complex64)
    raw = RawMeasurement(kspace, (16, 16), mask=np.ones((3, 16), bool), field_of_view=(5.0, 32.0, 48.0))
    write_ismrmrd(tmp_path / "m.mrd", raw)
    run(ReconstructOptions(str(tmp_path / "m.mrd"), str(tmp_path / "m.dcm"), method="rss"))
    series = read_dicom_slices(tmp_path / "m.dcm")
    assert series.modality == "MR" and series.spacing == pytest.approx((5, 2, 3))
    assert series.values[1, 3, 12] == pytest.approx(2, rel=1e-3) and series.values.sum() < 2.1


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"method": "cg-sense"}, "--method: expected one of fbp, .* found 'cg-sense'"),
        ({"acceleration": 2.0}, "--acceleration: expected none with a CT measurement"),
        ({"coil_maps": "walsh"}, "--coil_maps: expected none with a CT measurement"),
        ({"weight": 1.0}, "--weight: expected none with method fbp"),
        ({"water_attenuation": 0.02}, "--water_attenuation: expected lengths in mm"),
        ({"water_attenuation": 0.0}, "--water_attenuation: expected a positive number"),
        ({"slices": ["7"]}, "--slices: expected numbers from 0 to 2"),
        ({"slices": ["2-1"]}, "--slices: expected a range that rises, as 1-2, found '2-1'"),
        ({"slices": ["0-1", "1"]}, "--slices: expected every number once, found 1 twice"),
        ({"slices": ["1-"]}, "--slices: expected numbers and ranges, as 0,4-6, found '1-'"),
        ({"slices": ["0-99999999999"]}, "--slices: expected numbers and ranges"),
        ({"slices": []}, "--slices: expected numbers and ranges, as 0,4-6, found none"),
        ({"slices": ["0", "2", "1"], "output": "a.nii"}, "--slices: expected numbers in even, rising steps"),
        ({"group": "x"}, "--group: expected none with the tomography file"),
        ({"output": "a.dcm"}, "--output: expected NIfTI, HDF5 or PNG.*not known, found a.dcm"),
        ({"pixel_size": float("nan")}, "--pixel_size: expected a positive number"),
        ({"element_size": -1.0}, "--element_size: expected a positive number"),
        ({"image_shape": ["0", "3"]}, "--image_shape: expected two positive numbers"),
    ],
)
def test_wrong_flags_are_named(scan, tmp_path, flags, words):
    options = {"output": "a.h5"} | flags
    with pytest.raises(ValueError, match=words):
        output(scan, tmp_path, options.pop("output"), **options)
    assert not list(tmp_path.iterdir())
