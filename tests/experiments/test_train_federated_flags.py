"""Flags of federated training: what does not fit is named."""

import math
import re
import subprocess
import sys

import pytest
from absl import flags

from experiments import compare, full_stack, train_federated
from experiments.pipeline.federated_data import load_data, make_task
from experiments.pipeline.federated_run import budget_of
from experiments.pipeline.federated_settings import TrainSettings, check_settings, resolve
from experiments.pipeline.programs import GROUPS, flag_groups, with_flag_files
from fedrecon.runtime.help import help_text, spelled
from fedrecon.training.catalog_algorithms import algorithms, check_method, make_algorithm, options_of
from fedrecon.training.dotted import split_dotted
from fedrecon.training.model_files import example_of
from fedrecon.training.options import FlagError, changed, fields

TINY = TrainSettings(
    rounds=2, clients=4, examples_per_client=12, classes=2, image_size=8, channels=2, pools=1, batch_size=4
)


def command(*arguments):
    return [sys.executable, "-m", "experiments.train_federated", *arguments]


def test_every_option_of_every_algorithm_is_a_number_or_a_name():
    assert options_of("scaffold") == {"learning_rate": float, "option": int}
    assert options_of("fedprox") == {"strength": float, "keep_optimizer": bool}
    assert options_of("fedrep") == {"head_steps": int, "head": str}
    for name in algorithms():
        assert set(options_of(name).values()) <= {int, float, bool, str}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "nothing"}, "--algorithm: expected one of fedavg, fedavgm"),
        ({"algorithm_options": (("strength", "1"),)}, r"--algorithm.strength: .*fedavg's options \(keep_opt"),
        (
            {"algorithm": "fedprox", "algorithm_options": (("strength", "much"),)},
            "a finite number, found 'much'",
        ),
        ({"algorithm": "fedprox", "algorithm_options": (("strength", "nan"),)}, "a finite number"),
        ({"algorithm": "scaffold", "algorithm_options": (("option", "1.5"),)}, "an integer, found '1.5'"),
        ({"algorithm": "afl", "algorithm_options": (("average", "yes"),)}, "true or false"),
        ({"algorithm": "scaffold", "optimizer": "adam"}, "--optimizer: expected sgd"),
        ({"algorithm": "feddyn", "weighting": "equal"}, "--weighting: expected default"),
        ({"algorithm": "afl", "sampler": "uniform", "clients_per_round": 2}, "--sampler: expected all"),
        ({"algorithm": "local_only", "reduce": "median"}, "--reduce: expected mean"),
        (
            {"algorithm": "centralised", "sampler": "uniform", "clients_per_round": 2},
            "--sampler: expected all",
        ),
        ({"algorithm": "moon", "task": "segmentation"}, "--task=classification"),
        ({"reduce_options": (("fraction", "0.1"),)}, "--reduce: expected a robust reducer"),
        (
            {"reduce": "krum", "reduce_options": (("fraction", "0.1"),)},
            r"--reduce.fraction: .*byzantine \(int\)",
        ),
        ({"reduce": "trimmed_mean", "reduce_options": (("fraction", "0.6"),)}, "--reduce.fraction: expected"),
    ],
)
def test_options_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        settings = changed(TINY, **changes)
        check_method(settings.federation, (settings.task,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"algorithm": "fedprox", "algorithm_options": (("strength", "-1"),)},
            "--algorithm.strength: expected",
        ),
        ({"algorithm": "fedper", "algorithm_options": (("head", "nose"),)}, "--algorithm.head: .*nose"),
        (
            {"sampler": "uniform", "clients_per_round": 5},
            "--clients_per_round: expected at most the 4 clients",
        ),
    ],
)
def test_values_that_recipes_refuse_name_the_flag(changes, message):
    settings = changed(TINY, **changes)
    data = load_data(settings)
    with pytest.raises(ValueError, match=message):
        task = make_task(settings, example_of(data.train))
        make_algorithm(settings.federation, budget_of(settings), task, data.train)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "--rounds: expected a positive number"),
        ({"learning_rate": math.nan}, "--learning_rate"),
        ({"classes": 1}, "--classes"),
        ({"norm": "group"}, "--channels: expected a multiple of 4"),
        ({"task": "guess"}, "--task: expected one of classification"),
        (
            {"cohort": "retina", "data_dir": "x"},
            "--task: expected segmentation with --cohort=retina, found classification",
        ),
        ({"cohort": "xray"}, "--data_dir: expected the folder"),
        ({"cohort": "simulated", "data_dir": "x"}, "--data_dir: expected no folder"),
        ({"cohort": "folder"}, "--data_dir: expected the folder"),
        ({"cohort": "folder", "data_dir": "x", "clients": 4}, "--clients: expected 0"),
        ({"sampler": "uniform"}, "--clients_per_round: expected a positive number"),
        ({"clients_per_round": 2}, "--clients_per_round: expected 0"),
        ({"cohort": "xray", "data_dir": "x"}, "--clients: expected 0"),
        (
            {"cohort": "retina", "data_dir": "x", "task": "segmentation", "partition": "case_type"},
            "--clients: expected 0, the case types",
        ),
        ({"task": "reconstruction", "feature_shift": 1.0}, "--feature_shift"),
    ],
)
def test_settings_out_of_range_name_the_flag(changes, message):
    with pytest.raises(ValueError, match=message):
        check_settings(changed(TINY, **changes))


def test_files_of_flags_may_hold_those_of_the_algorithm(tmp_path):
    (tmp_path / "inner").write_text("--algorithm.strength=0.5\n")
    (tmp_path / "outer").write_text(f"# Comment\n--flagfile={tmp_path}/inner\n--rounds=3\n")
    for given in ([f"--flagfile={tmp_path}/outer"], ["--flagfile", f"{tmp_path}/outer"]):
        found = with_flag_files(["p", "--seed", "7", *given, "--clients=2"])
        expected = ["--seed", "7", "--algorithm.strength=0.5", "--rounds=3", "--clients=2"]
        assert found == ["p", *expected]
    with pytest.raises(SystemExit, match="none"):
        with_flag_files(["p", f"--flagfile={tmp_path}/none"])


def test_a_client_of_one_example_is_named_with_what_to_do():
    with pytest.raises(FlagError, match=r"client 0 .*found 1; raise --examples_per_client"):
        load_data(changed(TINY, examples_per_client=1))


def test_images_of_a_folder_may_be_given_a_size():
    settings = check_settings(resolve({"data_dir": "x", "image_size": 64}))
    assert (settings.cohort, settings.image_size) == ("folder", 64)


def test_dotted_flags_are_taken_out():
    # Flags of differential privacy have two spellings.
    rest, _ = split_dotted(["p", "--dp.epsilon=8", "--dp.unit", "site", "--nodp.adaptive_clipping"], ("m",))
    assert rest == ["p", "--dp_epsilon=8", "--dp_unit", "site", "--nodp_adaptive_clipping"]
    with pytest.raises(FlagError, match=r"--dp\.delta: expected once, found --dp.delta=1 and --dp_delta=2"):
        split_dotted(["--dp.delta=1", "--dp_delta=2"], ("m",))
    rest, dotted = split_dotted(["p", "--a=1", "--m.x=2", "-m.y=a=b", "pos.x"], ("m", "n"))
    assert rest == ["p", "--a=1", "pos.x"]
    assert dotted == {"m": (("x", "2"), ("y", "a=b")), "n": ()}
    for wrong, message in {
        "--k.x=1": "expected one of m, n",
        "--m.x": "NAME=VALUE",
        "--m.=1": "NAME=VALUE",
    }.items():
        with pytest.raises(ValueError, match=message):
            split_dotted([wrong], ("m", "n"))
    arguments = ["--screen_cosine", "-0.5", "-.5", "--m.x", "-2.5", "--path=a.b", "--n.y", "z"]
    rest, dotted = split_dotted(arguments, ("m", "n"))
    assert rest == ["--screen_cosine", "-0.5", "-.5", "--path=a.b"]
    assert dotted == {"m": (("x", "-2.5"),), "n": (("y", "z"),)}
    for wrong in (["--m.x", "--rounds=3"], ["--m.x"]):
        with pytest.raises(ValueError, match="NAME=VALUE"):
            split_dotted(wrong, ("m", "n"))
    with pytest.raises(ValueError, match="found twice"):
        split_dotted(["--m.x=1", "--m.x=2"], ("m",))


@pytest.mark.slow
def test_help_shows_a_few_flags_first_and_all_of_them_when_asked():
    short = subprocess.run(command("--help"), capture_output=True, text=True, timeout=120, check=False)
    assert short.returncode == 0 and not short.stderr
    shown = re.findall(r"^  --(?:\[no\])?([\w.]+)", short.stdout, re.M)
    assert (
        shown == [spelled(name) for name in train_federated.FIRST] and "--helpfull lists all" in short.stdout
    )
    values = flags.FlagValues()
    train_federated.define_flags(values)
    everything = help_text("p", "", flag_groups(TrainSettings, values))
    settings = [field for field, _ in fields(TrainSettings) if field.metadata]
    for name in (
        *(field.name for field in settings),
        "algorithm",
        "workdir",
        "resume",
        "parallel",
        "devices",
    ):
        name = spelled(name)
        assert f"--{name}=" in everything or f"--[no]{name}\n" in everything, name
    words = everything.replace("\n", " ")
    choices = [choice for field in settings for choice in field.metadata["choices"]]
    assert len(choices) > 50 and all(name in words for name in (*algorithms(), *choices))


@pytest.mark.parametrize("program", [compare, full_stack, train_federated])
def test_every_flag_is_in_one_group(program):
    values = flags.FlagValues()
    program.define_flags(values)
    settings = getattr(program, "FullStackSettings", TrainSettings)
    groups = flag_groups(settings, values)
    names = [flag.name for members in groups.values() for flag in members]
    assert sorted(names) == sorted(values) and len(names) > 60
    assert set(program.FIRST) <= set(names) and len(program.FIRST) <= 15
    assert [name for name in GROUPS if name in groups] == list(groups)
    assert {"data", "model", "training", "federation", "privacy", "run"} <= set(groups)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--round=2", "round"),
        ("--algorithm.strength=2", "--algorithm.strength"),
        ("--rounds=many", "--rounds"),
        ("--cohort=moon", "--cohort"),
        ("--parallel=often", "--parallel"),
    ],
)
def test_a_wrong_flag_ends_with_one_line_and_a_non_zero_status(flag, message, tmp_path):
    process = subprocess.run(
        command(f"--workdir={tmp_path / 'run'}", flag),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 1
    line = process.stderr.strip().splitlines()[-1]
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    assert line.startswith("train_federated: ") and message in line
