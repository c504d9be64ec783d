"""Codecs compared: bytes are those of messages that were made, and options reach their codec."""

import json

import numpy as np
import pytest
from absl import flags

from experiments import communication
from experiments.pipeline.byte_curves import byte_curve, byte_figure, mean_curve, to_target
from experiments.pipeline.federated_settings import TrainSettings, resolve
from experiments.pipeline.programs import flag_groups
from fedrecon.training import FlagError, changed

SIZES = {"clients": 3, "examples_per_client": 8, "image_size": 8, "rounds": 2, "validation_part": 0.25}


def settings():
    return resolve({"preset": "smoke", **SIZES})


def test_codecs_and_options_are_checked_before_anything_is_trained():
    assert isinstance(settings(), TrainSettings)
    planned = communication.plan(settings(), ["none", "top_k"], {"top_k": (("fraction", "0.5"),)})
    assert planned["top_k"].federation.codec_options == (("fraction", "0.5"),)
    assert planned["none"].federation.codec_options == ()
    for codecs, dotted, words in (
        (["zip"], {}, "codec: expected distinct ones of none, dense"),
        (["qsgd", "qsgd"], {}, "codec: expected distinct"),
        (["qsgd"], {"top_k": (("fraction", "0.5"),)}, r"top_k\.NAME: expected one of --codec"),
        (["qsgd"], {"codec": (("levels", "x"),)}, r"codec\.levels: expected an integer"),
    ):
        with pytest.raises(FlagError, match=words):
            communication.plan(settings(), codecs, dotted)


def record(up, down, loss, dice, seconds=1.0):
    scores = {"a": {"loss": loss, "dice": dice}, "b": {"loss": loss + 1, "dice": dice}}
    sizes = {"bytes_up": 2 * up, "bytes_down": 2 * down, "clients": 2, "seconds": seconds}
    return {**sizes, "validation": scores, "validation_seconds": 0.5}


def test_bytes_and_seconds_to_the_target_are_those_of_the_log():
    plain = byte_curve([record(1000, 500, loss, 1 - loss) for loss in (1.0, 0.5, 0.1, 0.0, 0.04)], "dice")
    small = byte_curve([record(10, 500, loss, 1 - loss) for loss in (1.0, 0.5, 0.2, 0.05)], "dice")
    assert plain.up.tolist() == [1000, 2000, 3000, 4000, 5000] and plain.loss[0] == 1.5
    own = to_target(plain, plain, "dice")
    assert (own["rounds_to_target"], own["bytes_to_target"], own["bytes_down_to_target"]) == (4, 4000, 2000)
    found = to_target(small, plain, "dice")
    assert (found["rounds_to_target"], found["bytes_to_target"], found["bytes_down_to_target"]) == (
        4,
        40,
        2000,
    )
    # Four rounds of half a second, and 8 * 2040 bits.
    assert found["seconds_to_target"]["10"] == pytest.approx(2 + 8 * 2040 / 1e7)
    # A tenth of 7500 bytes is one round of 510.
    assert found["score_at_equal_bytes"] == 0.0 and own["score_at_equal_bytes"] is None
    assert to_target(small, None, "dice")["bytes_to_target"] is None
    assert byte_figure({"none": plain, "top_k": small}, "dice") is not None
    assert (
        byte_figure({"none": byte_curve([{**record(1, 1, 0, 0), "validation": {}}], "dice")}, "dice") is None
    )


def test_several_seeds_have_means_and_their_scores():
    row = {"mean": 0.5, "rounds": 3, "adds": True, "metric": "dice", "seconds_to_target": {"10": 1.0}}
    other = {**row, "mean": 0.7, "rounds": 4, "seconds_to_target": {"10": None}}
    assert communication.together([row]) is row
    found = communication.together([row, other])
    assert found["mean"] == pytest.approx(0.6) and found["each"] == [0.5, 0.7] and found["adds"] is True
    assert found["seconds_to_target"] == {"10": None} and found["metric"] == "dice"
    one, two = (byte_curve([record(10, 5, x, x)] * n, "dice") for x, n in ((0.2, 2), (0.4, 3)))
    both = mean_curve([one, two])
    np.testing.assert_allclose(both.score, [0.3, 0.3])
    np.testing.assert_allclose(both.up, [10, 20])


def test_what_there_is_besides_codecs_is_planned():
    base = resolve({"preset": "smoke", **SIZES, "rounds": 20, "initialize_from": "runs/base"})
    # As flags give it, where --codec is a list and --codec.NAME is of all codecs.
    base = changed(base, codec=["none", "lora", "diloco"], codec_options=(("fraction", "0.1"),))
    planned = communication.plan(base, ["none", "lora", "diloco"], {"finetune": (("rank", "2"),)})
    assert {p.federation.codec for p in planned.values()} == {"none"}
    assert planned["lora"].federation.finetune_options == (("rank", "2"),)
    assert planned["none"].federation.finetune == "full"
    assert (planned["diloco"].rounds, planned["diloco"].epochs) == (2, 10)
    with pytest.raises(FlagError, match="finetune: expected --initialize_from"):
        communication.plan(settings(), ["lora"], {})


@pytest.mark.slow
def test_bytes_are_those_of_messages_that_were_made(tmp_path):
    planned = communication.plan(settings(), ["none", "qsgd", "random_k"], {})
    found = communication.compare(planned, tmp_path)
    for name in ("qsgd", "random_k"):
        assert found[name]["serialised_bytes"] == found[name]["bytes_up"]
        assert found[name]["ratio"] > 1
    assert found["none"]["ratio"] == 1 and found["none"]["bytes_to_target"] % found["none"]["bytes_up"] == 0
    assert [found[name]["adds"] for name in found] == [True, False, True]
    assert (tmp_path / "communication.png").stat().st_size > 10_000
    assert communication.table(found).count("\n") == 4
    assert communication.compare(planned, tmp_path) == json.loads(json.dumps(found))  # finished runs are read


def test_the_program_has_its_flags():
    values = flags.FlagValues()
    communication.define_flags(values)
    assert {"codec", "json", "workdir", "algorithm"} <= set(values) and values[
        "codec"
    ].flag_type() != "string"


def test_help_knows_the_flags_it_shows_first():
    values = flags.FlagValues()
    communication.define_flags(values)
    groups = flag_groups(TrainSettings, values)
    assert set(communication.FIRST) <= {flag.name for members in groups.values() for flag in members}
