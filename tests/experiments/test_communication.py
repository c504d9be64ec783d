"""Codecs compared: bytes are those of messages that were made, and options reach their codec."""

import json

import pytest
from absl import flags

from experiments import communication
from experiments.pipeline.federated_settings import TrainSettings, resolve
from experiments.pipeline.programs import flag_groups
from fedrecon.training import FlagError

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


@pytest.mark.slow
def test_bytes_are_those_of_messages_that_were_made(tmp_path):
    planned = communication.plan(settings(), ["none", "qsgd", "random_k"], {})
    found = communication.compare(planned, tmp_path)
    for name in ("qsgd", "random_k"):
        assert found[name]["serialised_bytes"] == found[name]["bytes_up"]
        assert found[name]["ratio"] > 1
    assert found["none"]["ratio"] == 1 and found["none"]["bytes_to_target"] % found["none"]["bytes_up"] == 0
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
