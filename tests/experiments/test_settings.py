"""Settings, presets and flags of the full-stack experiment."""

import subprocess
import sys

import pytest
from absl import flags

from experiments.pipeline.federated_settings import TrainSettings
from experiments.pipeline.joint_settings import JointSettings
from experiments.pipeline.programs import define_run_flags
from experiments.pipeline.settings import BY_PRESET, PRESETS, SIMULATED_MRI, FullStackSettings, resolve
from fedrecon.training.options import changed, fields, flat


@pytest.mark.parametrize(("cohort", "preset"), PRESETS)
def test_every_preset_resolves(cohort, preset):
    data_dir = {} if cohort == "simulated" else {"data_dir": "somewhere"}
    settings = resolve({"cohort": cohort, "preset": preset, **data_dir})
    simulated_mri = SIMULATED_MRI[preset] if cohort == "simulated" else {}
    for name, value in (PRESETS[cohort, preset] | simulated_mri).items():
        assert flat(settings)[name] == value


def test_simulated_mri_has_values_of_its_own():
    assert resolve({}).network == "modl"
    assert resolve({"network": "varnet"}).network == "varnet"
    ct = resolve({"modality": "ct", "preset": "full"})
    assert (ct.network, ct.rounds) == ("varnet", PRESETS["simulated", "full"]["rounds"])
    measured = resolve({"cohort": "measured", "data_dir": "somewhere"})
    assert (measured.network, measured.federation.weighting, measured.start) == ("modl", "equal", "random")


def test_the_best_round_is_kept_where_there_are_validation_curves():
    assert resolve({}).federation.patience > resolve({}).rounds
    for given in ({"dp_epsilon": 8.0}, {"validate_every": 0}):
        assert resolve(given).federation.patience == 0
    assert resolve({"patience": 3}).federation.patience == 3


def test_real_is_another_word_for_measured():
    given = {"data_dir": "somewhere", "preset": "full"}
    assert resolve({"cohort": "real", **given}) == resolve({"cohort": "measured", **given})


def test_given_values_win_over_the_preset():
    assert resolve({"preset": "smoke", "rounds": 7}).rounds == 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rounds": 0}, "--rounds: expected a positive number, found 0"),
        ({"learning_rate": float("nan")}, "--learning_rate"),
        ({"acceleration": 0.5}, "--acceleration: expected at least 1"),
        ({"acceleration": float("inf")}, "--acceleration: expected at least 1, found inf"),
        ({"dp_epsilon": float("inf")}, "--dp.epsilon: expected at least 0, found inf"),
        (
            {"dp_epsilon": 8.0, "dp_delta": float("nan")},
            "--dp.delta: expected a number from 0 to 1, found nan",
        ),
        (
            {"pooled_learning_rate": 1.0, "comparators": False},
            "--pooled_learning_rate: expected --comparators",
        ),
        ({"clip_norm": -1.0}, "--clip_norm"),
        ({"dp_delta": 1.0}, "--dp.delta"),
        ({"cohort": "measured", "data_dir": "x", "shrink": 3}, "--shrink: expected 1, 2 or 4"),
        ({"cohort": "measured"}, "--data_dir: expected the folder"),
        ({"cohort": "measured", "data_dir": "x", "modality": "ct"}, "--modality: expected mri"),
        ({"cohort": "simulated", "data_dir": "x"}, "--data_dir: expected --cohort=folder or measured"),
        ({"cohort": "folder"}, "--data_dir: expected the folder"),
        ({"data_dir": "x", "modality": "ct"}, "--modality: expected mri with --cohort=folder"),
        ({"data_dir": "x", "slices": 9}, "--slices: expected --cohort=simulated"),
        ({"data_dir": "x", "acceleration": 6.0}, "--acceleration: expected --cohort=simulated or measured"),
        ({"sites": 3, "clients_per_round": 4}, "--clients_per_round: expected at most the 3 sites"),
        ({"preset": "none"}, "--preset: expected one of"),
        ({"seed": -1}, "--seed: expected at least 0"),
        ({"masks_per_slice": 50}, "--masks_per_slice: expected --cohort=measured with it"),
        ({"matrix": 64}, "--matrix: expected --cohort=measured"),
        ({"shrink": 4}, "--shrink: expected --cohort=measured"),
        ({"cohort": "real", "data_dir": "x", "sites": 9}, "--sites: expected --cohort=simulated"),
        ({"cohort": "real", "data_dir": "x", "image_size": 96}, "--image_size: expected --cohort=simulated"),
        (
            {"dp_epsilon": 8.0, "dp_unit": "site", "dp_batch_size": 4},
            "--dp.batch_size: expected another",
        ),
        ({"dp_epsilon": 8.0, "batch_size": 7}, "--batch_size: expected --dp.batch_size"),
        ({"modality": "ct", "learn_coil_maps": True}, "--learn_coil_maps: expected --modality=mri"),
        ({"image_size": 5}, "--image_size: expected at least 16"),
        ({"image_size": 33, "pools": 6}, "--pools: expected poolings that leave a pixel"),
    ],
)
def test_values_out_of_range_name_the_flag(given, message):
    with pytest.raises(ValueError, match=message):
        resolve(given)


def _main(*flags):
    command = [sys.executable, "-m", "experiments.full_stack", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_help_lists_every_setting():
    values = flags.FlagValues()
    define_run_flags(FullStackSettings, by_preset=BY_PRESET, flag_values=values)
    text = values.get_help()
    for field, _ in fields(FullStackSettings):
        if not field.metadata:
            continue
        assert f"--{field.name}:" in text or f"--[no]{field.name}:" in text, field.name
    assert "(by --preset)" in values["rounds"].help and "(default 0)" in values["stream"].help


@pytest.mark.slow
def test_a_wrong_flag_ends_with_one_line_and_a_non_zero_status(tmp_path):
    process = _main(f"--workdir={tmp_path}", "--acceleration=0.5")
    assert process.returncode == 1
    assert process.stderr.strip().endswith("--acceleration: expected at least 1, found 0.5")
    assert "Traceback" not in process.stderr
    assert not list(tmp_path.iterdir())


def test_config_files_have_later_settings_where_they_are_changed():
    """So that runs of earlier versions continue; another program has had --remat from its beginning."""
    later = {"average": 0.9, "accumulate": 5, "precision": "bfloat16", "remat": True}
    assert not later.keys() & flat(TrainSettings()).keys()
    assert later.items() <= flat(changed(TrainSettings(), **later)).items()
    assert flat(JointSettings())["remat"] is False
