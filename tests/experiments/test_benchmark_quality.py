"""The comparison with BART and sigpy: rows of a small scan, masks, and errors of its user."""

import json
import shutil

import numpy as np
import pytest

import operators
from experiments import benchmark_quality as program
from experiments.benchmark_quality import QualityOptions, draw_mask, run
from fedrecon.data import FastMRIVolume, write_fastmri
from fedrecon.training.options import FlagError

SHAPE = (32, 32)


@pytest.fixture
def scan(tmp_path):
    maps = np.asarray(operators.mri.birdcage_maps(SHAPE, 4))
    phantom = np.asarray(operators.rasterize(operators.shepp_logan(), SHAPE))
    kspace = np.asarray(operators.fft2c(maps * phantom))
    write_fastmri(tmp_path / "head.h5", FastMRIVolume(kspace[None].astype(np.complex64)))
    return tmp_path


def options(folder, **changes):
    given = {"scans": ["head"], "masks": ["random-2d"], "accelerations": ["2"], "methods": ["cg-sense"]}
    return QualityOptions(data=str(folder), **(given | changes))


def test_rows_hold_the_best_weight_the_default_and_what_is_missing(scan, monkeypatch, capsys):
    monkeypatch.setattr(program, "missing", lambda library: None if library == "fedrecon" else "not here")
    rows = run(options(scan, json=str(scan / "rows.json"), libraries=["fedrecon", "bart"]))
    assert json.loads((scan / "rows.json").read_text())["rows"] == rows
    best, default, absent = rows
    assert best["weight"] in program.WEIGHTS["cg-sense"] and best["weights"] == 5
    assert default["weight"] is None and best["psnr"] >= default["psnr"] - 1e-3 and best["psnr"] > 20
    assert 0 < best["ssim"] <= 1 and 0 < best["nrmse"] < 1 and best["seconds"] > 0
    assert absent["missing"] == "not here" and "left out: not here" in capsys.readouterr().out


def test_single_samples_are_drawn_to_the_factor():
    mask = draw_mask("random-2d", (60, 50), 5)
    assert mask.sum() == 600 and mask[22:38, 17:33].all()
    assert not mask.all(0).any() and not mask.all(1).any()


@pytest.mark.parametrize(
    "changes",
    [{"masks": ["spiral"]}, {"accelerations": ["1"]}, {"scans": ["nobody"]}, {"json": "/nowhere/a.json"}],
)
def test_flags_that_do_not_fit_are_named(scan, changes):
    with pytest.raises(FlagError, match=f"--{next(iter(changes))}"):
        run(options(scan, **changes))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bart") is None, reason="needs bart")
def test_bart_finds_the_least_squares_that_we_find(scan):
    """With the same maps and weight the images agree."""
    case = next(program.cases(options(scan)))
    ours = program.solve_ours(case, None, "cg-sense", 1e-3)
    theirs = program.solve_bart(case, case.maps, "cg-sense", 1e-3)
    assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(ours)
