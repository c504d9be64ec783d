"""Comparisons: intervals against scipy, paired differences, tables, resuming and extending."""

import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from experiments.compare import compare, define_flags, plan
from experiments.pipeline.federated_settings import TrainSettings
from fedrecon.reporting.comparison import (
    compare_values,
    latex_table,
    markdown_table,
    mean_interval,
    plot_comparison,
    save_comparison_plot,
    t_quantile,
    text_table,
    write_csv,
)
from fedrecon.runtime import Workdir, read_log
from fedrecon.training.catalog_algorithms import algorithms
from fedrecon.training.options import changed

TINY = TrainSettings(
    rounds=2, clients=3, examples_per_client=12, classes=2, image_size=8, channels=2, pools=1, batch_size=6
)
NOTHING = {name: () for name in (*algorithms(), "reduce")}


@given(st.floats(0.001, 0.999), st.integers(1, 300))
def test_quantiles_are_those_of_student(probability, freedom):
    expected = scipy.stats.t.ppf(probability, freedom)
    np.testing.assert_allclose(t_quantile(probability, freedom), expected, rtol=1e-9, atol=1e-12)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_intervals_are_those_of_scipy(values):
    interval = mean_interval(values)
    if np.std(values) < 1e-9:
        return
    low, high = scipy.stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=scipy.stats.sem(values)
    )
    np.testing.assert_allclose(interval.mean - interval.half_width, low, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(interval.mean + interval.half_width, high, rtol=1e-7, atol=1e-9)


def test_intervals_of_too_few_values_are_not_numbers():
    assert math.isnan(mean_interval([]).mean)
    assert mean_interval([2.0]).mean == 2.0 and math.isnan(mean_interval([2.0]).half_width)
    assert math.isnan(mean_interval([1.0, math.nan]).mean)


@pytest.mark.parametrize("arguments", [(0.0, 3), (1.0, 3), (0.5, 0), (0.9, 2.5)])
def test_quantiles_of_nothing_are_refused(arguments):
    with pytest.raises(ValueError, match=r"probability|freedom"):
        t_quantile(*arguments)


def rows():
    """Seeds differ much more than methods: only pairs show who is better."""
    seeds = {0: 0.2, 1: 0.5, 2: 0.8, 3: 0.4}
    return compare_values(
        {
            "fedavg": seeds,
            "up_a": {seed: value + 0.02 + 0.002 * seed for seed, value in seeds.items()},
            "down": {seed: value - 0.02 + 0.002 * seed for seed, value in seeds.items()},
            "like": {seed: value + 0.02 * (-1) ** seed for seed, value in seeds.items()},
        },
        "fedavg",
        "own",
    )


def test_differences_are_paired():
    found = rows()
    assert [row.verdict for row in found] == ["", "better", "worse", "no difference shown"]
    assert found[0].difference is None
    paired = scipy.stats.ttest_rel(list(found[1].values.values()), list(found[0].values.values()))
    low, high = paired.confidence_interval(0.95)
    assert found[1].difference.mean - found[1].difference.half_width == pytest.approx(low)
    assert found[1].difference.mean + found[1].difference.half_width == pytest.approx(high)
    values = {row.method: row.values for row in found}
    assert compare_values(values, "fedavg", "own", lower_is_better=True)[1].verdict == "worse"
    assert all(row.difference is None for row in compare_values(values, "nobody", "own"))


def test_tables_and_figure(tmp_path):
    found = rows()
    text = text_table(found, "accuracy", "fedavg")
    assert "accuracy (4 seeds)" in text and "minus fedavg" in text
    assert "+0.023 ± 0.004" in text and "no difference shown" in text
    assert len({line.count("|") for line in markdown_table(found, "accuracy", "fedavg").splitlines()}) == 1
    latex = latex_table(found, "accuracy", "fedavg")
    assert r"up\_a & own & $0.498 \pm " in latex and r"$+0.023 \pm 0.004$ & better \\" in latex
    assert latex.count(r"\\") == 5 and all(line.count("&") == 4 for line in latex.splitlines() if "&" in line)
    write_csv(tmp_path / "c.csv", found, "accuracy")
    with (tmp_path / "c.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 16 and float(lines[4]["value"]) == found[1].values[0]
    left, right = plot_comparison(found, "accuracy", "fedavg").axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["fedavg", "up_a", "down", "like"]
    assert len(right.containers) == 3
    save_comparison_plot(tmp_path / "c.png", found, "accuracy", "fedavg")
    assert (tmp_path / "c.png").read_bytes()[1:4] == b"PNG"


def test_plans_give_every_method_its_options_and_spare_comparators():
    base = changed(TINY, reduce="geometric_median", weighting="equal")
    dotted = {**NOTHING, "fedprox": (("strength", "1.0"),)}
    planned = plan(base, ["fedprox", "centralized", "local_only"], dotted)
    fedprox, centralized, local = (settings.federation for settings in planned.values())
    assert fedprox.algorithm_options == (("strength", "1.0"),)
    assert fedprox.reduce == "geometric_median" and fedprox.weighting == "equal"
    assert centralized.reduce == "mean" and local.weighting == "default"
    for methods, options, message in [
        (["fedavg", "fedavg"], {}, "--methods: expected distinct"),
        (["fedavg", "best"], {}, "--methods: expected some of .*found 'best'"),
        (["fedavg"], {"fedprox": (("strength", "1.0"),)}, "--fedprox.NAME"),
        (["fedprox"], {"fedprox": (("force", "1.0"),)}, r"--fedprox.force: .*strength \(float\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            plan(base, methods, {**NOTHING, **options})


def run_comparison(path, methods, seeds, metric="accuracy"):
    with Workdir(path, {"comparison": True}) as workdir:
        planned = plan(TINY, methods, NOTHING)
        return compare(planned, seeds, workdir, baseline="fedavg", metric=metric)


@pytest.mark.slow
def test_a_comparison_is_resumed_and_extended(tmp_path):
    found = run_comparison(tmp_path, ["fedavg", "local_only"], [0, 1])
    assert [(row.method, row.model) for row in found] == [
        ("fedavg", "own"),
        ("local_only", "own"),
        ("fedavg", "released"),
    ]
    assert found[1].values.keys() == {0, 1}
    for name in ("comparison.csv", "comparison.json", "comparison.tex", "comparison.md", "comparison.png"):
        assert (tmp_path / name).stat().st_size > 50
    document = json.loads((tmp_path / "comparison.json").read_text())
    assert document["rows"][1]["interval"]["mean"] == found[1].interval.mean
    before = (tmp_path / "comparison.csv").read_bytes()
    log = (tmp_path / "fedavg" / "seed-0" / "metrics.jsonl").read_bytes()
    run_comparison(tmp_path, ["fedavg", "local_only"], [0, 1])
    assert (tmp_path / "comparison.csv").read_bytes() == before
    (tmp_path / "local_only" / "seed-1" / "results.json").unlink()
    run_comparison(tmp_path, ["fedavg", "local_only"], [0, 1])
    assert (tmp_path / "comparison.csv").read_bytes() == before
    more = run_comparison(tmp_path, ["fedavg", "local_only", "fedbn"], [0])
    assert {row.method for row in more} == {"fedavg", "local_only", "fedbn"}
    assert (tmp_path / "fedavg" / "seed-0" / "metrics.jsonl").read_bytes() == log
    assert len(read_log(tmp_path / "fedbn" / "seed-0" / "metrics.jsonl")) == 2


@pytest.mark.slow
def test_the_command_prints_the_table_and_refuses_other_settings(environment, tmp_path):
    flags = ["--methods=fedavg,ditto", "--seeds=2", "--ditto.strength=0.5", f"--workdir={tmp_path}"]
    flags += [
        f"--{n}={getattr(TINY, n)}"
        for n in (
            "clients",
            "examples_per_client",
            "classes",
            "image_size",
            "channels",
            "pools",
            "batch_size",
        )
    ]

    def start(*more):
        command = [sys.executable, "-m", "experiments.compare", *flags, *more]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    process = start("--rounds=2")
    assert process.returncode == 0, process.stderr
    assert "accuracy (2 seeds)" in process.stdout and "ditto" in process.stdout
    for change, words in (
        ("--rounds=1", "--rounds: expected at least 2"),
        ("--epochs=2", "--epochs: was 1, now 2"),
    ):
        refused = start("--rounds=2", change)
        assert refused.returncode == 1 and words in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    wrong = start("--rounds=2", "--metric=beauty")
    assert wrong.returncode == 1 and "--metric: expected one of accuracy" in wrong.stderr


def test_help_lists_every_flag():
    values = flags.FlagValues()
    define_flags(values)
    for name in ("methods", "seeds", "baseline", "metric", "partition", "workdir", "rounds"):
        assert f"--{name}:" in values.get_help(), name
    assert "algorithm" not in values
