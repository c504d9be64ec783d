"""Heart failure from images: what is seen of a patient, the classifier of all sites, and its area."""

import jax
import numpy as np
import pytest

from experiments.pipeline import heart_groups, heart_images, joint_runs
from experiments.pipeline.joint_data import JointData
from experiments.pipeline.joint_runs import Seed, image_diagnoses, image_source
from experiments.pipeline.joint_training import Training
from fedrecon.data import ClientData, stack_clients

SITES = ("A", "B")
LATE = np.asarray([False] * 3 + [True] * 3)


def patient(ill, rng, scale):
    """Three slices of each phase of an 8 x 8 image, whose middle contracts by a half unless it fails."""
    images = 1 + 0.05 * rng.standard_normal((6, 8, 8))
    images[3:, 2:6, 2:6] *= 0.9 if ill else 0.5
    return (scale * images).astype(np.float32)


def cohort(patients=4):
    rng = np.random.default_rng(0)
    parts, names, groups = {}, {}, {}
    for part in ("train", "validation", "test"):
        names[part], clients = [], []
        for number, site in enumerate(SITES):
            own = [f"{part}-{site}-{i}" for i in range(patients)]
            names[part].append(tuple(own))
            for i, name in enumerate(own):
                groups[name] = ("HF-I", "N", "HF-NI", "HYP")[i % 4]
            images = [patient(groups[name].startswith("HF"), rng, 10.0**number) for name in own]
            clients.append(
                {
                    "target": np.concatenate(images),
                    "systole": np.tile(LATE, patients).astype(np.int32),
                    "volume": np.repeat(np.arange(patients, dtype=np.int32), 6),
                }
            )
        parts[part] = stack_clients(clients, SITES)
    return JointData(**parts, patients={k: tuple(v) for k, v in names.items()}, groups=groups, notes="")


def references(data, part):
    split = getattr(data, part)
    return np.asarray(split.examples["target"])[np.nonzero(split.valid)]


def test_a_patient_is_seen_by_the_middle_slices_and_what_moves_between_them():
    early, late = np.full((3, 8, 8), 9.0), np.full((3, 8, 8), 9.0)
    early[1], late[1] = 2.0, 1.0
    early[1, :2, :2] = 0.0
    seen = heart_images.features(np.concatenate([early, late]), LATE).reshape(3, 4, 4)
    np.testing.assert_allclose(seen[0, 0], [0, 1, 1, 1])
    np.testing.assert_allclose(seen[1], 0.5)
    # A magnitude, also where the later phase is the brighter one.
    np.testing.assert_allclose(seen[2], 0.5)
    # Whatever the scanner's scale and the order of the phases.
    again = heart_images.features(7 * np.concatenate([late, early]), ~LATE)
    np.testing.assert_allclose(again, seen.ravel(), rtol=1e-6)
    still = heart_images.features(early, np.zeros(3, bool)).reshape(3, 4, 4)
    np.testing.assert_allclose(still[0], still[1])
    assert (still[2] == 0).all()


def test_hearts_that_do_not_move_are_found_at_every_site():
    data = cohort()
    model = heart_images.train(references(data, "train"), data)
    found = heart_images.scores(model, references(data, "test"), data, "test")
    assert list(found) == [name for names in data.patients["test"] for name in names]
    assert all((score > 0) == data.groups[name].startswith("HF") for name, score in found.items())
    assert heart_images.area([found], data.groups)[0] == 1


def test_weights_decay():
    sites = [{"x": np.asarray([[-1.0], [1.0]], np.float32), "label": np.asarray([0, 1], np.int32)}] * 2
    weights = []
    for decay in (0.0, 0.1):
        _, variables, scale = heart_groups.fit(sites, SITES, 2, decay)
        weights.append(max(float(np.abs(x).max()) for x in jax.tree.leaves(variables.params)))
        np.testing.assert_allclose(scale, [[0], [1]], atol=1e-5)
    # With softmax p of the margin 2 w: w decays as 1 - p grows, so that 0.1 w = 1 - p at the end.
    assert weights[1] < 0.7 * weights[0]


def test_the_area_is_the_mean_over_seeds_with_an_interval_over_seeds_and_patients():
    groups = {"a": "HF-I", "b": "HF-NI", "c": "N", "d": "HYP"}
    right = {"a": 2.0, "b": 1.0, "c": 0.0, "d": -1.0}
    wrong = {name: -value for name, value in right.items()}
    value, low, high = heart_images.area([right, wrong], groups)
    assert (value, low, high) == (0.5, 0.0, 1.0)
    assert heart_images.area([right], groups) == (1.0, 1.0, 1.0)
    # One of four pairs in the wrong order.
    assert heart_images.area([right | {"c": 1.5}], groups)[0] == 0.75


def test_readers_have_the_area_of_the_images_they_read(monkeypatch):
    data = cohort()
    trainings = [
        Training("rec_only", "rec_only"),
        Training("oracle", "oracle"),
        Training("frozen", "frozen", reconstruction="rec_only"),
        Training("joint-1-warm", "joint", 1.0, reconstruction="rec_only", reader="oracle"),
        Training("joint-1-alone", "joint", 1.0, who="alone"),
    ]
    assert [image_source(t) for t in trainings[:4]] == ["rec_only", "", "rec_only", "joint-1-warm"]
    asked = []

    def outputs(tool, mode, models, split):
        asked.append((mode, models))
        part = next(name for name in ("train", "test") if getattr(data, name) is split)
        # Images of the joint training show nothing.
        image = references(data, part)
        return joint_runs.Outputs(image if models == "rec_only" else np.ones_like(image), None, None)

    monkeypatch.setattr(joint_runs, "outputs", outputs)
    monkeypatch.setattr(joint_runs, "models_of", lambda folder, name, data: name)
    found = image_diagnoses(None, [Seed(0, None, {}, {})], trainings, data)
    assert found.keys() == {"rec_only", "oracle", "frozen", "joint-1-warm"}
    assert found["frozen"] == found["rec_only"] and found["oracle"]["auc"] == 1
    assert found["joint-1-warm"] == {"auc": 0.5, "low": 0.5, "high": 0.5}
    # Two parts of two reconstructions: images that several read are made once.
    assert len(asked) == 4 and {mode for mode, _ in asked} == {"rec_only"}
    still = {name: x for name, x in data.train.examples.items() if name != "systole"}
    other = data._replace(train=ClientData(still, data.train.valid, data.train.names))
    assert image_diagnoses(None, [], trainings, other) == {}


@pytest.mark.parametrize(("name", "ill"), [("HF-I", True), ("HF-NI", True), ("HYP", False), ("N", False)])
def test_both_kinds_of_failure_count(name, ill):
    assert heart_images.failing(["p"], {"p": name}).tolist() == [ill]
