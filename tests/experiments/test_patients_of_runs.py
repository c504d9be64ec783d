"""Scores of the patients of a comparison, their intervals, and what the benchmark of segmentation counts."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from experiments import benchmark_segmentation, diagnosis
from experiments.pipeline import patients_of_runs, segmentation_step
from experiments.pipeline.patients_of_runs import Patients
from fedrecon.models import UNet
from fedrecon.models.convolutions import Conv
from fedrecon.training import FlagError


def test_patients_are_scored_over_all_of_their_images():
    predicted = np.zeros((4, 2, 2, 2))
    predicted[..., 0] = 1
    predicted[0, 0, 0] = predicted[1, 0, 0] = predicted[2, 1, 1] = (0.2, 0.8)
    truth = np.zeros((4, 2, 2))
    truth[0, 0] = truth[2, 0, 0] = 1
    found = patients_of_runs._patients("segmentation", predicted, truth, np.array([5, 5, 2, 9]))
    # Patient 2 has one pixel, missed; 5 has two marked in two images, one of them right; 9 has none.
    np.testing.assert_allclose(found.score, [0, 2 * 1 / 4, np.nan])
    np.testing.assert_allclose((found.first, found.second), ([1, 2, 0], [1, 2, 0]))
    said = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    found = patients_of_runs._patients("classification", said, np.array([0, 0, 1]), np.array([1, 1, 0]))
    np.testing.assert_allclose(found.score, [0.8, 0.3])
    assert patients_of_runs.score_of("classification", found) == 1.0


def test_intervals_draw_seeds_and_patients(monkeypatch):
    def site(values):
        return Patients(*(np.asarray(values, float),) * 3)

    monkeypatch.setattr(patients_of_runs, "DRAWS", 400)
    constant = {seed: {"a": site([0.5] * 4), "b": site([0.7, np.nan])} for seed in range(2)}
    mean, low, high = patients_of_runs.interval("segmentation", constant, ["a", "b"])
    assert mean == pytest.approx(0.6) and low == pytest.approx(0.5, abs=0.11) and high <= 0.71
    # One seed, one site: the bootstrap of a mean.
    values = np.random.default_rng(1).normal(size=40)
    mean, low, high = patients_of_runs.interval("segmentation", {0: {"a": site(values)}}, ["a"])
    half = 1.96 * values.std() / np.sqrt(40)
    np.testing.assert_allclose((mean, low, high), values.mean() + np.array([0, -half, half]), atol=0.08)
    # Seeds that differ widen it.
    apart = {seed: {"a": site([value] * 3)} for seed, value in enumerate((0.2, 0.8))}
    assert patients_of_runs.interval("segmentation", apart, ["a"])[1:] == pytest.approx((0.2, 0.8))


def test_rows_and_their_table():
    rng = np.random.default_rng(0)
    positive = np.arange(20) % 2
    said = 0.2 + 0.6 * positive + 0.1 * rng.random(20)
    found = {"fedavg": {0: {"x": Patients(said, said, positive.astype(float))}}}
    (row,) = diagnosis.summarize("classification", found)
    assert row["mean"] == row["sites"]["x"] == 1 and row["patients"] == {"x": 20}
    assert row["calibration_error"] == pytest.approx(np.abs(said - positive).mean(), abs=0.02)
    assert "x (20)" in diagnosis.table("classification", [row])


def test_folders_without_a_comparison_are_named(tmp_path):
    with pytest.raises(FlagError, match="--workdir: expected the folder of experiments"):
        patients_of_runs.read(tmp_path)


@pytest.mark.parametrize("axes", [2, 3])
def test_operations_are_those_of_all_convolutions(axes):
    work = {"axes": axes, "channels": 2, "pools": 2, "size": 8}
    counted = []

    def count(call, args, kwargs, context):
        y = call(*args, **kwargs)
        if isinstance(context.module, Conv):
            kernel = context.module.variables["params"]["kernel"]
            counted.append(2 * kernel.size * np.prod(y.shape[1:-1]))
        return y

    with nn.intercept_methods(count):
        jax.eval_shape(UNet(2, 2, 2).init, jax.random.key(0), np.zeros((1, *[8] * axes, 1), np.float32))
    assert segmentation_step.convolution_flops(work) == sum(counted)


def test_tables_of_the_benchmark_have_a_row_of_each_measurement():
    row = {"seconds": 0.01, "share_of_limit": 0.5, "torch_seconds": 0.02, "ratio": 0.5}
    row["processor_ratio"] = 0.7
    alone = {**row, "torch_seconds": None, "ratio": None, "processor_ratio": None}
    found = {"images": {"measured": {"step": row, "round": alone, "windows": row}}}
    lines = benchmark_segmentation.table(found).splitlines()
    assert len(lines) == 5 and lines[2].split()[2:6] == ["10.0", "20.0", "0.50", "0.70"]
