"""Pre-training by contrast and training with few labels: the data that they see, and what is carried over."""

import numpy as np
import pytest

from experiments import finetune
from experiments.pipeline.contrastive import (
    contrastive_stage,
    contrastive_ways,
    federation_of,
    few_labels,
    images_of,
)
from experiments.pipeline.federated_data import FederatedData, load_data
from experiments.pipeline.federated_settings import resolve
from experiments.pipeline.pretraining import check_way
from fedrecon.data import ClientData
from fedrecon.training import FlagError, changed, check_method
from fedrecon.weights import read_weights
from tests.experiments.test_finetune import settings


def volumes(segmented=True):
    """Two clients: volumes of 3 and 2 slices between each other's, and of 4; a row of padding."""
    volume = np.array([[0, 1, 0, 1, 0, 9], [5, 5, 5, 5, 9, 9]], np.int32)
    valid = volume < 9
    examples = {"image": np.zeros((2, 6, 4, 4, 1), np.float32), "volume": volume}
    examples["segmentation" if segmented else "label"] = np.zeros((2, 6), np.int32)
    return ClientData(examples, valid, ("a", "b"))


def test_slices_are_numbered_within_their_volumes_and_labels_left_behind():
    found = images_of(volumes(), slices=True)
    assert set(found.examples) == {"image", "slice", "slices"}
    np.testing.assert_array_equal(found.examples["slice"], [[0, 0, 1, 1, 2, 0], [0, 1, 2, 3, 0, 0]])
    np.testing.assert_array_equal(found.examples["slices"], [[3, 2, 3, 2, 3, 1], [4, 4, 4, 4, 1, 1]])
    assert set(images_of(volumes(), slices=False).examples) == {"image"}
    data = volumes()
    alone = ClientData({**data.examples, "volume": np.arange(12).reshape(2, 6)}, data.valid, data.names)
    with pytest.raises(FlagError, match="--pretraining: expected volumes of several slices"):
        images_of(alone, slices=True)


def test_few_labels_are_those_of_whole_patients_and_of_each_label():
    rng = np.random.default_rng(0)
    volume = np.repeat(np.arange(20), 2)[None].repeat(2, 0)
    label = (volume % 4 == 0).astype(np.int32)
    clients = ClientData({"image": rng.normal(size=(2, 40)), "volume": volume, "label": label},
                         np.arange(40)[None].repeat(2, 0) < 38, ("a", "b"))  # fmt: skip
    data = FederatedData(clients, None, clients, np.zeros((2, 2)), ("0", "1"), "")
    found = few_labels(data, 0.2, 3)
    for client in range(2):
        kept = found.train.valid[client]
        patients = np.unique(volume[client][kept])
        # Of 14 and of 5 patients.
        assert len(patients) == 3 + 1 and (label[client][kept] == 1).any() and kept.sum() == 8
        np.testing.assert_array_equal(kept, np.isin(volume[client], patients) & clients.valid[client])
    assert found.test is data.test and few_labels(data, 1.0, 3) is data
    assert (found.train.valid != few_labels(data, 0.2, 4).train.valid).any()
    np.testing.assert_array_equal(found.train.valid, few_labels(data, 0.2, 3).train.valid)
    # Without a label of patients, of all of them.
    hearts = data._replace(train=volumes())
    assert few_labels(hearts, 0.01, 0).train.valid.sum(1).tolist() in ([3, 4], [2, 4])


def test_ways_are_those_of_the_catalog_and_elsewhere_they_are_refused():
    assert contrastive_ways() == ("simclr", "fedmoco", "wu_dermatology", "wu_volumetric")
    assert federation_of("simclr", ()).algorithm == "fedavg"
    assert federation_of("fedmoco", (("queue", "8"),)).algorithm_options == (("queue", "8"),)
    for way, options, words in (
        ("moco", (), "--pretraining: expected one of masked, simclr, fedmoco"),
        ("fedmoco", (("size", "8"),), "--pretraining.size: expected one of fedmoco's options"),
        ("fedmoco", (("momentum", "2"),), "--pretraining.momentum: expected a number in"),
        ("masked", (("queue", "8"),), "--pretraining.queue: expected a way by contrast"),
    ):
        with pytest.raises(FlagError, match=words):
            check_way(way, options)
    base = settings().federation
    for name in contrastive_ways()[1:]:
        with pytest.raises(
            FlagError, match=f"--algorithm: expected experiments.finetune --pretraining={name}"
        ):
            check_method(changed(base, algorithm=name), ("classification",))


def test_networks_have_layers_that_are_pre_trained_or_are_refused():
    image = {"image": np.zeros((1, 8, 8, 1), np.float32)}
    for network in ("unet", "residual-unet-deep-supervision"):
        task, contrast = contrastive_stage(settings(task="segmentation", network=network), image)
        assert contrast.features == 64 and task.normalization.params["network"]["encoder"]
    with pytest.raises(FlagError, match="--network: expected one of unet"):
        contrastive_stage(settings(task="segmentation", network="swin-unet"), image)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "given"),
    [
        pytest.param("simclr", {}, marks=pytest.mark.nightly),
        ("fedmoco", {}),
        pytest.param("wu_dermatology", {}, marks=pytest.mark.nightly),
        ("wu_volumetric", {"task": "segmentation", "cohort": "simulated_mri", "patients_per_site": 6}),
    ],
)
def test_choices_start_from_what_was_trained_by_contrast(way, given, tmp_path):
    own = {"clients": 3, "image_size": 16, "rounds": 2} if given else {}
    base = resolve({"preset": "smoke", **own, **given}) if given else settings(validation_part=0.0)
    base = changed(base, federation=changed(base.federation, optimizer="adam"), learning_rate=0.01)
    planned = finetune.plan(base, ["full", "head"], {})
    options = {"seeds": [0], "factors": [1.0], "rounds": 2, "rate": 1e-3, "way": way, "labels": 0.5}
    if way != "simclr":
        options["options"] = (("queue", "16"),)
    found = finetune.compare(planned, tmp_path, **options)
    folder = tmp_path / "pretraining" / "seed-0"
    start, about = read_weights(folder / "start.npz")
    before = read_weights(folder / "models/pretraining.npz")[0]
    assert "encoder/block0/conv1/kernel" in about["copied"]
    np.testing.assert_array_equal(
        start.params["encoder"]["block0"]["conv1"]["kernel"],
        before.params["network"]["encoder"]["block0"]["conv1"]["kernel"],
    )
    drawn = load_data(planned["full"]).train
    used = few_labels(load_data(planned["full"]), 0.5, 0).train
    assert 0 < used.valid.sum() < drawn.valid.sum()
    assert (tmp_path / "full/rate-1-labels-0.5/seed-0/results.json").exists()
    assert finetune.compare(planned, tmp_path, **options)["choices"]["full"]["mean"] == pytest.approx(
        found["choices"]["full"]["mean"], nan_ok=True
    )
