"""Scores of the downstream tasks: by patient, with thresholds of the validation split."""

import numpy as np
import pytest

from experiments.pipeline import diagnosis
from experiments.pipeline.downstream import RATERS
from fedrecon.data import stack_clients


def data():
    """Two sites of three patients with two slices; one patient of each site has no lesion."""
    clients = []
    for _ in range(2):
        masks = np.zeros((6, 8, 8), np.float32)
        masks[0, 1:3, 1:3] = masks[3, 4:8, 4:8] = 1
        labels = masks.any((1, 2)).astype(np.int32)
        clients.append({"segmentation": masks, "label": labels, "volume": np.repeat([0, 1, 2], 2)})
    return stack_clients(clients, ("A", "B"))


def of(foreground):
    return np.stack([1 - foreground, foreground], -1)


def test_marking_nothing_scores_no_dice_although_most_slices_are_free():
    cases = diagnosis.cases(of(np.zeros((2, 6, 8, 8))), data(), "segmentation")
    found = diagnosis.score_segmentation(cases, [0.5, 0.5])
    assert found.overall["dice"] == 0 and found.overall["patients"] == 4
    assert (found.overall["lesion_free"], found.overall["falsely_marked"]) == (2, 0)
    assert {name: s["patients"] for name, s in found.sites.items()} == {"A": 2, "B": 2}


def test_dice_is_of_patients_and_thresholds_are_of_sites():
    truth = np.asarray(data().examples["segmentation"])
    probability = 0.3 * truth
    probability[0, 4] = 0.2  # A whole slice of a patient of A without a lesion.
    cases = diagnosis.cases(of(probability), data(), "segmentation")
    found = diagnosis.score_segmentation(cases, [0.1, 0.5])
    assert found.sites["A"]["dice"] == 1 and found.sites["B"]["dice"] == 0
    assert found.sites["A"]["falsely_marked"] == 1 and found.overall["dice"] == 0.5
    assert found.overall["low"] <= 0.5 <= found.overall["high"]
    # Any threshold from 0.2 to below 0.3 leaves nothing to be desired.
    assert 0.2 <= diagnosis.segmentation_threshold(cases) < 0.3


def test_classification_counts_pairs_within_sites_and_says_nothing_of_few():
    labels = np.asarray(data().examples["label"])
    probability = 0.2 + 0.1 * labels + np.array([[0.0], [0.5]])
    cases = diagnosis.cases(of(probability), data(), "label")
    bounds = [0.25, 0.75]
    found = diagnosis.score_classification(cases, bounds)
    assert np.isnan(found.sites["A"]["auc"]) and np.isnan(found.overall["auc"])
    assert (found.overall["detected"], found.overall["positives"]) == (4, 4)
    assert (found.overall["cleared"], found.overall["negatives"]) == (8, 8)
    many = cases._replace(**{k: np.concatenate([v, v]) for k, v in cases._asdict().items() if k != "names"})
    many = many._replace(patient=np.concatenate([cases.patient, cases.patient + 9]))
    found = diagnosis.score_classification(many, bounds)
    assert found.overall["auc"] == 1 and (found.overall["low"], found.overall["high"]) == (1, 1)


@pytest.mark.parametrize("kind", RATERS)
def test_trivial_predictors_are_scored_like_others(kind):
    rater = RATERS[kind]
    shape = (2, 6, *np.shape(data().examples[rater.target])[2:])
    constants = [diagnosis.cases(of(np.full(shape, v)), data(), rater.target) for v in rater.trivial.values()]
    nothing, everything = (rater.score(found, [0.5, 0.5]).overall for found in constants)
    if kind == "segmentation":
        lesion = np.array([4, 16])
        assert nothing["dice"] == 0
        assert everything["dice"] == pytest.approx(np.mean(2 * lesion / (lesion + 128)))
    else:
        assert (nothing["detected"], nothing["cleared"]) == (0, 8)
        assert (everything["detected"], everything["cleared"]) == (4, 0)
