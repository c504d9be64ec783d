"""Curves of scores against budgets: what is planned, and what tables and figures show of it."""

import math

import pytest
from absl import flags

from experiments import privacy_curves
from experiments.pipeline.federated_settings import TrainSettings, resolve
from experiments.pipeline.programs import flag_groups
from experiments.privacy_curves import NONE, Point
from fedrecon.training import FlagError

SIZES = {"clients": 3, "examples_per_client": 12, "image_size": 8, "rounds": 1}


def settings():
    return resolve({"preset": "smoke", **SIZES})


def test_every_unit_has_every_budget_and_one_run_has_none():
    planned = privacy_curves.plan(settings(), ["patient", "example"], ["2", "8"])
    assert [point.name for point in planned] == [
        "none", "patient-2", "patient-8", "example-2", "example-8",
    ]  # fmt: skip
    assert planned[Point(NONE, math.inf)].federation.dp_epsilon == 0
    assert planned[Point("patient", 2.0)].federation.dp_unit == "patient"
    for units, epsilons, words in (
        (["hospital"], ["1"], "units: expected distinct ones of example, patient, site"),
        (["patient"], ["1", "1.0"], "epsilons: expected distinct positive numbers"),
        (["patient"], ["inf"], "epsilons: expected positive numbers"),
        (["patient"], ["x"], "epsilons: expected positive numbers"),
    ):
        with pytest.raises(FlagError, match=words):
            privacy_curves.plan(settings(), units, epsilons)


def test_flags_of_the_budget_mean_nothing_for_the_run_without_one():
    given = resolve({"preset": "smoke", **SIZES, "dp_delta": 1e-3, "dp_batch_size": 4})
    planned = privacy_curves.plan(given, ["example"], ["2"])
    assert planned[Point("example", 2.0)].federation.dp_delta == 1e-3
    assert planned[Point(NONE, math.inf)].federation == settings().federation


def test_flags_of_steps_hold_for_the_units_that_have_steps():
    given = resolve({"preset": "smoke", **SIZES, "dp_batch_size": 4, "dp_delta": 1e-3})
    planned = privacy_curves.plan(given, ["example", "site"], ["2"])
    example, site = (planned[Point(unit, 2.0)].federation for unit in ("example", "site"))
    assert (example.dp_batch_size, site.dp_batch_size) == (4, settings().federation.dp_batch_size)
    assert example.dp_delta == site.dp_delta == 1e-3
    with pytest.raises(FlagError, match=r"dp\.batch_size: expected another --dp.unit than site"):
        privacy_curves.plan(given, ["site"], ["2"])


def test_an_unknown_metric_is_refused_before_anything_is_trained(tmp_path):
    planned = privacy_curves.plan(settings(), ["example"], ["8"])
    with pytest.raises(FlagError, match="metric: expected one of accuracy"):
        privacy_curves.curves(planned, tmp_path, [0], metric="dice")
    assert not list(tmp_path.iterdir())


def test_tables_and_figures_show_what_is_there(tmp_path):
    rows = [
        {"unit": unit, "epsilon": epsilon, "spent": 1.0, "metric": "ssim", "scores": [mean], "mean": mean,
         "half_width": float("nan")}
        for unit, epsilon, mean in ((NONE, math.inf, 0.9), ("patient", 1.0, 0.5), ("patient", 8.0, 0.8))
    ]  # fmt: skip
    privacy_curves.write(tmp_path, rows)
    assert "| patient | 0.500 ± nan | 0.800 ± nan |" in (tmp_path / "curves.md").read_text()
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert "inversion" not in (tmp_path / "curves.md").read_text()
    rows = [{**row, "inversion_psnr": psnr} for row, psnr in zip(rows, (50.0, 3.0, 9.0), strict=True)]
    assert "| inversion, patient | 3.0 dB | 9.0 dB |" in privacy_curves.markdown(rows)
    assert "Without privacy: 0.900 ± nan; inversion 50.0 dB." in privacy_curves.markdown(rows)


def test_help_knows_the_flags_it_shows_first():
    values = flags.FlagValues()
    privacy_curves.define_flags(values)
    shown = {flag.name for members in flag_groups(TrainSettings, values).values() for flag in members}
    assert set(privacy_curves.FIRST) <= shown and "dp_epsilon" not in shown


@pytest.mark.slow
def test_budgets_are_kept_and_finished_runs_are_read(tmp_path):
    planned = privacy_curves.plan(settings(), ["example"], ["8"])
    rows = privacy_curves.curves(planned, tmp_path, [0, 1])
    plain, private = rows
    assert plain["spent"] == 0 and 0 < private["spent"] <= 8 and len(private["scores"]) == 2
    assert privacy_curves.curves(planned, tmp_path, [0, 1]) == rows
    inverted = privacy_curves.curves(planned, tmp_path, [0], inversion=5)
    assert all(row["inversion_psnr"] < 60 for row in inverted)
