"""What rows of the review are measured by besides scores, on small data and finished trainings made up."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.pipeline import survey_besides, survey_runs
from experiments.pipeline.federated_data import FederatedData
from experiments.pipeline.federated_settings import TrainSettings
from experiments.pipeline.survey_besides import Runs, figure, forgotten, schedules, wrong_masks
from experiments.pipeline.survey_problems import PROBLEMS
from experiments.pipeline.survey_tables import ROWS
from fedrecon.data import stack_clients
from fedrecon.evaluation import kappa
from fedrecon.training import FederationSettings
from fedrecon.types import Variables

RNG = np.random.default_rng(8)


def _part(patients, labels=(0, 1, 2, 3)):
    """Two sites with that many patients each, two slices of each patient."""
    sites = []
    for count in patients:
        image = RNG.normal(size=(2 * count, 4, 8, 1)).astype(np.float32)
        mask = (RNG.uniform(size=image.shape[:3]) < 0.3).astype(np.int32)
        label = np.resize(labels, 2 * count)
        volume = np.repeat(np.arange(count), 2)
        sites.append({"image": image, "segmentation": mask, "label": label, "volume": volume})
    return stack_clients(sites, ("a", "b"))


DATA = FederatedData(_part((6, 9)), _part((2, 2)), _part((7, 5)), np.ones((2, 1)), ("site",), "")


def _runs(folder, labels=("own", "FedAvg"), seeds=(0, 1), metric="dice"):
    settings = TrainSettings(rounds=4, federation=FederationSettings(algorithm="fedavg"))
    return Runs(
        {label: dict.fromkeys(seeds, settings) for label in labels},
        {label: {seed: folder / label / f"seed-{seed}" for seed in seeds} for label in labels},
        lambda settings: DATA,
        metric,
        folder,
        {"parallel": "scan", "rounds_per_dispatch": 1},
    )


def _values(found):
    return {label: list(row["values"].values()) for label, row in found["rows"].items()}


def test_masks_of_one_site_are_a_quarter_of_the_image_away():
    both = wrong_masks(DATA, ("train", "validation"), 1)
    for part in ("train", "validation"):
        before, after = (getattr(data, part).examples["segmentation"] for data in (DATA, both))
        np.testing.assert_array_equal(after[0], before[0])
        assert (after[1, :, 1, 2:] == before[1, :, 0, :-2]).all() and (after[1] != before[1]).any()
        np.testing.assert_array_equal(getattr(both, part).valid, getattr(DATA, part).valid)
    np.testing.assert_array_equal(both.train.examples["image"], DATA.train.examples["image"])
    # Nothing of the site is scored, and its test masks are what they were.
    assert both.test.valid[0].any() and not both.test.valid[1].any() and DATA.test.valid[1].any()
    one = wrong_masks(DATA, ("train",), 0)
    np.testing.assert_array_equal(one.validation.examples["segmentation"],
                                  DATA.validation.examples["segmentation"])  # fmt: skip


def test_the_weight_of_the_wrong_site_is_told_by_coefficients_or_by_the_clock(tmp_path):
    runs = _runs(tmp_path)
    clients = {"a": {"share": 0.25}, "b": {"share": 0.75}}
    for label in ("own", "FedAvg"):
        for seed in (0, 1):
            folder = runs.folders[label][seed]
            folder.mkdir(parents=True)
            (folder / "clock.json").write_text(json.dumps({"stage": {"clients": clients}}))
            lines = [{"coefficients": {"a": a, "b": 1 - a}} if label == "own" else {} for a in (0.5, 0.1)]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (found,) = survey_besides.weights(runs, ["own", "FedAvg"]).values()
    # Another site with every seed.
    assert _values(found) == {"own": pytest.approx([0.3, 0.7]), "FedAvg": [0.25, 0.75]}
    assert found["reference"] == "" and found["rows"]["own"]["interval"]["mean"] == pytest.approx(0.5)


@pytest.mark.parametrize("rounds", [2, 12, 13])
def test_every_site_trains_as_many_rounds_by_any_schedule(rounds):
    sites = ("a", "b", "c")
    found = schedules(rounds, sites, 0)
    assert list(found) == ["averaged (FL)", "in cycles (CIIL)", "once (IIL)"]
    for blocks in found.values():
        for site in sites:
            assert sum(block.rounds for block in blocks if site in block.sites) == rounds
    averaged, cycles, once = found.values()
    assert all(block.sites == sites for block in averaged) and len(averaged) == min(rounds, 12)
    assert [len(block.members) for block in (*cycles, *once)] == [1] * (3 * min(rounds, 3) + 3)
    orders = [[b.sites[0] for b in cycles[i : i + 3]] for i in range(0, len(cycles), 3)]
    assert all(sorted(order) == [*sites] for order in orders)
    assert len({tuple(b.sites[0] for b in schedules(2, sites, seed)["once (IIL)"]) for seed in range(9)}) > 2


def test_forgetting_is_the_best_earlier_score_less_the_last():
    after = np.array([[0.9, 0.1], [0.5, 0.6], [0.6, 0.8]])
    assert forgotten(after) == pytest.approx((0.3 - 0.2) / 2)
    assert forgotten(after, lower_is_better=True) == pytest.approx((0.1 + 0.7) / 2)
    assert np.isnan(forgotten(after[:1]))


def test_visits_are_compared_with_averages(tmp_path, monkeypatch):
    # Site b gains with every block, site a loses.
    def trained(plan, name, data, seed, folder, execution):
        assert name == "fedavg" and data is DATA and folder.parent.parent == tmp_path
        done = len(plan.blocks)
        scores = [
            {"a": {"dice": 0.9 - 0.05 * t}, "b": {"dice": 0.5 + 0.01 * t + 0.1 * seed}} for t in range(done)
        ]
        return SimpleNamespace(domains=scores)

    monkeypatch.setattr(survey_besides.streams, "trained", trained)
    end, worst, lost = survey_besides.visits(_runs(tmp_path), "Sheller", "FedAvg").values()
    # Four rounds: four blocks of averages, six and two visits of both sites.
    for label, last in (("averaged (FL)", 3), ("in cycles (CIIL)", 5), ("once (IIL)", 1)):
        a, b = 0.9 - 0.05 * last, 0.5 + 0.01 * last
        assert _values(end)[label] == pytest.approx([(a + b) / 2, (a + b) / 2 + 0.05])
        assert _values(worst)[label] == pytest.approx([min(a, b), min(a, b + 0.1)])
        assert _values(lost)[label] == pytest.approx([(0.05 * last - 0.01) / 2] * 2)
    once, cycles = lost["rows"]["once (IIL)"], lost["rows"]["in cycles (CIIL)"]
    assert once["difference"]["mean"] == pytest.approx(-0.05) and once["verdict"] == "better"
    assert cycles["verdict"] == "worse" and lost["reference"] == "averaged (FL)"


def test_agreement_is_kappa_of_the_models_that_clients_evaluate_with(tmp_path, monkeypatch):
    """A model says one class more or less than there is; clients have one of their own, or the one of all."""

    def predict(params, stats, batch):
        return jax.nn.one_hot(jnp.clip(batch["label"] + params["offset"], 0, 3), 4)

    def models(folder, algorithm):
        assert algorithm == "fedavg"
        of = {"offset": jnp.int32(1)}
        return Variables(of, {}), {"b": Variables({"offset": jnp.int32(0)}, {})} if "own" in str(
            folder
        ) else {}

    monkeypatch.setattr(survey_besides, "make_task", lambda *_: SimpleNamespace(predict=predict))
    monkeypatch.setattr(survey_besides.model_files, "read_models", models)
    found = survey_besides.agreement(_runs(tmp_path), "own", "FedAvg")
    truth = [np.resize((0, 1, 2, 3), n) for n in (14, 10)]
    for kind in ("linear", "quadratic"):
        a, b = (kappa(np.minimum(x + 1, 3), x, kind) for x in truth)
        values = _values(found[f"kappa, {kind} weights"])
        assert values == {"own": pytest.approx([(a + 1) / 2] * 2), "FedAvg": pytest.approx([(a + b) / 2] * 2)}


@pytest.mark.parametrize(("part", "copied"), [("train", 1.0), ("test", 0.0)])
def test_pairs_that_are_training_data_are_told_from_others(tmp_path, monkeypatch, part, copied):
    def models(folder, algorithm):
        names, data = ("image", "segmentation"), getattr(DATA, part)
        pairs = {name: data.examples[name][0][data.valid[0]] for name in names}
        return None, {"a": Variables({}, {"pairs": pairs})}

    monkeypatch.setattr(survey_besides.model_files, "read_models", models)
    nearest, chance = survey_besides.simulated(_runs(tmp_path, seeds=(0,)), "own", "FedAvg").values()
    for label in ("label maps", "images"):
        # Of the larger kind not all patients are drawn.
        assert abs(_values(nearest)[label][0] - copied) < 0.25
        assert (_values(chance)[label][0] < 0.05) == (part == "train")


def test_patients_of_sites_are_not_the_same():
    images, patients = survey_besides._all(DATA.train, "image")
    assert len(images) == 30 and len(np.unique(patients)) == 15
    assert (np.bincount(patients) == 2).all()
    np.testing.assert_array_equal(images[:12], DATA.train.examples["image"][0, :12])


def test_virtual_samples_are_near_to_the_images_that_they_are_of(tmp_path, monkeypatch):
    def predict(params, stats, batch):
        return jax.nn.softmax(batch["image"].sum((2, 3)) * params["scale"], -1)

    task = SimpleNamespace(predict=predict)
    monkeypatch.setattr(survey_besides, "make_task", lambda *_: task)
    model = Variables({"scale": jnp.float32(0.1)}, {})
    monkeypatch.setattr(survey_besides.model_files, "read_models", lambda *_: (model, {}))
    seen = []

    def copied(samples, data, name, seed):
        assert name == "image" and data is DATA
        seen.append(samples)
        return 0.5, 1.0

    monkeypatch.setattr(survey_besides, "_copied", copied)
    found = survey_besides.virtual(_runs(tmp_path, seeds=(0,)), "own", "FedAvg")
    assert [set(map(tuple, _values(x).values())) for x in found.values()] == [{(0.5,)}, {(1.0,)}]
    images = DATA.train.examples["image"][DATA.train.valid]
    for samples in seen:
        np.testing.assert_allclose(np.linalg.norm((samples - images).reshape(30, -1), axis=1), 1, rtol=1e-4)
    assert not np.allclose(*seen)


def test_what_is_measured_besides_is_of_the_row_and_of_the_problem(tmp_path, monkeypatch):
    by_name = {row.name: row for row in ROWS}
    called = []
    monkeypatch.setattr(
        survey_besides, "weights", lambda runs, labels: called.append(labels) or {"weight": figure({})}
    )
    monkeypatch.setattr(
        survey_besides, "MEASURES", {"visits": lambda runs, row, plain: {f"{row}, {plain}": figure({})}}
    )
    runs = _runs(tmp_path, ("FedCE", "each alone", "pooled", "FedAvg"))
    found = survey_runs._besides(by_name["FedCE"], PROBLEMS["corrupted"], runs, "smoke")
    assert list(found) == ["weight"] and called == [["FedCE", "FedAvg"]]
    assert survey_runs._besides(by_name["FedCE"], PROBLEMS["hearts"], runs, "small") == {}
    sheller = (by_name["Sheller"], PROBLEMS["hearts"], runs)
    assert list(survey_runs._besides(*sheller, "small")) == ["Sheller, FedAvg"]
    assert survey_runs._besides(*sheller, "smoke") == {}
    named = {row.besides for row in ROWS if row.besides}
    assert named == {"visits", "agreement", "simulated", "virtual"}


def test_problems_with_wrong_masks_have_clocks_that_tell_weights():
    wrong = {name: problem for name, problem in PROBLEMS.items() if problem.wrong}
    assert {"corrupted", "mislabeled"} < set(wrong)
    for problem in wrong.values():
        assert problem.settings["clock"] == "wait" and problem.settings["task"] == "segmentation"
        assert set(problem.wrong) <= {"train", "validation"} and problem.metric == "dice"
