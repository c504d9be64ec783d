"""Tables, figures and the HTML page."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fedrecon.reporting import (
    Figure,
    Section,
    Table,
    format_table,
    metric_rows,
    plot_classification,
    plot_patients,
    plot_reconstructions,
    plot_segmentations,
    plot_site_scores,
    plot_training,
    write_report,
)


def test_columns_line_up():
    text = format_table(["method", "a"], [["x", "1.00"], ["longer name", "10.00"]])
    assert len({len(line) for line in text.splitlines()}) == 1
    assert text.splitlines()[2] == "x             1.00"


def test_a_ragged_row_is_refused():
    with pytest.raises(ValueError, match="expected 2 cells"):
        format_table(["a", "b"], [["only one"]])


def test_the_mean_is_over_the_sites_that_have_the_metric():
    scores = {"m": {"s1": {"psnr": 1.0}, "s2": {"psnr": float("nan")}, "s3": {"psnr": 4.0}}}
    header, rows = metric_rows(scores, "psnr", ["s1", "s2", "s3", "s4"])
    assert header == ["method", "s1", "s2", "s3", "s4", "mean"]
    assert rows == [["m", "1.00", "–", "4.00", "–", "2.50"]]


def _pixels(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def test_the_reconstruction_figure_shows_images_scores_and_errors():
    rng = np.random.default_rng(0)
    reference = rng.uniform(size=(16, 16))
    images = {"zero-filled": 0.5 * reference, "federated": reference, "reference": reference}
    panel = {"site": "A", "images": images, "zoom": (2, 3, 6, 6)}
    scores = {"zero-filled": {"A": {"psnr": 12.3}}}
    figure = plot_reconstructions([panel], scores)
    axes = figure.axes[:6]
    assert axes[0].get_title() == "zero-filled\n12.3 dB" and axes[2].get_title() == "reference"
    errors = [axis.images[0].get_array() for axis in axes[3:]]
    assert errors[0].max() > 0 and np.all(errors[1] == 0) and np.all(errors[2] == 0)
    assert _pixels(figure).std() > 10


def test_patients_are_shown_by_method_and_by_what_they_gain():
    scores = {"TV": [20.0, 22.0, np.nan], "federated": [21.0, 25.0, 30.0]}
    figure = plot_patients(scores, "federated", "PSNR (dB)", "gain (dB)")
    left, right = figure.axes
    points = [line for line in right.lines if line.get_marker() == "."]
    assert len(points) == 1 and list(points[0].get_xdata()) == [1.0, 3.0]
    assert [t.get_text() for t in left.get_yticklabels()] == ["TV", "federated"]
    assert [t.get_text() for t in right.get_yticklabels()] == ["TV"]
    assert _pixels(figure).std() > 10


def test_the_other_figures_draw_their_data():
    mask = np.zeros((16, 16))
    mask[4:9, 5:11] = 1
    panel = {
        "site": "A",
        "image": np.random.default_rng(0).uniform(size=(16, 16)),
        "reference": mask,
        "prediction": np.zeros((16, 16)),
    }
    assert _pixels(plot_segmentations([panel])).std() > 5
    roc = plot_classification({"A": (np.array([0, 0, 1]), np.array([0, 1, 1]))})
    assert roc.axes[0].lines[0].get_label() == "A"
    points = plot_site_scores({"m": {"A": {"psnr": 20.0}}, "n": {"A": {}}}, "psnr", ["A"], "PSNR (dB)")
    assert [line.get_ydata()[0] for line in points.axes[0].lines[:2]] == pytest.approx(
        [20, np.nan], nan_ok=True
    )
    tasks = {"s": {"training loss": {"one": [(1, 1.0), (2, 0.5)]}}, "t": {"PSNR": {"x": [(1, 30.0)]}}}
    curves = plot_training(tasks)
    # Each task has axes of its own; only losses are drawn logarithmically.
    assert [axis.get_title() for axis in curves.axes] == ["s", "t"]
    assert [axis.get_yscale() for axis in curves.axes] == ["log", "linear"]
    np.testing.assert_array_equal(curves.axes[0].lines[0].get_ydata(), [1, 0.5])


def test_legends_of_learning_curves_cover_no_curve():
    sites = {f"hospital number {i}": [(1, 1.0 + i), (9, 2.0)] for i in range(12)}
    figure = plot_training({"reconstruction": {"validation PSNR (dB)": sites, "PSNR by site": sites}})
    figure.draw_without_rendering()
    for axis in figure.axes:
        legend = axis.get_legend().get_window_extent()
        assert legend.x0 > axis.get_window_extent().x1 and legend.x1 < figure.bbox.x1
        assert legend.y0 > 0 and len(axis.get_legend().get_texts()) == 12


def test_sites_apart_stand_after_the_mean_and_outside_it():
    scores = {"m": {"s1": {"psnr": 1.0}, "s2": {"psnr": 3.0}, "unseen": {"psnr": 9.0}}}
    header, rows = metric_rows(scores, "psnr", ["s1", "s2"], apart=["unseen"])
    assert header == ["method", "s1", "s2", "mean", "unseen"]
    assert rows == [["m", "1.00", "3.00", "2.00", "9.00"]]


def test_methods_may_be_called_otherwise_in_one_row():
    images = {"m": np.ones((8, 8)), "reference": np.ones((8, 8))}
    panel = {"site": "A", "images": images, "zoom": (1, 1, 4, 4)}
    figure = plot_reconstructions([panel, {**panel, "title": "A!", "names": {"m": "n"}}], {})
    assert [figure.axes[i].get_title() for i in (0, 4)] == ["m", "n"]
    assert [figure.axes[i].get_ylabel() for i in (0, 4)] == ["A", "A!"]


def test_long_titles_are_broken():
    panel = {"site": "A hospital with a very long name", "image": np.zeros((8, 8))}
    figure = plot_segmentations([{**panel, "reference": np.zeros((8, 8)), "prediction": np.zeros((8, 8))}])
    assert max(map(len, figure.axes[0].get_title().splitlines())) <= 22


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.sources += [v for k, v in attributes if k in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_is_self_contained_and_escaped(tmp_path):
    figure = tmp_path / "a.png"
    plot_training({}).savefig(figure)
    section = Section(
        "S <1>", ["a & b"], [Table("T", ["h"], [["<script>x</script>"]])], [Figure(figure, "cap")]
    )
    write_report(tmp_path / "report.html", "Title", "Lead", [section])
    page = (tmp_path / "report.html").read_text()
    links = _Links()
    links.feed(page)
    assert links.sources and all(source.startswith("data:image/png;base64,") for source in links.sources)
    assert "<script" not in page and "<script>x</script>" in links.text and "a & b" in links.text
    assert not re.search(r"https?://", page)
