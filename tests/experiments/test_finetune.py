"""Pre-training without labels, then fine-tuning by choices: plans, bytes, and what is carried over."""

import json

import numpy as np
import pytest
from absl import flags
from sklearn.metrics import roc_auc_score

from experiments import finetune
from experiments.pipeline.federated_data import load_data, make_task
from experiments.pipeline.federated_run import run
from experiments.pipeline.federated_settings import TrainSettings, resolve
from experiments.pipeline.pretraining import autoencoder
from experiments.pipeline.programs import flag_groups
from fedrecon.models import MaskedAutoencoder
from fedrecon.runtime import Workdir
from fedrecon.training import FlagError, changed, example_of, flat
from fedrecon.weights import read_weights

SIZES = {"clients": 3, "examples_per_client": 16, "image_size": 8, "rounds": 2, "validation_part": 0.25}


def settings(**more):
    return resolve({"preset": "smoke", **SIZES, **more})


def test_choices_and_their_options_are_checked_before_anything_is_trained():
    planned = finetune.plan(
        settings(), ["full", "lora+top_k"], {"lora": (("rank", "2"),), "top_k": (("bits", "4"),)}
    )
    federation = planned["lora+top_k"].federation
    assert (federation.finetune, federation.finetune_options) == ("lora", (("rank", "2"),))
    assert (federation.codec, federation.codec_options) == ("top_k", (("bits", "4"),))
    assert planned["full"].federation.codec == "none"
    for choices, dotted, words in (
        (["prefix"], {}, "choices: expected distinct ones of full, lora"),
        (["lora+zip"], {}, "choices: expected distinct"),
        (["lora+"], {}, "choices: expected distinct"),
        (["full", "full"], {}, "choices: expected distinct"),
        (["full"], {"lora": (("rank", "2"),)}, r"lora\.NAME: expected one of --choices"),
        (["lora"], {"lora": (("rank", "x"),)}, r"lora\.rank: expected an integer"),
        (["full+top_k"], {"top_k": (("fraction", "2"),)}, r"top_k\.fraction: expected a number in"),
    ):
        with pytest.raises(FlagError, match=words):
            finetune.plan(settings(), choices, dotted)


def test_networks_are_pre_trained_by_their_own_autoencoder():
    model = autoencoder(settings(network="vit"), 1)
    assert isinstance(model, MaskedAutoencoder) and model.patch == 4
    assert autoencoder(settings(), 3).out_channels == 3
    with pytest.raises(FlagError, match="network: expected vit, vit-b or unet"):
        autoencoder(settings(network="resnet18"), 1)


def test_figures_are_means_over_seeds_next_to_full_fine_tuning():
    def row(dice, sent, rounds):
        sizes = {"bytes_up_of_a_round": sent, "bytes_up": rounds * sent, "bytes_down": 7}
        return {"dice": dice, "worst": dice, "rounds": rounds, **sizes}

    found = finetune.together(
        {"full": [row(0.8, 1000, 2), row(0.6, 1000, 4)], "lora": [row(0.7, 10, 6)]}, "dice"
    )
    assert found["full"]["mean"] == pytest.approx(0.7) and found["full"]["deviation"] == pytest.approx(
        0.1 * 2**0.5
    )
    assert found["lora"]["of_full"] == pytest.approx(1.0)
    assert found["lora"]["fewer"] == pytest.approx(3000 / 60) and found["lora"]["fewer_a_round"] == 100
    assert finetune.table({"metric": "dice", "choices": found}).count("\n") == 3


@pytest.mark.slow
def test_choices_start_from_what_was_trained_without_labels(tmp_path):
    base = changed(settings(optimizer="adam", learning_rate=0.01), patience=2)
    planned = finetune.plan(base, ["full", "lora+top_k"], {"lora": (("rank", "2"),)})
    options = {"seeds": [0], "factors": [1.0], "rounds": 2, "rate": 1e-3}
    found = finetune.compare(planned, tmp_path, **options)
    folder = tmp_path / "pretraining" / "seed-0"
    start, about = read_weights(folder / "start.npz")
    before = read_weights(folder / "models/pretraining.npz")[0]
    assert "encoder/block0/conv1/kernel" in about["copied"]
    np.testing.assert_array_equal(
        start.params["encoder"]["block0"]["conv1"]["kernel"],
        before.params["encoder"]["block0"]["conv1"]["kernel"],
    )
    full, lora = (found["choices"][choice] for choice in planned)
    numbers = sum(x.size for x in flatten(start.params))
    assert full["bytes_up_of_a_round"] == 4 * numbers + 4
    assert lora["fewer_a_round"] == full["bytes_up_of_a_round"] / lora["bytes_up_of_a_round"] > 50
    assert finetune.compare(planned, tmp_path, **options) == json.loads(json.dumps(found))


@pytest.mark.slow
def test_choices_start_from_a_base_with_its_layers_of_the_same_shapes(tmp_path):
    base = resolve({"preset": "smoke", **SIZES, "classes": 4})
    with Workdir(tmp_path / "base", flat(base), {}) as workdir:
        run(base, workdir)
    planned = finetune.plan(settings(classes=2), ["head"], {})
    options = {"seeds": [0], "factors": [1.0], "rounds": 2, "rate": 1e-3, "base": str(tmp_path / "base")}
    found = finetune.compare(planned, tmp_path / "run", **options)
    start, about = read_weights(tmp_path / "run/pretraining/seed-0/start.npz")
    there = read_weights(tmp_path / "base/models/fedavg.npz")[0]
    np.testing.assert_array_equal(
        start.params["encoder"]["block0"]["conv1"]["kernel"],
        there.params["encoder"]["block0"]["conv1"]["kernel"],
    )
    # Four classes there, two here: the last layer is drawn.
    assert start.params["head"]["kernel"].shape[-1] == 2 and "head/kernel" not in about["copied"]
    # The row of the model that all start from: its score by a prediction of every test example.
    first = planned["head"]
    data = load_data(changed(first, seed=0))
    task = make_task(first, example_of(data.train))
    scores = []
    for i in range(3):
        valid = data.test.valid[i]
        batch = {name: x[i][valid] for name, x in data.test.examples.items()}
        chances = np.asarray(task.predict(*start, {**batch, "valid": valid[valid]}))
        if len(set(batch["label"].tolist())) == 2:
            scores.append(roc_auc_score(batch["label"], chances[:, 1]))
    nothing = found["choices"]["nothing"]
    assert nothing["mean"] == pytest.approx(np.mean(scores), abs=1e-5) and nothing["bytes_up"] == 0
    assert finetune.compare(planned, tmp_path / "run", **options) == json.loads(json.dumps(found))
    with pytest.raises(FlagError, match=r"base: expected the model that .* began with"):
        finetune.compare(
            planned, tmp_path / "run", **{**options, "base": str(tmp_path / "run/head/rate-1/seed-0")}
        )
    with pytest.raises(FlagError, match="base: expected RUN, a run that has released a model"):
        finetune.compare(planned, tmp_path / "other", **{**options, "base": str(tmp_path / "none")})


def flatten(tree):
    return [x for part in tree.values() for x in (flatten(part) if isinstance(part, dict) else [part])]


def test_the_program_has_its_flags():
    values = flags.FlagValues()
    finetune.define_flags(values)
    groups = flag_groups(TrainSettings, values)
    assert set(finetune.FIRST) <= {flag.name for members in groups.values() for flag in members}
    assert "finetune" not in values and "initialize_from" not in values
