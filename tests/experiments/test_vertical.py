"""Two institutions: patients meet in one order, divided is pooled, alone knows nothing of the other."""

import dataclasses
import json

import numpy as np
import pytest
from absl import flags

from experiments import vertical as program
from experiments.pipeline import psi_party, vertical_problems, vertical_training, vertical_transfer
from fedrecon.errors import ArgumentError
from fedrecon.reporting import auc
from fedrecon.vertical import Protection

NUMBER = 40


def numbered(folder, seed, effect):
    """Patients whose features are their number, and whose labels are whether it is odd."""
    own = np.arange(NUMBER, dtype=np.float32)
    names = [f"p{number}" for number in range(NUMBER)]
    return vertical_problems._Patients(names, own[:, None], np.stack([own, own], 1), own % 2, "")


@pytest.fixture
def small(monkeypatch):
    """Half of what the guest and the host know of a label, each."""
    monkeypatch.setitem(vertical_problems.PROBLEMS, "numbered", numbered)
    rng = np.random.default_rng(0)
    labels = (np.arange(NUMBER) % 2).astype(np.float32)
    guest, host = (labels[:, None] + rng.standard_normal((NUMBER, 3)) for _ in range(2))
    return vertical_problems.Problem(
        guest.astype(np.float32), host.astype(np.float32), labels, (NUMBER, NUMBER, NUMBER), ""
    )


def test_rows_of_both_institutions_are_of_the_same_patients(small):
    found = vertical_problems.load("numbered", "", 0)
    assert (found.guest[:, 0] == found.host[:, 0]).all() and (found.labels == found.guest[:, 0] % 2).all()
    assert found.sizes == (36, 36, 32) and len(set(found.guest[:, 0])) == 32
    again = vertical_problems.load("numbered", "", 1)
    assert (again.guest == found.guest).all()


def test_parts_are_stratified_and_every_patient_is_tested_once():
    labels = np.asarray([1.0] * 13 + [0.0] * 20)
    trained_on = vertical_training.folds(labels, 0)
    assert ((~trained_on).sum(0) == 1).all()
    assert {int(labels[~part].sum()) for part in trained_on} <= {2, 3}
    assert set((~trained_on).sum(1)) <= {6, 7}


def test_divided_is_pooled_and_an_institution_alone_knows_nothing_of_the_other(small):
    rows = vertical_training.ways(small, 5, [], 1)
    assert list(rows) == ["guest alone", "host alone", "pooled", "federated"]
    found = {name: vertical_training.scores(small, way, 0) for name, way in rows.items()}
    np.testing.assert_allclose(found["federated"], found["pooled"], rtol=2e-4, atol=2e-5)
    other = small._replace(host=-small.host)
    alone = vertical_training.scores(other, rows["guest alone"], 0)
    np.testing.assert_array_equal(alone, found["guest alone"])
    alone = vertical_training.scores(small._replace(guest=-small.guest), rows["host alone"], 0)
    np.testing.assert_array_equal(alone, found["host alone"])
    assert np.abs(found["pooled"] - found["guest alone"]).max() > 1e-3


def test_private_rows_spend_their_budget(small):
    rows = vertical_training.ways(small, 5, [8.0], 3)
    trained, once = rows["federated, ε = 8"], rows["federated, ε = 8, inputs sent once"]
    assert (trained.steps, once.steps) == (3, 5) and once.once and once.protection.guests is None
    for way in (trained, once):
        told = vertical_training.cost(way, small)
        assert 7.9 < told["epsilon"] <= 8 and told["delta"] == 1e-5
    assert once.protection.activations.noise_multiplier < trained.protection.activations.noise_multiplier
    assert vertical_training.cost(rows["federated"], small) == {}
    assert rows["federated"].protection == Protection()


@pytest.mark.slow
def test_noise_is_drawn_in_private_rows_and_no_noise_is_none(small):
    rows = vertical_training.ways(small, 5, [8.0], 3)
    pooled = vertical_training.scores(small, rows["pooled"]._replace(steps=3), 0)
    for name, steps in (("federated, ε = 8", 3), ("federated, ε = 8, inputs sent once", 5)):
        way = rows[name]._replace(steps=steps, rate=rows["pooled"].rate)
        noisy = vertical_training.scores(small, way, 0)
        assert np.abs(noisy - pooled).max() > 1e-3
        quiet = [
            None
            if mechanism is None
            else dataclasses.replace(mechanism, noise_multiplier=0.0, clipping_norm=1e6)
            for mechanism in way.protection
        ]
        # Of inputs that are sent once first weights are drawn by the other institution.
        if name.endswith("once"):
            continue
        found = vertical_training.scores(small, way._replace(protection=Protection(*quiet)), 0)
        np.testing.assert_allclose(found, pooled, rtol=2e-3, atol=2e-4)


def test_areas_are_means_over_seeds_with_paired_differences():
    rng = np.random.default_rng(0)
    logits, ill = rng.integers(0, 5, 30), rng.random(30) < 0.4
    assert vertical_training.area_under(logits, ill) == pytest.approx(auc(logits, ill), abs=1e-12)
    assert np.isnan(vertical_training.area_under(logits[:3], np.ones(3, bool)))
    labels = np.asarray([[0.0, 0, 0, 1, 1, 1]] * 2)
    right, half = labels.copy(), np.zeros((2, 6))
    rows = {
        "guest alone": half,
        "host alone": right,
        "pooled": right,
        "federated": np.stack([right[0], half[0]]),
    }
    found, compared = vertical_training.summary(rows, labels)
    assert found["host alone"]["auc"] == found["host alone"]["low"] == 1.0
    assert found["federated"]["per_seed"] == [1.0, 0.5] and found["federated"]["auc"] == 0.75
    assert compared["federated - guest alone"][0] == 0.25
    assert compared["federated - host alone"] == [-0.25, -0.5, 0.0]
    assert compared["federated / pooled"][0] == 0.75


@pytest.mark.slow
def test_labels_of_the_hospital_without_any_are_not_used():
    table = vertical_transfer.simulated(0).standardized()
    train = (table.site == 2) & ~table.test
    turned = table._replace(
        targets={"label": np.where(train, 1 - table.targets["label"], table.targets["label"])}
    )
    first, second = (_transferred(one) for one in (table, turned))
    for row in (vertical_transfer.SOURCES, vertical_transfer.PSEUDO):
        np.testing.assert_array_equal(first[row], second[row])
    assert np.abs(first[vertical_transfer.ALL] - second[vertical_transfer.ALL]).max() > 0.1
    assert np.abs(first[vertical_transfer.SOURCES] - first[vertical_transfer.PSEUDO]).max() > 1e-3


def _transferred(table):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vertical_transfer, "simulated", lambda seed: table)
        patch.setattr(vertical_transfer, "_ROUNDS", 3)
        patch.setattr(vertical_transfer, "_summary", lambda found, ill: found[0])
        return vertical_transfer.run("simulated", "", 1)[table.names[2]]


@pytest.fixture
def printed(capsys):
    """What the program prints with these arguments."""
    before = set(flags.FLAGS)
    program.define_flags()
    names = set(flags.FLAGS) - before

    def run(*arguments):
        flags.FLAGS.unparse_flags()
        for name in names:
            flags.FLAGS[name].unparse()
        flags.FLAGS(["vertical", *arguments])
        program.main([])
        return capsys.readouterr().out

    yield run
    for name in names:
        delattr(flags.FLAGS, name)


@pytest.mark.slow
def test_the_program_prints_rows_and_json(printed):
    options = ("--seeds=2", "--steps=30", "--epsilons=8", "--private_steps=2")
    found = json.loads(printed("--json", *options))
    assert found["patients"] == {"guest": 360, "host": 360, "common": 320} and len(found["rows"]) == 6
    assert found["rows"]["federated"]["auc"] == pytest.approx(found["rows"]["pooled"]["auc"], abs=1e-3)
    assert found["compared"]["federated / pooled"][0] == pytest.approx(1, abs=2e-3)
    assert found["rows"]["federated, ε = 8"]["epsilon"] <= 8 and len(found["rows"]["pooled"]["per_seed"]) == 2
    text = printed(*options)
    assert "360 of the guest, 360 of the host, 320 in common" in text and "All simulated" in text
    text = printed("--transfer", "--seeds=1")
    assert "labels of all" in text and "hospital 3" in text


@pytest.mark.slow
def test_an_intersection_of_two_processes_is_timed(printed):
    found = json.loads(printed("--psi=300", "--json"))
    assert found["exact"] and found["sizes"] == [300, 300, 150]
    assert found["bytes"] == 2 * (27 + 32 * 300) and found["seconds"] > 0


def test_lists_have_half_in_common():
    for size in (1, 7, 10):
        own, other = psi_party.identifiers(size, 0)
        assert len(set(own)) == len(set(other)) == size and len(set(own) & set(other)) == size // 2
    assert psi_party.identifiers(9, 1) == psi_party.identifiers(9, 1) != psi_party.identifiers(9, 2)


@pytest.mark.parametrize("problem", ["sunnybrook", "tcga_brca", "heart"])
def test_measured_problems_need_their_files(problem, tmp_path):
    with pytest.raises(ArgumentError, match=r"sunnybrook_cardiac|tcga_brca\.csv|heart_cleveland\.csv"):
        vertical_problems.load(problem, str(tmp_path), 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem, shapes, share",
    [("sunnybrook", (48, 4), 0.5), ("tcga_brca", (28, 11), 0.28), ("heart", (5, 8), 0.52)],
)
def test_measured_problems_are_on_one_scale(measured_data, problem, shapes, share):
    found = vertical_problems.load(problem, str(measured_data("tabular").parent), 0)
    assert (found.guest.shape[1], found.host.shape[1]) == shapes
    assert found.labels.mean() == pytest.approx(share, abs=0.02)
    assert 0.1 < np.abs(found.guest).mean() < 1.5 and np.isfinite(found.guest).all()
