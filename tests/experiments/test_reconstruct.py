"""The reconstruct command: methods against known images, formats of the output, and errors of its user."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from matplotlib.image import imread

import operators
from experiments import reconstruct as program
from experiments.reconstruct import ReconstructOptions, run
from fedrecon.classical import METHODS, prepare, undersample
from fedrecon.classical_maps import calibration_block
from fedrecon.data import (
    RawMeasurement,
    read_measurement,
    write_ismrmrd,
)
from tests.experiments.scans import MAPS, PHANTOM, SHAPE, error, images, write_phantom, write_spokes


@pytest.mark.parametrize("method", METHODS)
def test_every_method_reconstructs_the_phantom(tmp_path, method):
    """Twice undersampled: closer to the truth than the zero-filled image."""
    write_phantom(tmp_path / "k.h5")
    sampling = {"acceleration": 2.0, "mask": "equispaced", "center_fraction": 0.4}
    image, record = images(tmp_path / "k.h5", method=method, coil_maps="calibration", **sampling)
    assert image.shape == (1, *SHAPE) and image.dtype in (np.complex64, np.float32)
    assert record["method"] == method and record["format"] == "fastMRI" and record["source"] == "k.h5"
    weight = json.loads(record["settings"])["weight"]
    if METHODS[method].choose:
        assert weight is None and record["weights"].shape == (1,) and record["weights"][0] > 0
    else:
        assert weight > 0 if METHODS[method].noise_weight else weight == METHODS[method].weight
    kspace = np.asarray(operators.fft2c(MAPS * PHANTOM))
    mask = np.asarray(operators.equispaced_mask(32, 2, 0.4))
    zero_filled = np.asarray(operators.rss(operators.ifft2c(kspace * mask)))
    assert record["acceleration"] == pytest.approx(32 / mask.sum())
    if method == "rss":
        np.testing.assert_allclose(image[0], zero_filled, atol=1e-5)
    elif method == "gridding":
        maps = operators.mri.estimate_coil_maps(kspace * mask, (24, 13))
        combined = operators.mri.coil_combine(operators.ifft2c(kspace * mask), maps)
        np.testing.assert_allclose(image[0], combined, atol=1e-5)
    else:
        assert error(image[0], PHANTOM) < 0.7 * error(zero_filled, PHANTOM)
    mse = np.mean((np.abs(image[0]) - PHANTOM) ** 2)
    assert record["psnr"] == pytest.approx(10 * np.log10(PHANTOM.max() ** 2 / mse), abs=0.02)
    assert record["nmse"] == pytest.approx(mse / np.mean(PHANTOM**2), rel=1e-3)


@pytest.mark.parametrize("coil_maps", ["walsh", "espirit"])
def test_coil_maps_of_every_kind_serve(tmp_path, coil_maps):
    write_phantom(tmp_path / "k.h5", mask=np.asarray(operators.equispaced_mask(32, 2, 0.5)) > 0)
    image, record = images(tmp_path / "k.h5", method="cg-sense", coil_maps=coil_maps)
    assert error(image[0], PHANTOM) < 0.12
    assert "psnr" not in record


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gridding", "cg-sense"])
def test_spokes_become_an_upright_image(tmp_path, method):
    write_spokes(tmp_path / "r.h5")
    image, _ = images(tmp_path / "r.h5", method=method, coil_maps="calibration")
    # The corners of k-space are not measured: compare with the phantom without them.
    k = np.hypot(*np.meshgrid(np.arange(32) - 16, np.arange(32) - 16)) < 16
    disc = np.abs(operators.ifft2c(k * operators.fft2c(PHANTOM)))
    assert error(image[0], disc) < 0.12
    for other in (image[0].T, image[0][::-1], image[0][:, ::-1]):
        assert error(other, disc) > 0.2


def test_the_unit_of_the_scanner_is_kept(tmp_path):
    found = []
    for scale in (1e-6, 1e4):
        write_phantom(tmp_path / "k.h5", scale)
        image, record = images(tmp_path / "k.h5", method="cg-sense", coil_maps="calibration")
        assert record["scale"] == pytest.approx(scale * PHANTOM.max(), rel=1e-4)
        found.append(np.abs(image[0]) / scale)
    np.testing.assert_allclose(*found, atol=1e-3)
    assert error(found[0], PHANTOM) < 0.05


def test_noise_scans_whiten_the_coils(tmp_path):
    """The image is the signal in standard deviations of the noise: sqrt(c^H C^-1 c) for coil images c."""
    pytest.importorskip("ismrmrd")
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(4, 4)) + 1j * rng.normal(size=(4, 4))
    noise = (mix @ (rng.normal(size=(4, 999)) + 1j * rng.normal(size=(4, 999)))).astype(np.complex64)
    kspace = np.asarray(operators.fft2c(MAPS * PHANTOM))[None].astype(np.complex64)
    write_ismrmrd(tmp_path / "m.mrd", RawMeasurement(kspace, SHAPE, noise=noise))
    image, record = images(tmp_path / "m.mrd", method="rss")
    coils = (MAPS * PHANTOM).reshape(4, -1)
    inverse = np.linalg.inv(noise @ noise.conj().T / 999)
    power = np.einsum("an,ab,bn->n", coils.conj(), inverse, coils).real
    np.testing.assert_allclose(image[0].ravel(), np.sqrt(np.maximum(power, 0)), atol=1e-3 * image.max())
    assert record["whitened"]
    image, record = images(tmp_path / "m.mrd", method="rss", whiten=False)
    np.testing.assert_allclose(image[0], PHANTOM, atol=1e-4)
    assert not record["whitened"]


def test_the_default_weight_is_said_to_be_for_the_maps_of_espirit(tmp_path, capsys):
    write_phantom(tmp_path / "k.h5")
    for options, told in (
        ({"coil_maps": "calibration"}, True),
        ({"coil_maps": "calibration", "weight": 1e-2}, False),
        ({"coil_maps": "espirit"}, False),
    ):
        images(tmp_path / "k.h5", method="cg-sense", **options)
        assert ("maps of the calibration block need a larger --weight" in capsys.readouterr().out) == told


def test_a_separate_calibration_scan_gives_the_maps(tmp_path):
    """Every second line and no center: what is measured alone could not tell the maps."""
    pytest.importorskip("ismrmrd")
    kspace = np.asarray(operators.fft2c(MAPS * PHANTOM))[None].astype(np.complex64)
    center = np.abs(np.arange(32) - 15.5) < 8
    mask = np.arange(32) % 2 == 1
    raw = RawMeasurement(kspace * mask, SHAPE, mask=mask[None], calibration=kspace * center)
    write_ismrmrd(tmp_path / "m.mrd", raw)
    for method in ("cg-sense", "grappa"):
        image, _ = images(tmp_path / "m.mrd", method=method, coil_maps="calibration", weight=3e-3)
        assert error(image[0], PHANTOM) < 0.15
    write_ismrmrd(tmp_path / "m.mrd", RawMeasurement(kspace * mask, SHAPE, mask=mask[None]))
    with pytest.raises(ValueError, match="--coil_maps: expected a fully sampled center"):
        images(tmp_path / "m.mrd", method="cg-sense")


def test_images_are_written_as_nifti_and_png(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    pytest.importorskip("ismrmrd")
    kspace = np.asarray(operators.fft2c(MAPS * PHANTOM)).astype(np.complex64)
    stack = np.stack([kspace, 2 * kspace, 0 * kspace])
    mask = np.ones((3, 32), bool)
    raw = RawMeasurement(stack, SHAPE, mask=mask, field_of_view=(5.0, 64.0, 96.0))
    write_ismrmrd(tmp_path / "m.mrd", raw)
    for name in ("a.nii", "a.nii.gz", "a.png"):
        run(ReconstructOptions(str(tmp_path / "m.mrd"), str(tmp_path / name), method="rss"))
    for name in ("a.nii", "a.nii.gz"):
        volume = nibabel.load(tmp_path / name)
        assert volume.shape == (32, 32, 3) and volume.header.get_zooms() == (3.0, 2.0, 5.0)
        np.testing.assert_allclose(volume.get_fdata()[..., 1].T, 2 * PHANTOM, atol=1e-4)
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes()) == (tmp_path / "a.nii").read_bytes()
    page = imread(tmp_path / "a.png")[..., 0]
    assert page.shape == (64, 64)
    bright = np.percentile(np.stack([PHANTOM, 2 * PHANTOM, 0 * PHANTOM]), 99.5)
    np.testing.assert_allclose(page[:32, 32:], np.clip(2 * PHANTOM / bright, 0, 1), atol=0.01)
    np.testing.assert_allclose(page[:32, :32], np.clip(PHANTOM / bright, 0, 1), atol=0.01)
    assert not page[32:].any()
    assert sorted(os.listdir(tmp_path)) == ["a.nii", "a.nii.gz", "a.png", "m.mrd"]


def test_wrong_options_are_refused_by_name(tmp_path):
    source, output = write_phantom(tmp_path / "k.h5"), str(tmp_path / "o.h5")
    spokes = write_spokes(tmp_path / "r.h5")
    half = write_phantom(tmp_path / "half.h5", mask=np.arange(32) % 2 == 0)
    for options, found in (
        (ReconstructOptions(source, str(tmp_path / "o.jpg")), r"--output: .*ending in .*found 'o\.jpg'"),
        (ReconstructOptions(source, str(tmp_path / "absent" / "o.h5")), "--output: .*existing folder"),
        (ReconstructOptions(source, source), "--output: .*another file"),
        (ReconstructOptions(source, output, method="magic"), "--method: .*cg-sense.*found 'magic'"),
        (ReconstructOptions(source, output, coil_maps="magic"), "--coil_maps: .*espirit.*found 'magic'"),
        (
            ReconstructOptions(source, output, method="rss", weight=1.0),
            "--weight: expected none, rss has none",
        ),
        (
            ReconstructOptions(source, output, acceleration=8.0, center_fraction=0.5),
            "--acceleration: .*center_fraction",
        ),
        (
            ReconstructOptions(half, output, acceleration=2.0),
            "--acceleration: expected fully sampled .* found 50.0%",
        ),
        (ReconstructOptions(spokes, output, acceleration=2.0), "--acceleration: .*found a trajectory"),
        (
            ReconstructOptions(spokes, output, method="grappa"),
            "--method: expected Cartesian sampling with grappa",
        ),
        (
            ReconstructOptions(source, output, image_shape=["8"]),
            "--image_shape: expected rows,columns, found 8",
        ),
        (ReconstructOptions(source, output, trajectory="t.cfl"), "trajectory: expected none"),
        (ReconstructOptions(write_phantom(tmp_path / "zero.h5", 0.0), output), "--input: expected a signal"),
    ):
        with pytest.raises(ValueError, match=found):
            run(options)
    assert not Path(output).exists()
    assert not any(name.startswith(".") for name in os.listdir(tmp_path))


def command(*arguments, patch=""):
    code = f"import experiments.reconstruct as r\n{patch}\nr.define_flags()\nr.run_program(r.main)"
    start = ["-c", code] if patch else ["-m", "experiments.reconstruct"]
    return subprocess.run(
        [sys.executable, *start, *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=Path(program.__file__).parents[1],
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_command_says_what_it_did_or_what_is_wrong_in_one_line(tmp_path):
    source, output = write_phantom(tmp_path / "k.h5", slices=2), tmp_path / "o.png"
    result = command(
        f"--input={source}", f"--output={output}", "--method=rss", "--acceleration=2", "--center_fraction=0.2"
    )
    assert result.returncode == 0 and output.stat().st_size > 200, result.stderr
    assert "2 slices, 4 coils, 32 x 32" in result.stdout and "PSNR" in result.stdout
    assert not result.stderr.strip()
    (tmp_path / "bad.h5").write_text("no measurement")
    result = command(f"--input={tmp_path / 'bad.h5'}", f"--output={tmp_path / 'none.png'}")
    assert result.returncode == 1
    assert result.stderr.strip().count("\n") == 0 and "bad.h5: expected an HDF5 file" in result.stderr


@pytest.mark.slow
def test_an_interrupted_command_leaves_nothing(tmp_path):
    source = write_phantom(tmp_path / "k.h5")
    patch = "def stop(*_): raise KeyboardInterrupt\nimport h5py; h5py.File.attrs = property(stop)"
    result = command(f"--input={source}", f"--output={tmp_path / 'o.h5'}", "--method=rss", patch=patch)
    assert result.returncode == 130 and "Interrupted" in result.stderr
    assert os.listdir(tmp_path) == ["k.h5"]


def test_the_calibration_block_is_the_largest_sampled_center():
    mask = np.zeros((16, 12), bool)
    assert calibration_block(mask, 24) == (0, 0)
    mask[:, 4:8] = True
    assert calibration_block(mask, 24) == (16, 4)
    assert calibration_block(mask, 6) == (6, 4)
    mask[6:11] = True
    assert calibration_block(mask, 24) == (5, 12)
    mask[8, 6] = False
    assert calibration_block(mask, 24) == (0, 0)


def test_undersampling_removes_the_samples_left_out(tmp_path):
    prepared = prepare(read_measurement(write_phantom(tmp_path / "k.h5")))
    mask = np.arange(32) % 2 == 0
    kept = undersample(prepared, mask).measurement
    assert not kept.kspace[..., ~mask].any() and not kept.mask[..., ~mask].any()
    np.testing.assert_array_equal(kept.kspace[..., mask], prepared.measurement.kspace[..., mask])


def test_measured_samples_become_the_published_image(tmp_path, measured_data):
    path = measured_data("mri/brain_8ch_poisson.h5")
    run(ReconstructOptions(str(path), str(tmp_path / "o.h5"), method="rss"))
    with h5py.File(tmp_path / "o.h5") as found, h5py.File(path) as published:
        np.testing.assert_allclose(found["image"][()], published["reconstruction_rss"][()], atol=1e-4)


@pytest.mark.slow
def test_measured_coils_unfold_lines_left_out(tmp_path, measured_data):
    path = measured_data("mri/brain_cimax3t_16ch.h5")
    psnr = {}
    for method in ("rss", "cg-sense"):
        run(
            ReconstructOptions(
                str(path),
                str(tmp_path / "o.h5"),
                method=method,
                coil_maps="walsh",
                acceleration=4.0,
                mask="equispaced",
                center_fraction=0.2,
            )
        )
        with h5py.File(tmp_path / "o.h5") as file:
            psnr[method] = file.attrs["psnr"]
    assert psnr["cg-sense"] > psnr["rss"] + 1.5


@pytest.mark.slow
def test_measured_spokes_show_the_object_in_the_middle_of_the_oversampled_view(tmp_path, measured_data):
    run(
        ReconstructOptions(
            str(measured_data("mri/phantom_radial33_17ch.h5")), str(tmp_path / "o.h5"), method="rss"
        )
    )
    with h5py.File(tmp_path / "o.h5") as file:
        image = file["image"][()]
        reconstructed = file.attrs["notes"]
    assert image.shape == (3, 128, 128) and np.isfinite(image).all()
    for one in image:
        bright = one > 0.3 * one.max()
        assert bright.sum() > 400 and bright[8:120, 8:120].sum() > 0.95 * bright.sum()
    assert "128 of 256 pixels" in reconstructed and "gradient delays of 0." in reconstructed
