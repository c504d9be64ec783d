"""All problems in one table: what is planned, what is scored, and what is on a front."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags

from experiments import multitask
from experiments.pipeline import multitask_joint, multitask_report, multitask_scores
from experiments.pipeline.diagnosis import Cases
from experiments.pipeline.federated_data import load_data, make_task
from experiments.pipeline.federated_run import with_seed
from experiments.pipeline.federated_settings import TrainSettings
from experiments.pipeline.joint_data import JointData
from experiments.pipeline.multitask_problems import EXTENT, PRESETS, PROBLEMS
from experiments.pipeline.programs import flag_groups
from fedrecon.communication.low_rank import matrix_shape
from fedrecon.data import ClientData
from fedrecon.training import FlagError, changed

ROOT = Path(__file__).parents[2]
EXTENTS = {**EXTENT["smoke"], "protocol": "secagg"}


def plan(given=None, extent=None, data_dir="", dotted=None, preset="smoke"):
    return multitask.plan(preset, given or {}, {**EXTENTS, **(extent or {})}, data_dir, dotted or {})


def test_every_problem_has_the_same_rows_and_one_with_all_at_once():
    planned = plan({"dp_delta": 1e-3})
    assert list(planned) == ["ct", "lesions"]
    rows = planned["lesions"]
    assert list(rows) == [
        "alone", "pooled", "fedavg", "fedadam", "fedavg + power_sgd", "fedavg + secagg", "fedavg, ε = 8",
        "fedavg + power_sgd + secagg, ε = 8",
    ]  # fmt: skip
    assert [row.exchanges for row in rows.values()] == [False] * 2 + [True] * 6
    plain, private = (rows[name].settings for name in ("fedavg", "fedavg, ε = 8"))
    assert plain.federation.dp_delta == 0 and private.federation.dp_delta == 1e-3
    assert private.federation.dp_batch_size == plain.batch_size == 4
    assert private.federation.dp_microbatch_size == 1 and plain.federation.dp_microbatch_size == 0
    given = plan({"dp_microbatch_size": 4})["lesions"]["fedavg, ε = 8"].settings.federation
    assert given.dp_microbatch_size == 4
    everything = list(rows.values())[-1]
    found = everything.settings.federation
    assert (found.codec, found.secure_aggregation, found.dp_epsilon) == ("power_sgd", "secagg", 8)
    assert everything.features == ("codec", "sums", "privacy") and not everything.refused


def test_rows_of_fine_tuning_are_of_images_and_start_from_a_model_trained_without_labels():
    extent = {"finetune": ["full", "lora+top_k"], "problems": ["ct", "lesions"]}
    planned = plan(extent=extent, dotted={"lora": (("rank", "2"),), "top_k": (("fraction", "0.1"),)})
    assert not any(row.pretrained for row in planned["ct"].values())
    found = {name: row for name, row in planned["lesions"].items() if row.pretrained}
    assert list(found) == ["pre-trained, full", "pre-trained, lora + top_k"]
    kept = found["pre-trained, lora + top_k"].settings.federation
    assert (kept.finetune, kept.codec, kept.algorithm) == ("lora", "top_k", "fedavg")
    assert kept.finetune_options == (("rank", "2"),) and kept.codec_options == (("fraction", "0.1"),)
    assert found["pre-trained, full"].settings.federation.codec == "none"


def test_joint_rows_score_patients_and_cost_all_that_they_are_trained_by(tmp_path):
    rows = [{"patient": "p", "site": "a", "dice": 0.5}, {"patient": "q", "site": "a", "dice": None},
            {"patient": "r", "site": "b", "dice": 0.9}]  # fmt: skip
    found = multitask_joint.of_rows(rows)
    assert found.value == pytest.approx(0.7) and (found.scored, found.unscored) == (2, 1)
    assert found.sites == {"a": 0.5, "b": 0.9} and math.isnan(found.patients[1])
    assert found.low == pytest.approx(0.5) and found.high == pytest.approx(0.9)
    records = [
        {"stage": stage, "round": 1, "bytes_up": up, "bytes_down": 1, "seconds": 2.0, **more}
        for stage, up, more in (
            ("rec_only", 10, {"validation_seconds": 0.5}), ("frozen", 20, {}), ("joint-1", 40, {})
        )
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    staged = {training.name for training in multitask_joint.ROWS["two stages"].trainings}
    cost = multitask_joint.cost_of(tmp_path, staged)
    assert cost == {"bytes_up": 30, "bytes_down": 2, "seconds": 3.5}
    # A mask of a quarter of a volume: 2 (1/4) / (1 + 1/4), and nothing to score without one.
    masks = np.zeros((1, 3, 2, 2), np.float32)
    masks[0, :2, 0, 0] = 1
    data = ClientData({"segmentation": masks, "volume": np.array([[0, 0, 1]])}, np.ones((1, 3), bool), ("a",))
    everything = multitask_joint.marked_everywhere(
        JointData(data, data, data, {"test": (("p", "q"),)}, {}, "")
    )
    assert everything[0]["dice"] == pytest.approx(0.4) and math.isnan(everything[1]["dice"])


def test_the_smoke_preset_has_matrices_that_power_sgd_compresses():
    settings = plan()["lesions"]["fedavg + power_sgd"].settings
    example = {"image": jax.ShapeDtypeStruct((1, 16, 16, 1), np.float32),
               "segmentation": jax.ShapeDtypeStruct((1, 16, 16), np.float32)}  # fmt: skip
    params = jax.eval_shape(make_task(settings, example).init, jax.random.key(0)).params
    leaves = [leaf.shape for leaf in jax.tree.leaves(params)]
    factors = [matrix_shape(shape, 2, 2.0) for shape in leaves]
    sent = sum(2 * sum(sides) if sides else math.prod(x) for x, sides in zip(leaves, factors, strict=True))
    assert sent < 0.6 * sum(map(math.prod, leaves))


def test_presets_and_problems_fit_all_settings():
    for preset in PRESETS:
        extent = {**EXTENT[preset], "problems": list(PROBLEMS)}
        assert set(plan(extent=extent, data_dir="d", preset=preset)) == set(PROBLEMS)
    without = plan(extent={"problems": None})
    assert set(without) == {name for name, problem in PROBLEMS.items() if not problem.public}


def test_what_excludes_each_other_at_once_is_a_row_that_says_so():
    rows = plan({"dp_unit": "site"}, {"problems": ["mri"]})["mri"]
    assert "codec: expected none with --dp.unit=site" in rows["fedavg + power_sgd + secagg, ε = 8"].refused
    assert not rows["fedavg, ε = 8"].refused
    few = plan(extent={"codec": ["top_k"], "epsilons": [], "problems": ["mri"]})["mri"]
    assert list(few)[-1] == "fedavg + secagg", (
        "messages of top_k do not add, and one feature is a row already"
    )


@pytest.mark.parametrize(
    ("extent", "data_dir", "dotted", "words"),
    [
        ({"problems": ["teeth"]}, "", {}, "problems: expected distinct ones of mri"),
        ({"problems": ["mri", "mri"]}, "", {}, "problems: expected distinct"),
        ({"problems": ["retina"]}, "", {}, "data_dir: expected the folder of the public files"),
        ({"problems": ["mri"]}, "d", {}, "data_dir: expected no folder"),
        ({"methods": ["fedprox"]}, "", {}, "methods: expected fedavg and distinct others"),
        ({"methods": ["fedavg", "local_only"]}, "", {}, "methods: expected fedavg and distinct others"),
        ({"codec": ["zip"]}, "", {}, "codec: expected distinct ones of dense"),
        ({"finetune": ["prefix"]}, "", {}, "finetune: expected distinct ones of full, lora"),
        ({"finetune": ["lora+zip"]}, "", {}, "finetune: expected distinct ones of full, lora"),
        ({"epsilons": ["0"]}, "", {}, "epsilons: expected positive numbers"),
        ({"epsilons": ["1", "1.0"]}, "", {}, "epsilons: expected distinct positive numbers"),
        ({}, "", {"top_k": (("fraction", "1"),)}, r"top_k\.NAME: expected one of --methods, --codec"),
        ({}, "", {"power_sgd": (("rank", "x"),)}, r"power_sgd\.rank: expected an integer"),
        ({}, "", {"fedadam": (("x", "1"),)}, r"fedadam\.x: expected one of fedadam's options"),
    ],
)  # fmt: skip
def test_wrong_names_are_refused_before_anything_is_trained(extent, data_dir, dotted, words):
    with pytest.raises(FlagError, match=words):
        plan(extent=extent, data_dir=data_dir, dotted=dotted)


def test_options_reach_their_rows():
    dotted = {"power_sgd": (("rank", "3"),), "fedadam": (("first_decay", "0.8"),)}
    rows = plan(extent={"problems": ["mri"]}, dotted=dotted)["mri"]
    assert rows["fedavg + power_sgd"].settings.federation.codec_options == (("rank", "3"),)
    assert rows["fedadam"].settings.federation.algorithm_options == (("first_decay", "0.8"),)
    assert rows["fedavg"].settings.federation.algorithm_options == ()


def row(score, exchanges=True, **values):
    defaults = {"score": score, "low": score - 0.1, "high": score + 0.1, "half_width": math.nan, "scored": 4,
                "worst_site": score - 0.2, "unscored": 0, "reason": "", "patients": [], "refused": "",
                "bytes_up": 1e6, "bytes_down": 1e6, "seconds": 1.0, "epsilon": math.inf}  # fmt: skip
    return {**defaults, "exchanges": exchanges, **values}


def problem(rows):
    return {"title": "lesions", "label": "Dice", "metric": "dice", "untrained": ["constant"],
            "chosen": "fedavg", "rows": rows}  # fmt: skip


def test_fronts_name_what_no_federation_beats_and_comparators_are_on_none():
    rows = {
        "alone": row(0.95, False, bytes_up=1.0),
        "fedavg": row(0.9, bytes_up=100.0, seconds=2.0),
        "small": row(0.8, bytes_up=10.0, seconds=3.0),
        "private": row(0.7, bytes_up=100.0, seconds=4.0, epsilon=8.0),
        "worse": row(0.6, bytes_up=100.0, seconds=5.0, epsilon=8.0),
        "impossible": {"exchanges": True, "refused": "too few"},
    }
    found = multitask_report.with_fronts(rows)
    assert found["fedavg"]["fronts"] == ["bytes_up", "epsilon", "seconds"]
    assert found["small"]["fronts"] == ["bytes_up"] and found["private"]["fronts"] == ["epsilon"]
    assert found["worse"]["fronts"] == [] and found["worse"]["dominated_by"] == ["private"]
    assert "fronts" not in found["alone"] and "fronts" not in found["impossible"]
    # From 0.5 and 100 bytes: 0.3 above it over one decade; what costs most saves nothing.
    assert multitask_report.saved_bytes(rows, 0.5) == pytest.approx(0.3)


def test_differences_are_tested_over_the_same_patients_and_corrected():
    rng = np.random.default_rng(0)
    base = rng.normal(size=12)
    rows = {
        "fedavg": row(0.0, patients=base.tolist()),
        "better": row(0.0, patients=(base + 1 + 0.1 * rng.normal(size=12)).tolist()),
        "same": row(0.0, patients=base.tolist()),
        "fewer": row(0.0, patients=[1.0]),
    }
    found = multitask_report.with_differences(rows, "fedavg")
    # The smallest p-value of twelve signed ranks, for two tests.
    assert found["better"]["p_value"] == pytest.approx(2 * 2 / 2**12)
    assert found["same"]["p_value"] == 1 and found["same"]["difference"] == 0
    assert "p_value" not in found["fewer"] and "p_value" not in found["fedavg"]


def scores(values, sites=None):
    known = [value for value in values if not math.isnan(value)]
    mean = float(np.mean(known))
    return multitask_scores.PatientScores(mean, mean, mean, sites or {"a": mean}, values, len(known),
                                          len(values) - len(known), "")  # fmt: skip


def test_a_patient_of_several_seeds_counts_once_in_a_test():
    rng = np.random.default_rng(0)
    names, base, gain = ["p1", "p2", "p3", "p4", "p5", "p6"], rng.normal(size=6), rng.uniform(1, 2, 6)
    seeds = [(base + rng.normal(0, 0.01, 6)).tolist() for _ in range(3)]
    better = [(gain + values).tolist() for values in seeds]
    found = {
        name: row(**multitask_scores.over_seeds([scores(v) for v in values], [names] * 3))
        for name, values in (("fedavg", seeds), ("better", better))
    }
    found = multitask_report.with_differences(found, "fedavg")
    # Six signs that agree; eighteen would have 2 / 2^18.
    assert found["better"]["p_value"] == pytest.approx(2 / 2**6)
    assert found["better"]["difference"] == pytest.approx(gain.mean())
    assert (found["better"]["scored"], found["better"]["seeds"]) == (6, 3)


def test_seeds_with_other_patients_are_joined_by_name():
    seeds = [scores([1.0, 2.0]), scores([4.0, math.nan, 5.0])]
    found = multitask_scores.over_seeds(seeds, [["a", "b"], ["b", "c", "d"]])
    np.testing.assert_allclose(found["patients"], [1.0, 3.0, np.nan, 5.0])
    assert (found["scored"], found["unscored"]) == (3, 1)
    area = scores([0.8])._replace(patients=[])
    found = multitask_scores.over_seeds([area, area], [["a", "b"], ["b", "c"]])
    assert found["patients"] == [] and (found["scored"], found["unscored"]) == (3, 0)
    with pytest.raises(ValueError, match="zip"):
        multitask_scores.over_seeds(seeds, [["a", "b"], ["b", "c"]])


def test_simulated_patients_of_another_seed_are_others_and_names_follow_volumes():
    natural = {"cohort": "simulated_mri", "task": "segmentation", "clients": 2}
    divided = {"partition": "quantity", "concentration": 5.0, "minimum_examples": 3}
    for problem in (natural, natural | divided):
        settings = changed(TrainSettings(), image_size=8, patients_per_site=4, **problem)
        first, second = (load_data(with_seed(settings, seed)) for seed in (1, 2))
        assert not set(sum(first.tested, ())) & set(sum(second.tested, ()))
        volumes, valid = np.asarray(first.test.examples["volume"]), np.asarray(first.test.valid)
        assert [len(names) for names in first.tested] == [
            len(np.unique(v[ok])) for v, ok in zip(volumes, valid, strict=True)
        ]


def test_patients_of_files_keep_their_names_with_every_seed(measured_data):
    settings = changed(TrainSettings(), cohort="retina", task="segmentation", image_size=16,
                       data_dir=str(measured_data("multisite").parent))  # fmt: skip
    masks, names = {}, set()
    for seed in range(3):
        data = load_data(with_seed(settings, seed))
        for site, members in enumerate(data.tested):
            volume, valid = np.asarray(data.test.examples["volume"][site]), np.asarray(data.test.valid[site])
            for number, name in zip(np.unique(volume[valid]), members, strict=True):
                mask = np.asarray(data.test.examples["segmentation"][site])[valid & (volume == number)]
                np.testing.assert_array_equal(masks.setdefault((name, mask.shape), mask), mask)
                names.add(name)
    assert len(masks) == len(names) < sum(map(len, data.tested)) * 3


def test_the_table_counts_what_has_no_score(tmp_path):
    rows = {
        "constant": row(0.2, False, unscored=3, reason="patients without the structure"),
        "fedavg": row(0.5, p_value=0.04),
        "blind": row(math.nan, reason="an AUC of 2 positive and 9 negative images"),
        "diverged": row(-math.inf, low=-math.inf, high=-math.inf),
        "tiny": row(0.5, features=["codec"], bytes_up=1e6 + 64),
        "masked": row(0.5, features=["codec", "sums"], bytes_up=2e6),
        "compressed": row(0.5, features=["codec"], bytes_up=1e6 - 1),
        "impossible": {"exchanges": True, "refused": "--dp.epsilon: too few"},
    }
    problems = {"lesions": problem(multitask_report.with_fronts(rows))}
    text = multitask_report.table(problems)
    assert "diverged" in text and "refused" in text and "fedavg (chosen)" in text
    assert multitask_report.missing(problems) == [
        "2 of 8 rows have no score",
        "lesions: 3 of 7 test patients have no score of their own: patients without the structure",
        "lesions, blind: no score: an AUC of 2 positive and 9 negative images",
        "lesions, tiny: nothing was compressed: 1000064 bytes up, and 1000000 without a codec",
        "lesions, impossible: not trained: --dp.epsilon: too few",
    ]
    document = multitask.write(tmp_path, problems)
    assert json.loads((tmp_path / "multitask.json").read_text()) == document
    assert document["problems"]["lesions"]["rows"]["blind"]["score"] is None
    (line,) = [x for x in (tmp_path / "multitask.md").read_text().splitlines() if "fedavg" in x]
    assert line.startswith("| fedavg (chosen) | 0.500 (0.400 to 0.600) | – | 0.300 | 0.04 | 1 | none | 1.0 |")
    assert (tmp_path / "multitask.png").stat().st_size > 5000


def test_scores_are_of_patients_with_the_structure_and_networks_that_fail_diverged():
    truth = np.zeros((4, 2, 2))
    truth[:2, 0] = 1
    probability = truth.copy()
    probability[1, 1, 1] = 0.9
    cases = Cases(probability, truth, np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3]), ("a", "b"))
    found = multitask_scores._of_cases("segmentation", cases, 0.5)
    assert found.value == pytest.approx((1 + 4 / 5) / 2) and found.sites["a"] == found.value
    assert (found.scored, found.unscored) == (2, 2) and math.isnan(found.sites["b"])
    np.testing.assert_allclose(found.patients, [1, 0.8, np.nan, np.nan])
    broken = cases._replace(probability=np.full_like(probability, np.nan))
    assert multitask_scores._of_cases("segmentation", broken, 0.5).value == -math.inf
    labels = Cases(np.array([0.2, 0.9]), np.array([0, 1]), np.zeros(2, int), np.arange(2), ("a",))
    few = multitask_scores._of_cases("classification", labels, 0.5)
    assert math.isnan(few.value) and (few.scored, few.unscored) == (0, 2)
    assert few.reason == "an AUC of 1 positive and 1 negative images"


def test_help_knows_the_flags_it_shows_first():
    values = flags.FlagValues()
    multitask.define_flags(values)
    shown = {flag.name for members in flag_groups(TrainSettings, values).values() for flag in members}
    assert set(multitask.FIRST) <= shown and "dp_epsilon" not in shown and "cohort" not in shown


def command(folder, *more):
    words = ["-m", "experiments.multitask", f"--workdir={folder}", "--preset=smoke", "--json", *more]
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def numbers(text):
    """What is printed but the seconds, and what hangs on them."""
    document = json.loads(text)
    for found in document["problems"].values():
        for each in found["rows"].values():
            for name in ("seconds", "dominated_by"):
                each.pop(name, None)
            each["fronts"] = [cost for cost in each.get("fronts", []) if cost != "seconds"]
    return document


@pytest.mark.slow
def test_the_smoke_preset_runs_resumes_after_kills_and_is_read_the_second_time(tmp_path):
    only = ("--problems=lesions", "--epsilons=8", "--finetune=lora")
    whole = command(tmp_path / "whole", *only)
    text, _ = whole.communicate()
    assert whole.returncode == 0
    found = json.loads(text)["problems"]["lesions"]
    assert all("score" in each for each in found["rows"].values()), found["rows"]
    private = found["rows"]["fedavg, ε = 8"]
    assert 0 < private["epsilon"] <= 8 and private["bytes_up"] == found["rows"]["fedavg"]["bytes_up"]
    for place in ("alone/seed-0", "fedavg-secagg/seed-0/results.json", "fedavg/seed-0/patients.json"):
        assert (tmp_path / "killed").parent.joinpath("whole/lesions", place).exists()
    # Killed when the second and the fifth training have begun.
    for place in ("pooled", "fedavg-power_sgd"):
        process = command(tmp_path / "killed", *only)
        while not (tmp_path / "killed/lesions" / place / "seed-0/metrics.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = command(tmp_path / "killed", *only)
    resumed, _ = last.communicate()
    assert last.returncode == 0 and numbers(resumed) == numbers(text)
    again = command(tmp_path / "whole", *only)
    second, _ = again.communicate()
    assert second == text
