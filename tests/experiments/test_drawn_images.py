"""Images that are drawn."""

import numpy as np

from experiments.pipeline.drawn_images import simulate_densities
from experiments.pipeline.federated_data import load_data, number_of_classes
from experiments.pipeline.federated_settings import check_settings, resolve


def test_densities_are_of_their_classes():
    found = simulate_densities(40, 32, seed=3)
    assert found["image"].shape == (40, 32, 32, 1) and found["image"].dtype == np.float32
    np.testing.assert_array_equal(np.bincount(found["label"]), [10] * 4)
    image = found["image"][..., 0]
    inside, dense = (image > 0.15).sum((1, 2)), (image > 0.55).sum((1, 2))
    part = dense / inside
    assert (np.minimum(4 * part, 3.999).astype(int) == found["label"]).mean() > 0.9
    np.testing.assert_array_equal(found["image"], simulate_densities(40, 32, seed=3)["image"])
    assert (found["image"] != simulate_densities(40, 32, seed=4)["image"]).any()


def test_densities_are_divided_over_clients_with_other_frequencies():
    given = {"cohort": "simulated_density", "partition": "dirichlet", "clients": 3, "validation_part": 0.2}
    settings = check_settings(resolve(given | {"examples_per_client": 40, "seed": 1}))
    data = load_data(settings)
    assert number_of_classes(settings) == 4 and data.counts.shape == (3, 4)
    assert data.counts.sum() == 120 and data.validation is not None
    assert data.train.examples["image"].shape[2:] == (32, 32, 1)
