"""Figures of a diagnosis show the numbers that they are given."""

import numpy as np

from fedrecon.reporting import plot_agreement, plot_calibration, plot_site_boxes


def test_boxes_hold_the_patients_of_each_site():
    methods = {"a": {"x": [0.1, 0.3, np.nan], "y": [0.5]}, "b": {"x": [0.2, 0.6], "y": []}}
    axis = plot_site_boxes(methods, ["x", "y"], "Dice").axes[0]
    points = [line.get_ydata() for line in axis.lines if line.get_marker() == "."]
    np.testing.assert_allclose(np.concatenate(points), [0.1, 0.3, 0.5, 0.2, 0.6])
    assert [t.get_text() for t in axis.get_xticklabels()] == ["x\n2 patients", "y\n1 patients"]
    medians = [line.get_ydata()[0] for line in axis.lines if line.get_linewidth() == 2]
    np.testing.assert_allclose(sorted(medians), [0.2, 0.4, 0.5])
    places = [np.mean(line.get_xdata()) for line in axis.lines if line.get_marker() == "."]
    assert places[0] < places[2] < places[1]


def test_differences_stand_over_means():
    figure = plot_agreement({"x": ([3.0, 5.0], [1.0, 6.0])}, (0.5, -3.7, 4.7), "ml")
    line = figure.axes[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), [2, 5.5])
    np.testing.assert_allclose(line.get_ydata(), [2, -1])
    texts = " ".join(t.get_text() for t in figure.axes[0].texts)
    assert "bias 0.5" in texts and "SD -3.7" in texts and "SD 4.7" in texts


def test_calibration_leaves_empty_bins_out():
    above, below = plot_calibration({"a": ([0.2, np.nan, 0.9], [0.1, np.nan, 0.8], [4, 0, 6])}).axes
    np.testing.assert_allclose(above.lines[1].get_xdata(), [0.2, 0.9])
    np.testing.assert_allclose(above.lines[1].get_ydata(), [0.1, 0.8])
    np.testing.assert_allclose(below.patches[0].get_data().values, [4, 0, 6])
