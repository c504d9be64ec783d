"""Cohorts of train_federated: what each is for, and what their examples are."""

import numpy as np
import pytest

from experiments.pipeline.federated_data import load_data, number_of_classes
from experiments.pipeline.federated_settings import check_settings, resolve
from experiments.pipeline.folders import data_kind
from fedrecon.training import FlagError


def settings(**given):
    return check_settings(resolve({"preset": "smoke", **given}))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cohort": "heads", "data_dir": "d", "task": "segmentation"}, "task: expected reconstruction"),
        ({"cohort": "sunnybrook", "data_dir": "d"}, "task: expected reconstruction or segmentation"),
        ({"cohort": "heads", "task": "reconstruction"}, "data_dir: expected the folder of the data"),
        ({"cohort": "simulated_ct", "data_dir": "d"}, "data_dir: expected no folder"),
        ({"cohort": "simulated_mri", "classes": 3}, "classes: expected --task=classification"),
        ({"cohort": "simulated", "patients_per_site": 9}, "patients_per_site"),
        ({"cohort": "simulated_ct", "validation_part": 0.2}, "validation_part"),
    ],
)
def test_cohorts_are_refused_for_what_they_are_not(given, words):
    with pytest.raises(FlagError, match=words):
        settings(**given)


def test_simulated_ct_has_sinograms_or_images_with_lesions():
    shape = {"cohort": "simulated_ct", "clients": 3, "image_size": 16, "patients_per_site": 3}
    measured = load_data(settings(task="reconstruction", **shape)).train.examples
    assert measured["sinogram"].shape[2:] == (8, 24) and measured["target"].shape[2:] == (16, 16)
    asked = settings(task="classification", **shape)
    found = load_data(asked)
    assert number_of_classes(asked) == 2 and data_kind(asked) == "simulated"
    assert set(found.train.examples) == {"image", "label", "volume"}
    np.testing.assert_array_equal(found.train.examples["image"][..., 0], measured["target"])
    assert found.validation is not None and found.train.clients == 3


@pytest.mark.slow
def test_public_files_are_divided_by_patient_or_by_slices(measured_data):
    folder = str(measured_data("multisite/sunnybrook_cardiac.h5").parents[1])
    common = {"cohort": "sunnybrook", "data_dir": folder, "partition": "quantity", "clients": 5}
    hearts = load_data(
        settings(task="segmentation", concentration=5.0, minimum_examples=18, validation_part=0.2, **common)
    )
    parts = [hearts.train, hearts.validation, hearts.test]
    patients = [
        len({(client, int(part.examples["volume"][client, i])) for client, i in np.argwhere(part.valid)})
        for part in parts
    ]
    assert sum(patients) == 30 and min(patients) >= 5 and hearts.train.clients == 5
    heads = load_data(settings(task="reconstruction", cohort="heads", data_dir=folder, image_size=32))
    assert heads.train.names[:2] == ("Canon Galan", "GE MR750") and heads.train.clients == 6
    assert "One volunteer per scanner" in heads.notes and "other slices" in heads.notes
