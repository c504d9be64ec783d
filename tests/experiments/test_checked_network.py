"""Intervals that are kept with a network: they hold their level of the pixels of all sites together."""

import numpy as np

from experiments.pipeline.checked_network import _interval
from fedrecon.data import ClientData
from fedrecon.evaluation import error_scale


def test_the_quantile_holds_the_level_and_padding_and_blank_images_do_not_count():
    rng = np.random.default_rng(0)
    targets = np.ones((2, 3, 16, 16), np.float32)
    targets[1, 0] = 0
    valid = np.array([[True, True, True], [True, True, False]])
    images = (targets + rng.normal(size=targets.shape) * 0.1).astype(np.float32)[valid]
    starts = np.full_like(images, 0.5)
    found = _interval(images, starts, ClientData({"target": targets}, valid, ["a", "b"]))
    counted = targets[valid].max((1, 2)) > 0
    inside = np.abs(images - targets[valid]) <= found.quantile * error_scale(images, starts)
    assert found.level == 0.9 and 0.9 <= inside[counted].mean() < 0.92
    blank = ClientData({"target": 0 * targets}, valid, ["a", "b"])
    assert _interval(images, starts, blank) is None
