"""The joint experiment: its cohorts, what its trainings start from, and what it makes of scores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import joint
from experiments.pipeline import heart_groups, joint_report, joint_scores
from experiments.pipeline import joint_training as jt
from experiments.pipeline.joint_data import (
    GROUPS,
    HEARTS,
    JointData,
    ct_views,
    hearts,
    load,
    measure_full,
    random_masks,
    shifted,
)
from experiments.pipeline.joint_runs import Seed, diagnoses, probe, score
from experiments.pipeline.joint_settings import check_settings, resolve
from experiments.pipeline.joint_training import Training, exchanged, make_task, plan, reconstructor
from fedrecon.data import ClientData
from fedrecon.training import released_file
from fedrecon.types import Variables
from fedrecon.weights import write_weights
from operators import ParallelBeam
from operators.ct import filtered_radon

ROOT = Path(__file__).parents[2]


def rows(*values, **other):
    return [
        {"patient": f"p{i}", "site": "s", "dice": v, "psnr": 30.0 + i, **other} for i, v in enumerate(values)
    ]


TRAININGS = [
    Training("rec_only", "rec_only"),
    Training("oracle", "oracle"),
    Training("frozen", "frozen"),
    Training("finetune", "finetune"),
    Training("joint-0.1", "joint", 0.1),
    Training("joint-1", "joint", 1.0),
]


def seeds(joint_psnr=30.0):
    scores = {
        "rec_only": [{"patient": f"p{i}", "site": "s", "psnr": 30.0} for i in range(4)],
        "oracle": rows(0.9, 0.9, 0.8, 1.0),
        "frozen": rows(0.5, 0.7, 0.5, 0.7),
        "finetune": rows(0.6, 0.8, 0.6, 0.8),
        "joint-0.1": [{**row, "psnr": 30.0} for row in rows(0.7, 0.8, 0.7, 0.8)],
        "joint-1": [{**row, "psnr": joint_psnr} for row in rows(0.8, 0.9, 0.8, 0.9)],
    }
    return [Seed(0, None, scores, scores)]


def test_validation_chooses_among_joint_trainings_that_keep_their_images():
    assert joint_report.choose(seeds(29.6), TRAININGS) == {
        "two stages": "finetune",
        "joint": "joint-1",
        "oracle": "oracle",
    }
    assert joint_report.choose(seeds(29.4), TRAININGS)["joint"] == "joint-0.1"


def test_the_gap_is_that_of_mean_dice_over_patients():
    found = joint_report.gap_closure(seeds(), "joint-1", "finetune")
    assert found.value == pytest.approx((0.85 - 0.7) / (0.9 - 0.7))
    assert found.low <= found.value <= found.high
    # One patient missing in one of the three is left out of all.
    missing = seeds()
    missing[0].test["oracle"][3]["dice"] = None
    value = joint_report.gap_closure(missing, "joint-1", "finetune").value
    assert value == pytest.approx((2.5 - 2.0) / (2.6 - 2.0))


def test_the_gap_is_that_to_the_oracle_of_validation():
    longer = Training("oracle-more", "oracle", reader="oracle")
    found = seeds()
    found[0].validation["oracle-more"] = rows(1.0, 1.0, 1.0, 1.0)
    summary = joint_report.summarize(found, [*TRAININGS, longer], {}, {}, {})
    assert summary["chosen"]["oracle"] == "oracle-more"
    assert summary["gap_closure"]["value"] == pytest.approx((0.85 - 0.7) / (1.0 - 0.7))


def test_the_interval_of_the_gap_is_over_seeds_too():
    # All patients alike: only seeds differ, where joint training closes nothing or all of the gap.
    scores = [
        {"oracle": rows(0.9, 0.9), "finetune": rows(0.5, 0.5), "joint-1": rows(value, value)}
        for value in (0.5, 0.9)
    ]
    both = [Seed(i, None, each, each) for i, each in enumerate(scores)]
    found = joint_report.gap_closure(both, "joint-1", "finetune")
    assert found == pytest.approx((0.5, 0.0, 1.0))


def test_joint_images_are_compared_with_the_longest_training_of_images_alone():
    longer = Training("rec_only-more", "rec_only", reconstruction="rec_only")
    found = seeds(29.6)
    found[0].validation["rec_only-more"] = rows(0, 0, 0, 0)
    # Mean PSNR 31.5 of the longer training, 30 of the other: the joint training that loses least is kept.
    assert joint_report.choose(found, [*TRAININGS, longer])["joint"] == "joint-0.1"


SHIFTS = {
    "less, joint: PSNR": 30.0,
    "less, joint: Dice": 0.9,
    "twice, or so, joint: PSNR": 20.0,
    "twice, or so, joint: Dice": float("nan"),
}


def test_what_was_found_is_told_in_tables_sentences_and_a_page(tmp_path):
    probes = {"swap": {"joint images, reader of references": 0.8}}
    diagnosis = {"oracle": {"accuracy": 0.5}, "expert masks": {"accuracy": 0.75}}
    images = {name: {"auc": 0.75, "low": 0.5, "high": 1.0} for name in ("finetune", "joint-1", "oracle")}
    found = joint_report.summarize(seeds(), TRAININGS, probes, diagnosis, images)
    assert found["gap_closure"]["value"] == pytest.approx(0.75) and found["psnr_lost"] == pytest.approx(1.5)
    assert found["trainings"]["oracle"]["per_client"] == {"s": pytest.approx(0.9)}
    text = joint_report.table(found)
    assert "finetune (two stages, chosen)" in text and "joint-1 (joint, chosen)" in text
    assert "closes 75 % of the gap" in joint_report.statements(found)[0]
    # Intervals that overlap, and that do not.
    assert text.count("0.75 (0.50 to 1.00)") == 3
    assert "4 patients do not tell the two apart" in joint_report.statements(found)[1]
    images["finetune"] |= {"auc": 0.3, "high": 0.4, "low": 0.2}
    assert joint_report.statements(found)[1].endswith("stages with 0.30 (0.20 to 0.40).")
    data = JointData(None, None, None, {}, {}, "Notes.")
    page = joint_report.write_page(tmp_path, joint.decoded(found), data, {}, "command").read_text()
    assert "Notes. 1 seed, 4 test patients." in page and "exchanged halves" in page
    # What is exchanged stands next to what is not; shifts have a row each.
    assert "joint, as trained" in page and "two stages, as trained" in page
    shifts = joint_report._tables({**found, "shift": SHIFTS})[-1]
    assert shifts.header == ["test", "joint: PSNR", "joint: Dice"]
    assert shifts.rows == [["less", "30.000", "0.900"], ["twice, or so", "20.000", "–"]]
    axis = joint_report.plot_pareto(found).axes[0]
    # Two strengths, joined, and the lines of oracle and reconstruction.
    assert axis.lines[0].get_xydata().tolist() == [[30.0, 0.75], [30.0, 0.85]] and len(axis.lines) == 3


def test_trainings_come_after_what_they_start_from():
    trainings = plan(("finetune", "joint"), (0.1, 0.3, 1.0), True)
    names = [t.name for t in trainings]
    for number, training in enumerate(trainings):
        assert {training.reconstruction, training.reader} - {""} <= set(names[:number])
    assert (
        names.count("rec_only") == 1
        and "joint-1-warm" in names
        and "joint-0.3-alone" in names
        and "joint-0.3-pooled" in names
    )
    # The reader of the longest two stages and joint training see as many rounds of both networks.
    longer = next(t for t in trainings if t.name == "finetune-more")
    assert longer.reconstruction == "rec_only-more" and longer.reader == "oracle"


def test_joint_training_starts_from_what_is_chosen():
    warm = [t.name for t in plan(("joint",), (1.0, 3.0), False, ("warm",))]
    assert warm == ["rec_only", "oracle", "joint-1-warm", "joint-3-warm"]
    # Comparators are trained anew, next to the federated training that is.
    compared = [t.name for t in plan(("joint",), (1.0, 3.0), True, ("warm",))]
    assert compared[4:] == ["joint-3", "joint-3-alone", "joint-3-pooled", "joint-3-pooled-steps"]


def test_the_federated_training_is_told_as_a_part_of_its_comparators():
    dice, found = {"alone": 0.5, "pooled": 1.0, "pooled-steps": 0.85}, seeds()
    pooled = [Training(f"joint-1-{who}", "joint", 1.0, who=who) for who in dice]
    found[0].test.update({f"joint-1-{who}": rows(*[value] * 4) for who, value in dice.items()})
    summary = joint_report.summarize(found, [*TRAININGS, *pooled], {}, {}, {})
    # Patients have 0.8 or 0.9.
    assert summary["federated_over"]["alone"]["value"] == pytest.approx(1.7)
    assert summary["federated_over"]["pooled"] == pytest.approx({"value": 0.85, "low": 0.8, "high": 0.9})
    assert summary["federated_over"]["pooled-steps"]["value"] == pytest.approx(1.0)
    last = joint_report.statements(summary)[-1]
    assert "100.0 % (94.1 to 105.9 %)" in last and "as many steps as a site takes" in last


def test_pooled_data_of_as_many_steps_have_batches_of_all_sites():
    data = JointData(ClientData({}, np.zeros((5, 2)), tuple("abcde")), None, None, {}, {}, "")
    trainer = jt.Trainer(resolve({"batch_size": 8}), data, None, None, {})
    steps, plain = (Training("", "joint", who=who) for who in ("pooled-steps", "pooled"))
    assert trainer._batch(steps) == 40 and trainer._batch(plain) == 8


def test_exchanged_models_have_one_half_of_each():
    first, second = (
        Variables({"reconstruction": i, "task": i}, {"reconstruction": {}, "task": {}}) for i in (1, 2)
    )
    assert exchanged([first], [second])[0].params == {"reconstruction": 1, "task": 2}


@pytest.mark.slow
def test_training_masks_have_the_acceleration_of_their_time():
    batch = {"mask": jnp.ones((3, 32, 32)), "progress": jnp.asarray([0.1, 0.1, 0.1])}
    early = random_masks(8.0, True)(jax.random.key(0), batch)["mask"]
    late = random_masks(8.0, True)(jax.random.key(0), {**batch, "progress": jnp.ones(3)})["mask"]
    assert early[:, 0].sum(1).tolist() == [8, 8, 8] and late[:, 0].sum(1).tolist() == [4, 4, 4]
    assert not (late[0] == late[1]).all() and (late[:, 0] == late[:, 5]).all()


@pytest.mark.parametrize(("size", "acceleration"), [(16, 4.0), (32, 8.0)])
def test_data_steps_of_ct_are_conditioned_as_those_of_mri(size, acceleration):
    settings = resolve({"data": "ct", "image_size": size, "acceleration": acceleration})
    weight = reconstructor(settings).weight
    views = ct_views(acceleration)
    angles = jnp.pi * jnp.arange(views) / views
    A = filtered_radon(ParallelBeam(angles, 3 * size // 2), (size, size))
    image = jax.random.normal(jax.random.key(0), (size, size))
    gram = jax.jit(A.gram)
    for _ in range(20):
        image = gram(image)
        largest = jnp.linalg.norm(image)
        image = image / largest
    assert 0.07 < weight / largest < 0.14
    assert reconstructor(resolve({})).weight == 0.1


def test_clinical_ct_has_copies_of_which_a_quarter_is_healthy(tmp_path):
    (tmp_path / "ct").mkdir()
    for file in ("clinical_ct_512.h5", "clinical_ct_body_3mm.h5"):
        with h5py.File(tmp_path / "ct" / file, "w") as opened:
            opened["image"] = np.full((20, 32, 32), 40, np.int16)
            opened.attrs["pixel_spacing_mm"], opened.attrs["slice_spacing_mm"] = [5.0, 5.0], 5.0
    data = load("clinical_ct", str(tmp_path), 16, 4.0, 6, 0)
    kinds = [data.groups[name] for name in data.patients["test"][0]]
    assert kinds == ["lesion"] * 5 + ["none"] and "inserted" in data.notes
    first = {name: np.asarray(x[0])[data.test.valid[0]] for name, x in data.test.examples.items()}
    assert first["sinogram"].shape[1] == 24
    assert (first["group"] == np.where(first["volume"] == 5, 0, 1)).all()


def test_regions_grow_by_pixels():
    mask = np.zeros((7, 7), bool)
    mask[3, 3] = True
    # Within two steps along the axes: 1 + 4 + 8.
    assert joint_scores._dilated(mask, 2).sum() == 13


@pytest.fixture(scope="module")
def cohort(measured_data):
    return hearts(measured_data(HEARTS).parents[1], 32, 4.0, 0)


@pytest.mark.slow
def test_hearts_are_divided_by_patient_and_measured_as_their_operators_say(cohort):
    parts = [[p for own in names for p in own] for names in cohort.patients.values()]
    assert [len(part) for part in parts] == [15, 5, 10] and len({p for part in parts for p in part}) == 30
    assert {cohort.groups[p] for p in parts[0]} == set(GROUPS)
    batch = {name: jnp.asarray(x[0][:2]) for name, x in cohort.test.examples.items()}
    A, y, _ = measure_full(batch)
    assert (batch["mask"][:, 0].sum(1) == 8).all()
    residual = jax.vmap(lambda A, x, y: A(x) - y)(A, _combined(batch), y)
    assert float(jnp.linalg.norm(residual) / jnp.linalg.norm(y)) < 0.15
    other = shifted(cohort.test, 2.0, 3.0, 0)
    assert (np.asarray(other.examples["mask"])[:, :, 0].sum(-1) == 16).all()
    before, after = (
        np.abs(np.asarray(d.examples["kspace"])[..., :4, :4]).mean() for d in (cohort.test, other)
    )
    assert 2.5 < after / before < 3.5


def _combined(batch):
    """The image of the fully sampled measurement, by numpy."""
    shifted_ = np.fft.ifftshift(np.asarray(batch["kspace"]), axes=(-2, -1))
    images = np.fft.fftshift(np.fft.ifft2(shifted_, norm="ortho"), axes=(-2, -1))
    return jnp.asarray((np.conj(np.asarray(batch["coil_maps"])) * images).sum(1), jnp.complex64)


@pytest.mark.slow
def test_volumes_of_expert_masks_tell_heart_failure(cohort):
    model = heart_groups.train(cohort)
    found = []
    for site, names in enumerate(cohort.patients["test"]):
        valid = np.asarray(cohort.test.valid[site])
        entries = {k: np.asarray(v[site])[valid] for k, v in cohort.test.examples.items()}
        for number, name in enumerate(names):
            area = (entries["segmentation"] > 0).sum((1, 2))
            here, late = entries["volume"] == number, entries["systole"] > 0
            volumes = [float(area[here & phase].sum()) for phase in (~late, late)]
            found.append({"patient": name, "volumes": volumes * 2})
    scores = heart_groups.diagnose(model, found, cohort.groups)
    assert scores["failure_auc"] > 0.9 and scores["ejection_error"] == 0
    # Which of the two kinds of failing hearts it is, volumes do not tell: but that the heart fails.
    task, variables, scale = model
    seen = np.stack([heart_groups.features(*row["volumes"][:2]) for row in found])
    logits = task.predict(*variables, {"x": jnp.asarray((seen - scale[0]) / scale[1])})
    guessed = [GROUPS[int(k)].startswith("HF") for k in np.asarray(logits).argmax(1)]
    right = [
        g == cohort.groups[row["patient"]].startswith("HF") for g, row in zip(guessed, found, strict=True)
    ]
    assert np.mean(right) >= 0.9


@pytest.mark.slow
def test_inserted_spots_are_seen_where_everything_is_measured(cohort):
    data = shifted(cohort.test, 1.0, 1.0, 0)
    spotted, spots = joint_scores.inserted(data, 0)
    places = np.nonzero(data.valid)
    images = []
    for split in (data, spotted):
        batch = {name: np.asarray(x)[places][:4] for name, x in split.examples.items()}
        images.append(np.asarray(_combined(batch)))
    made = [joint_scores.Outputs(x, np.zeros(0), np.zeros(0)) for x in images]
    assert joint_scores.recovered(*made, spots[:4]) == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_probes_of_models_are_finite_and_nothing_where_both_are_one(tmp_path):
    settings = check_settings(
        resolve({"data": "lesions", "image_size": 16, "acceleration": 4.0, "cascades": 1, "channels": 2,
                 "reader_channels": 2, "pools": 1, "patients": 6})
    )  # fmt: skip
    data = load("lesions", "", 16, 4.0, 6, 0)
    tool = joint_scores.evaluator(settings, data)
    variables = make_task(settings, data, "joint").init(jax.random.key(0))
    for name in ("joint-1", "frozen", "oracle"):
        file = released_file(tmp_path, name)
        file.parent.mkdir(exist_ok=True)
        write_weights(file, variables, {})
    found = probe(tool, [Seed(0, tmp_path, {}, {})], data, settings, "joint-1", "frozen")
    assert set(found) == {"swap", "guard", "shift"}
    assert all(np.isfinite(value) for group in found.values() for value in group.values())
    # The same model twice.
    assert found["guard"]["difference in what is not measured"] == 0
    names = [f"contrast of inserted spots, {name}" for name in ("joint", "two stages")]
    assert found["guard"][names[0]] == found["guard"][names[1]] > 0
    rows, made = score(tool, Training("joint-1", "joint", 1.0), [variables] * 5, data, "test")
    assert made.images.shape == made.marked.shape and {"psnr", "residual", "away"} <= rows[0].keys()
    scores = {"joint-1": rows}
    assert set(diagnoses([Seed(0, tmp_path, scores, scores)], data)["joint-1"]) == {
        "lesion_auc",
        "false_pixels",
    }
    figure = joint_report.plot_images(data, {"joint": made}, cases=2)
    assert len(figure.axes) == 6


def test_images_have_the_names_of_their_columns_and_the_masks_that_exist():
    shape = (2, 3, 16, 16)
    mask = np.zeros(shape, np.float32)
    mask[0, :, 4:8, 4:8] = 1
    examples = {
        "kspace": np.ones((2, 3, 1, 16, 16), np.complex64),
        "coil_maps": np.ones((2, 3, 1, 16, 16), np.complex64),
        "mask": np.ones(shape, np.float32),
        "target": np.ones(shape, np.float32),
        "segmentation": mask,
    }
    test = ClientData(examples, np.ones((2, 3), bool), ("A", "B"))
    data = JointData(None, None, test, {}, {}, "")
    made = joint_scores.Outputs(np.ones((6, 16, 16)), np.zeros((6, 16, 16), bool), np.zeros(6))
    figure = joint_report.plot_images(data, {"joint": made})
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["reference", "direct image", "joint", "", "", ""]
    # The second site has no mask.
    assert [len(axis.collections) for axis in figure.axes] == [1, 1, 1, 0, 0, 0]


def run(arguments):
    command = [sys.executable, "-m", "experiments.joint", *arguments]
    quick = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600, env=quick)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_run_resumes_and_reports(tmp_path):
    arguments = ["--workdir", str(tmp_path / "run"), "--data=lesions", "--preset=smoke", "--rounds=1",
                 "--mode=task_only", "--parallel=scan",
                 "--fault=nan:T2-3T", "--reduce=median", "--json"]  # fmt: skip
    first = run(arguments)
    assert first["trainings"]["task_only"]["dice"] >= 0 and (tmp_path / "run" / "report.html").exists()
    log = (tmp_path / "run" / "seed-0" / "metrics.jsonl").read_text().splitlines()
    record = json.loads(log[0])
    assert record["excluded"] == ["T2-3T"] and record["task_norm"] > 0
    patients = [json.loads(x) for x in (tmp_path / "run" / "patients.jsonl").read_text().splitlines()]
    assert {row["training"] for row in patients} == {"task_only"}
    assert run(arguments) == first


def test_settings_are_checked_together():
    assert check_settings(resolve({"preset": "smoke"})).rounds == 2
    assert joint._strengths(["1", "0.1"]) == (0.1, 1.0)
