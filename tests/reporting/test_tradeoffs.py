"""Figures of trade-offs: full points on the front, odd costs at places of their own."""

import math

import numpy as np
import pytest

from fedrecon.reporting import TradeOff, TradeOffPoint, plot_trade_offs


def panel(costs, front, **named):
    points = [
        TradeOffPoint(f"m{i}", cost, 0.5 + 0.1 * i, 0.4, 0.9, i in front) for i, cost in enumerate(costs)
    ]
    return TradeOff("lesions", "MB", "Dice", points, **named)


def markers(axis):
    """{number: (x, y, full)} of the points of a panel."""
    numbers = [text.get_text() for text in axis.texts]
    dots = [line for line in axis.get_lines() if line.get_marker() == "o"]
    return {
        number: (*(float(v[0]) for v in dot.get_data()), dot.get_markerfacecolor() != "white")
        for number, dot in zip(numbers, dots, strict=True)
    }


def test_points_of_the_front_are_full_and_joined_and_lines_cross_the_panel():
    figure = plot_trade_offs([[panel([1.0, 100.0, 10.0], {0, 1}, lines={"alone": 0.55})]])
    (axis,) = figure.axes
    assert markers(axis) == {
        "1": (1.0, 0.5, True), "2": (100.0, pytest.approx(0.6), True), "3": (10.0, pytest.approx(0.7), False),
    }  # fmt: skip
    (step,) = [line for line in axis.get_lines() if line.get_drawstyle() == "steps-post"]
    assert step.get_xdata().tolist() == [1.0, 100.0] and axis.get_xscale() == "log"
    assert any(list(line.get_ydata()) == [0.55, 0.55] for line in axis.get_lines())
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["1  m0", "2  m1", "3  m2", "alone", "front: nothing beats it"]


def test_infinite_and_zero_costs_have_ticks_and_what_has_no_score_is_left_out():
    costs = [0.0, 2.0, math.inf, math.inf, math.nan]
    (axis,) = plot_trade_offs([[panel(costs, {1}, unlimited="none")]]).axes
    found = markers(axis)
    assert set(found) == {"1", "2", "3", "4"} and np.isfinite([x for x, *_ in found.values()]).all()
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "2", "none"]
    assert found["1"][0] < 2 < found["3"][0] < found["4"][0], "side by side where costs are equal"
    empty = panel([1.0], {0})._replace(points=[TradeOffPoint("m", 1.0, math.nan, 0, 1, False)])
    (axis,) = plot_trade_offs([[empty]]).axes
    assert not axis.texts


def test_ticks_of_close_costs_do_not_cover_each_other():
    (axis,) = plot_trade_offs([[panel([6.7, 7.5, 8.2, 15.1, 31.4], {0})]]).axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["6.7", "8.2", "15.1", "31.4"]


def test_rows_of_fewer_panels_leave_a_gap(tmp_path):
    figure = plot_trade_offs([[panel([1.0], {0})] * 2, [panel([5.0, 7.0], {0})]])
    assert [axis.axison for axis in figure.axes] == [True, True, True, False]
    figure.savefig(tmp_path / "t.png")
    assert (tmp_path / "t.png").stat().st_size > 5000
