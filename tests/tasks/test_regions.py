"""Dice of regions of a tumor, on masks by hand."""

import jax.numpy as jnp
import numpy as np

from fedrecon.tasks.regions import region_dice


def test_regions_of_a_tumor_by_hand():
    """WT of 1, 2 and 4, TC of 1 and 4, ET of 4 alone."""
    reference = np.array([[[0, 1, 2, 4]], [[0, 2, 2, 0]], [[4, 4, 4, 4]]])
    labels = np.array([[[0, 4, 2, 1]], [[0, 2, 0, 0]], [[0, 0, 0, 0]]])
    found = region_dice(jnp.asarray(labels), jnp.asarray(reference), jnp.array([True, True, False]))
    # The second case has neither core nor enhancement, and nobody finds one.
    expected = {"WT": (1 + 2 / 3, 2), "TC": (1 + 1, 2), "ET": (0 + 1, 2)}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_regions_of_volumes_and_of_other_labels():
    reference = np.zeros((2, 2, 3, 3), int)
    reference[:, 0, :2], reference[:, 1, 0, 0] = 1, 3
    found = region_dice(jnp.asarray(reference), jnp.asarray(reference), jnp.ones(2, bool), {"core": (1, 3)})
    np.testing.assert_allclose(found["core"], (2, 2))
