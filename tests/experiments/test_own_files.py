"""Own files through the programs: classes by name, faults leave nothing, results say what was skipped."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from experiments import compare, export, predict
from experiments.pipeline.cohorts import load_cohorts
from experiments.pipeline.federated_data import load_data, number_of_classes
from experiments.pipeline.federated_run import print_results
from experiments.pipeline.federated_run import run as run_federated
from experiments.pipeline.federated_settings import resolve
from experiments.pipeline.run import run
from experiments.pipeline.settings import resolve as resolve_full_stack
from fedrecon.data import FastMRIVolume, read_cohort, write_dicom, write_fastmri
from fedrecon.data.formats import centered_affine
from fedrecon.runtime import Workdir
from fedrecon.training import FlagError, flat, named_task, read_results
from fedrecon.weights import read_weights
from tests.data.hospital_files import (
    centered_fft,
    disc,
    save_nifti,
    write_manifest,
    write_mri,
    write_nifti,
    write_pictures,
)
from tests.data.raw_files import write_parallel

ROOT = Path(__file__).resolve().parents[2]


def test_classes_are_those_of_the_labels_and_must_stay_so(tmp_path):
    write_nifti(tmp_path, {"a": (8, 8), "b": (8, 8)}, labels=("x", "y", "z"))
    settings = resolve({"data_dir": str(tmp_path), "data_labels": "x|y|z", "image_size": 16, "pools": 1})
    data = load_data(settings)
    assert number_of_classes(settings) == 3 and data.train.examples["image"].shape[2:] == (16, 16, 1)
    expected = read_cohort(tmp_path, "classification", matrix=(16, 16)).train
    np.testing.assert_array_equal(data.train.examples["label"], expected.examples["label"])
    with pytest.raises(
        FlagError, match=r"--data_dir: expected the 2 labels that there were .*, found x, y, z"
    ):
        load_data(resolve({"data_dir": str(tmp_path), "data_labels": "x|y", "pools": 1}))


@pytest.mark.slow
def test_the_full_stack_takes_kspace_with_masks_and_names_what_takes_it_without(tmp_path):
    with_masks = tmp_path / "masks"
    for site in ("a", "b"):
        (with_masks / site).mkdir(parents=True)
        for patient in range(3):
            lesion = disc(16, 16, 0.1 * patient, 0.3)
            noise = 0.05 * np.random.default_rng([patient, ord(site)]).normal(size=(1, 2, 16, 16))
            kspace = centered_fft(disc(16, 16) + lesion + noise).astype(np.complex64)
            mask = lesion[None].astype(np.uint8)
            write_fastmri(with_masks / site / f"p{patient}.h5", FastMRIVolume(kspace, segmentation=mask))
    given = {"preset": "smoke", "data_labels": "without|with"}
    cohorts = load_cohorts(resolve_full_stack(given | {"data_dir": str(with_masks)}))
    assert cohorts.shared_images and [row[0] for row in cohorts.sites] == ["site", "a", "b"]
    marked = cohorts.segmentation.train.examples["segmentation"].sum((2, 3))
    assert (marked > 0).all()
    assert cohorts.left_out == {"classification": "all slices for training have one label, with"}
    assert cohorts.classification is None and "no stage of classification: all" in cohorts.notes[-1]
    sinograms = tmp_path / "ct" / "a"
    sinograms.mkdir(parents=True)
    for patient in range(3):
        write_parallel(sinograms / f"p{patient}.h5", [[(patient, 0, 9, 0.02)]])
    with pytest.raises(FlagError, match=r"--data_dir: expected k-space; .*train_federated .* of sinograms"):
        load_cohorts(resolve_full_stack(given | {"data_dir": str(tmp_path / "ct")}))


@pytest.mark.slow
@pytest.mark.parametrize("labels", [False, True])
def test_the_full_stack_leaves_out_what_there_are_no_masks_or_labels_for(tmp_path, labels):
    data = write_mri(tmp_path / "data", {"a": (2, 16, 16), "b": (2, 16, 16)}, patients=6)
    if labels:
        rows = [f"{site}/p{p},{'cyst' if p % 2 else 'normal'}" for site in "ab" for p in range(6)]
        (data / "labels.csv").write_text("patient,label\n" + "\n".join(rows))
    names = "cyst|normal" if labels else "without|with"
    settings = {"preset": "smoke", "start": "random", "data_dir": str(data), "data_labels": names}
    settings = resolve_full_stack(settings | {"comparators": False, "finetune_comparators": False})
    with Workdir(tmp_path / "run", flat(settings), {}) as workdir:
        outcome = run(settings, workdir)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    page = (tmp_path / "run" / "report.html").read_text()
    assert outcome.segmentation is None and results["segmentation"] is None
    assert "There is no stage of segmentation: not every file has a mask" in page
    assert set(outcome.tests) == {"reconstruction", *(["classification"] * labels)}
    assert [t.stage for t in outcome.traffic] == [f"{stage}/federated" for stage in outcome.tests]
    if labels:
        assert results["classification"]["scores"]["federated"]["overall"]["positives"] > 0
        assert "Classification tells normal (positive) from cyst." in page
    else:
        assert results["classification"] is None and "no stage of classification: not every file" in page


@pytest.mark.slow
def test_faults_leave_nothing_and_skipped_files_are_in_the_results(tmp_path):
    data = write_mri(tmp_path / "data", {"a": (2, 16, 16), "b": (1, 16, 16)})
    (data / "a" / "p1.h5").write_bytes(b"")

    def run(program, *arguments):
        flags = [
            f"--data_dir={data}",
            "--preset=smoke",
            f"--workdir={tmp_path / 'runs' / program}",
            *arguments,
        ]
        command = [sys.executable, "-m", f"experiments.{program}", *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    for program, task in (("train_federated", 1), ("full_stack", 0)):
        found = run(program, *["--task=reconstruction"][:task])
        assert found.returncode == 1 and not (tmp_path / "runs" / program).exists()
        assert f"{data}/a/p1.h5: expected an HDF5 file, found an empty file" in found.stderr
        assert found.stderr.count("\n") == 1
    found = run("train_federated", "--task=reconstruction", "--skip_bad")
    assert found.returncode == 0 and "1 skipped (--skip_bad)" in found.stdout, found.stderr
    results = json.loads((tmp_path / "runs" / "train_federated" / "results.json").read_text())
    assert "a/p1.h5: expected an HDF5 file" in results["notes"]


def unseen_manifest(data, reader, pattern):
    sites = [{"name": name, "reader": reader, "files": [f"{name}/{pattern}"]} for name in ("a", "b", "far")]
    sites[2]["unseen"] = True
    write_manifest(data, sites, patients_numbered_by_site=True)
    return str(data)


@pytest.mark.slow
def test_an_unseen_site_is_scored_by_what_is_handed_out(tmp_path, capsys):
    data = write_pictures(tmp_path / "data", {"a": (8, 8), "b": (8, 8), "far": (8, 8)})
    unseen_manifest(data, "picture", "images/*.png")
    given = {"task": "segmentation", "data_dir": str(data), "preset": "smoke", "rounds": 1}
    settings = resolve(given | {"data_labels": "without|with"})
    planned = compare.plan(
        settings, ["fedavg", "local_only"], {name: () for name in ("fedavg", "local_only")}
    )
    with Workdir(tmp_path / "run", {}, {}) as workdir:
        compare.compare(planned, [0], workdir, baseline="fedavg", metric="loss", parallel="vmap")
        table = json.loads((tmp_path / "run" / "comparison.json").read_text())
    rows = {(row["method"], row["model"]): row["interval"]["mean"] for row in table["rows"]}
    results = json.loads((tmp_path / "run" / "fedavg" / "seed-0" / "results.json").read_text())
    assert list(results["released"]) == ["a", "b"] and list(results["unseen"]) == ["far"]
    assert rows["fedavg", "unseen site"] == pytest.approx(results["unseen"]["far"]["loss"])
    # The released network, and the mean of both networks of the sites, applied here.
    apart = read_cohort(data, "segmentation").unseen
    batch = {name: x[0] for name, x in apart.examples.items()} | {"valid": apart.valid[0]}
    task = named_task("segmentation", batch, channels=4, pools=1)
    folder = tmp_path / "run" / "fedavg" / "seed-0" / "models"
    variables, _ = read_weights(folder / "fedavg.npz")
    total, count = task.metrics(*variables, batch)["loss"]
    assert float(total / count) == pytest.approx(rows["fedavg", "unseen site"], rel=1e-4)
    assert ("local_only", "unseen site") in rows
    with Workdir(folder.parent, flat(planned["fedavg"]), {}) as workdir:
        print_results(settings, *read_results(workdir))
    assert "far (unseen)" in capsys.readouterr().out


@pytest.mark.slow
def test_the_full_stack_has_an_unseen_site(tmp_path):
    data = write_mri(tmp_path / "data", {"a": (2, 16, 16), "b": (2, 16, 16), "far": (1, 16, 16)})
    given = {"preset": "smoke", "data_labels": "without|with"}
    cohorts = load_cohorts(resolve_full_stack(given | {"data_dir": unseen_manifest(data, "mri", "*.h5")}))
    assert cohorts.reconstruction.unseen.names == ("far",) and cohorts.sites[-1][0] == "far (unseen)"
    assert cohorts.sites[-1][-3:] == ["0", "0", "4"] and "far takes no part" in cohorts.notes[0]


@pytest.mark.slow
def test_several_structures_are_trained_scored_and_marked_by_name(tmp_path, capsys):
    highdicom = pytest.importorskip("highdicom")
    rng = np.random.default_rng(0)
    for site in ("a", "b"):
        (tmp_path / "data" / site).mkdir(parents=True)
        for patient in range(4):
            mask = disc(16, 16, 0.1 * patient, 0.8) + disc(16, 16, 0.1 * patient, 0.4)
            values = 100 * mask + 5 * rng.normal(size=mask.shape)
            for name, image in (("", values), ("_mask", mask)):
                save_nifti(tmp_path / "data" / site / f"p{patient}{name}.nii.gz", image.T[..., None])
    sites = [{"name": name, "reader": "nifti", "files": [f"{name}/*.nii.gz"]} for name in ("a", "b")]
    rule = {"rule": "window", "low": 0, "high": 200}
    members = {"labels": ["wall", "cavity"], "intensity": rule, "patients_numbered_by_site": True}
    data = write_manifest(tmp_path / "data", sites, **members)
    given = {"task": "segmentation", "data_dir": str(data), "preset": "smoke", "rounds": 60, "epochs": 3}
    given |= {"optimizer": "adam", "learning_rate": 0.01, "data_labels": "wall|cavity"}
    settings = resolve(given | {"data_structures": "wall|cavity"})
    with Workdir(tmp_path / "run", flat(settings), {}) as workdir:
        found, cost = run_federated(settings, workdir, parallel="vmap", rounds_per_dispatch=20)
    print_results(settings, found, cost)
    assert "cavity" in capsys.readouterr().out and found.released["a"]["dice_2"] > 0.8
    export.run(str(tmp_path / "run"), str(tmp_path / "export"))
    (record,) = predict.run(str(tmp_path / "export"), str(data / "a/p0.nii.gz"), str(tmp_path / "m.nii.gz"))
    truth = np.asarray(nibabel.load(data / "a/p0_mask.nii.gz").dataobj)
    marked = np.asarray(nibabel.load(tmp_path / "m.nii.gz").dataobj)
    assert (np.sort(marked.ravel()) != np.sort(truth.ravel())).mean() < 0.1 and marked.max() == 2
    assert list(record["pixels_by_class"]) == ["wall", "cavity"]
    image = 100 * (disc(16, 16, 0, 0.8) + disc(16, 16, 0, 0.4))[None].astype(np.float32)
    write_dicom(tmp_path / "series", image, centered_affine((1, 16, 16), (3, 1, 1)), "MR")
    predict.run(str(tmp_path / "export"), str(tmp_path / "series"), str(tmp_path / "m.dcm"))
    segments = highdicom.seg.segread(tmp_path / "m.dcm")
    names = [segments.get_segment_description(i).segment_label for i in segments.segment_numbers]
    assert names == ["wall", "cavity"]
    with pytest.raises(FlagError, match=r"--threshold: expected none .* several structures"):
        predict.run(str(tmp_path / "export"), str(tmp_path / "series"), str(tmp_path / "n.dcm"), None, 0.5)
