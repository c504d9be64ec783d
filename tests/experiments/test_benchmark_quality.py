"""The comparison with BART and sigpy: rows of a small scan, masks, and errors of its user."""

import dataclasses
import json
import shutil
import sys

import h5py
import numpy as np
import pytest

import operators
from experiments.benchmark_quality import QualityOptions, climb, run
from experiments.pipeline import quality_solvers
from experiments.pipeline.quality_cases import cases, draw_mask
from experiments.pipeline.quality_report import markdown, summary
from fedrecon.data import FastMRIVolume, write_fastmri
from fedrecon.training.options import FlagError

SHAPE = (32, 32)

# Answers as `sigpy_worker` does: the zero-filled image, and an error of total variation.
WORKER = """
import json, sys
import numpy as np
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    given = json.loads(line)
    if given["method"] == "total-variation":
        print(json.dumps({"error": "TypeError: on\\npurpose"}), flush=True)
        continue
    k, maps = np.load(given["kspace"]), np.load(given["maps"])
    axes = (-2, -1)
    coils = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(k, axes), norm="ortho"), axes)
    np.save(given["image"], np.abs(np.sum(maps.conj() * coils, 0)))
    print(json.dumps({"seconds": 2.0}), flush=True)
"""


@pytest.fixture
def scan(tmp_path):
    maps = np.asarray(operators.mri.birdcage_maps(SHAPE, 4))
    phantom = np.asarray(operators.rasterize(operators.shepp_logan(), SHAPE))
    kspace = np.asarray(operators.fft2c(maps * phantom))
    write_fastmri(tmp_path / "head.h5", FastMRIVolume(kspace[None].astype(np.complex64)))
    return tmp_path


@pytest.fixture
def no_bart(monkeypatch):
    monkeypatch.setattr(quality_solvers.shutil, "which", lambda name: None)


def program_of(path, text):
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return str(path)


def options(folder, **changes):
    given = {"scans": ["head"], "masks": ["random-2d"], "accelerations": ["2"], "methods": ["cg-sense"]}
    return QualityOptions(data=str(folder), **(given | changes))


def test_rows_hold_the_best_weight_the_default_and_what_is_missing(scan, no_bart, capsys):
    given = options(scan, json=str(scan / "rows.json"), table=str(scan / "rows.md"))
    rows = run(dataclasses.replace(given, sigpy_python=str(scan / "nobody")))
    assert json.loads((scan / "rows.json").read_text())["rows"] == rows
    default, best, bart, sigpy = rows
    assert default["default"] and default["weight"] > 0 and default["first_seconds"] >= default["seconds"] > 0
    assert best["psnr"] == max(best["tried"].values()) > 20 and len(best["tried"]) >= 2
    assert best["psnr"] >= default["psnr"] - 0.5 and 0 < best["ssim"] <= 1 and 0 < best["nrmse"] < 1
    assert bart["missing"] == "no program bart in the path" and "nobody" in sigpy["missing"]
    printed = capsys.readouterr().out
    assert "not computed: no program bart" in printed and "2 rows, 2 not computed" in printed
    assert (scan / "rows.md").read_text() == markdown(rows)
    # A run that continues takes the rows as they are.
    assert run(options(scan, finished=[str(scan / "rows.json")], sigpy_python=str(scan / "nobody"))) == rows


def test_programs_that_fail_leave_the_rest_of_the_rows(scan, monkeypatch):
    program_of(scan / "bart", "import sys; sys.exit('no kernel\\nfits')")
    monkeypatch.setenv("PATH", str(scan))
    python = program_of(scan / "python", WORKER)
    given = options(scan, methods=["l1-wavelet", "total-variation"], libraries=["bart", "sigpy"])
    bart, good, *others = run(dataclasses.replace(given, sigpy_python=python))
    assert bart["missing"] == "bart pics: no kernel fits"
    assert [row["missing"] for row in others] == [bart["missing"], "sigpy: TypeError: on purpose"]
    # Its own seconds and those of the maps.
    assert good["seconds"] > 2 and good["psnr"] > 10 and good["maps"] == "fedrecon"


def test_magnitudes_of_a_group_become_coils_with_noise(tmp_path):
    with h5py.File(tmp_path / "heads.h5", "w") as file:
        file["site/image"] = 200 * np.arange(3)[:, None, None] * np.ones((3, 40, 40), np.int16)
    ((_, case),) = cases(str(tmp_path), ["heads:site"], ["random-2d"], [2.0])
    # The middle image over its largest value, in 8 coils whose maps have unit length, and noise.
    scale = case.prepared.scale
    assert case.kspace.shape == (8, 40, 40) and 1 < scale < 1.2
    assert case.reference.mean() * scale == pytest.approx(np.sqrt(1 + 8 * 2e-4), abs=2e-3)
    with pytest.raises(ValueError, match=r"other.*site"):
        next(cases(str(tmp_path), ["heads:other"], ["random"], [2.0]))


def test_walks_end_at_the_highest_of_one_hill():
    heights = [0, 1, 3, 7, 6, 5, 2]
    visited = []

    def value(index):
        visited.append(index)
        return heights[index]

    assert [climb(value, 7, start) for start in range(7)] == [3] * 7
    assert set(visited) == set(range(7)) and climb(lambda index: index, 5, 0) == 4


def test_single_samples_are_drawn_to_the_factor():
    mask = draw_mask("random-2d", (60, 50), 5)
    assert mask.sum() == 600 and mask[22:38, 17:33].all()
    assert not mask.all(0).any() and not mask.all(1).any()


def test_the_summary_counts_cases_within_the_goal():
    def row(case, library, maps, default, psnr):
        scores = {"psnr": psnr, "ssim": 0.5, "nrmse": 0.25, "seconds": 1.25}
        return {"case": case, "method": "tgv", "library": library, "maps": maps, "default": default} | scores

    rows = [
        row("a", "fedrecon", "fedrecon", True, 29.75),
        row("a", "fedrecon", "fedrecon", False, 30.5),
        row("a", "bart", "bart", False, 30.0),
        row("b", "fedrecon", "fedrecon", True, 29.5),
        row("b", "fedrecon", "fedrecon", False, 29.8),
        row("b", "bart", "bart", False, 30.0),
    ]
    default, best = summary(rows)
    assert "-0.38 dB" in default and "-0.50 dB (b), 1 of 2" in default
    assert "+0.15 dB" in best and "-0.20 dB (b), 1 of 2" in best
    lines = markdown(rows).splitlines()
    assert lines[0] == "| case | method | ours, default | ours | BART |"
    assert lines[2] == "| a | tgv | 29.8 .50 .250 1.2 | 30.5 .50 .250 1.2 | 30.0 .50 .250 1.2 |"


@pytest.mark.parametrize(
    "changes",
    [
        {"masks": ["spiral"]},
        {"accelerations": ["1"]},
        {"scans": ["nobody"]},
        {"json": "/nowhere/a.json"},
        {"table": "/nowhere/a.md"},
        {"finished": ["/nowhere/a.json"]},
    ],
)
def test_flags_that_do_not_fit_are_named(scan, changes):
    with pytest.raises(FlagError, match=f"--{next(iter(changes))}"):
        run(options(scan, **changes))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bart") is None, reason="needs bart")
def test_bart_finds_the_least_squares_that_we_find(scan):
    """With the same maps and weight the images agree."""
    ((_, case),) = cases(str(scan), ["head"], ["random-2d"], [2.0])
    maps = quality_solvers.our_maps(case)
    ours = quality_solvers.solve_ours(case, maps, "cg-sense", 1e-3).image
    theirs = quality_solvers.solve_bart(case, maps, "cg-sense", 1e-3).image
    assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(ours)
