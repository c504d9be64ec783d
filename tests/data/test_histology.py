"""Slides: tiles, maps, stains, and what stays together."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.pipeline.federated_data import load_data
from experiments.pipeline.federated_settings import check_settings, resolve
from fedrecon import federated as fl
from fedrecon.data.clients import heat_map, tile_slide
from fedrecon.data.simulation import normalized_stain, simulate_slide, simulate_slide_cohort, slide_sites
from fedrecon.federated.methods.baid import baid
from fedrecon.reporting import auc
from fedrecon.types import Task, Variables

RNG = np.random.default_rng(3)


@pytest.mark.parametrize(("shape", "edge"), [((20, 31), 7), ((16, 16), 8), ((5, 9), 1), ((6, 4), 11)])
def test_each_pixel_of_tissue_is_in_one_tile_and_background_in_none(shape, edge):
    image = RNG.normal(size=(*shape, 3))
    tissue = np.zeros(shape, bool)
    tissue[shape[0] // 3 :, : shape[1] // 2] = RNG.random((shape[0] - shape[0] // 3, shape[1] // 2)) < 0.4
    tiles = tile_slide(image, tissue, edge)
    seen, back = np.zeros(np.add(shape, edge), int), np.zeros((*np.add(shape, edge), 3))
    for tile, shown, (y, x) in zip(*tiles, strict=True):
        assert shown.any() and y % edge == x % edge == 0
        seen[y : y + edge, x : x + edge] += shown
        back[y : y + edge, x : x + edge] += tile * shown[..., None]
    np.testing.assert_array_equal(seen[: shape[0], : shape[1]], tissue.astype(int))
    assert seen.sum() == tissue.sum(), "nothing beyond the slide is tissue"
    np.testing.assert_array_equal(back[: shape[0], : shape[1]], image * tissue[..., None])


def test_what_is_no_slide_is_refused():
    with pytest.raises(ValueError, match=r"^tissue: expected the shape"):
        tile_slide(np.zeros((4, 5, 3)), np.zeros((5, 4), bool), 2)
    with pytest.raises(ValueError, match=r"^edge: expected a positive"):
        tile_slide(np.zeros((4, 5, 3)), np.zeros((4, 5), bool), 0)
    with pytest.raises(ValueError, match=r"^count: expected a positive"):
        slide_sites(0)
    with pytest.raises(ValueError, match=r"^shift: expected a number of at least 0"):
        slide_sites(2, shift=-1)


def test_probabilities_of_tiles_are_a_map_of_the_slide():
    tissue = np.zeros((9, 14), bool)
    tissue[4:, 5:] = True
    tiles = tile_slide(np.zeros((9, 14, 1)), tissue, 4)
    found = heat_map(np.arange(len(tiles.corners)) + 1.0, tiles.corners, 4, (9, 14))
    n = np.nan
    np.testing.assert_array_equal(found, [[n, n, n, n], [n, 1, 2, 3], [n, 4, 5, 6]])


def test_stains_are_normalized_by_slide():
    """Factors and offsets of the density of a color are undone; the background stays empty."""
    slide = simulate_slide(slide_sites(1)[0], (48, 40), np.random.default_rng(0))
    one = normalized_stain(slide.image, slide.tissue)
    density = -np.log(slide.image.astype(float)) * [1.5, 0.7, 1.1] + [0.1, 0, 0.2]
    np.testing.assert_allclose(normalized_stain(np.exp(-density), slide.tissue), one, atol=1e-5)
    np.testing.assert_allclose(one[slide.tissue].mean(0), 0.5, atol=1e-5)
    np.testing.assert_allclose(one[slide.tissue].std(0), 0.25, atol=1e-5)
    assert not one[~slide.tissue].any() and 0.5 < slide.tissue.mean() < 0.7


def test_sites_differ_in_stain_and_lymphocytes_are_dark():
    plain, shifted = slide_sites(3, shift=0.0), slide_sites(3, shift=0.5)
    assert len({site.tint for site in plain}) == 1 and len({site.tint for site in shifted}) == 3
    assert shifted[:2] == slide_sites(2, shift=0.5)
    for number, site in enumerate(shifted):
        image, tissue, infiltrated = simulate_slide(site, (64, 64), np.random.default_rng(number))
        assert infiltrated.any() and not (infiltrated & ~tissue).any()
        assert (
            image[infiltrated, 0].mean() < image[tissue & ~infiltrated, 0].mean() < image[~tissue, 0].mean()
        )


def patients(data, parts):
    """(client, part) of each patient."""
    found = {}
    for part in parts:
        clients = getattr(data, part)
        for number, names in enumerate(data.patients[part]):
            for v in np.unique(clients.examples["volume"][number][clients.valid[number]]):
                found.setdefault(names[v], set()).add((number, part))
    return found


def test_tiles_of_a_slide_are_of_one_client_and_one_part():
    cohort = simulate_slide_cohort(3, 5, edge=8, tiles=4)
    found = patients(cohort, ("train", "validation", "test"))
    assert len(found) == 15 and all(len(places) == 1 for places in found.values())
    # The same where slides of all sites are divided anew.
    given = {"cohort": "simulated_slides", "partition": "dirichlet", "clients": 3, "patients_per_site": 8}
    data = load_data(check_settings(resolve(given | {"image_size": 8, "concentration": 5.0})))
    # A slide at two places would count twice.
    places = [
        np.unique(p.examples["volume"][i][p.valid[i]]) for p in (data.train, data.test) for i in range(3)
    ]
    assert sum(map(len, places)) == 3 * 8


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def darkness(tile):
    """What a reader looks for: how dark a tile is, in every color, and its darkest tenth."""
    flat = tile.reshape(*tile.shape[:-3], -1, 3)
    found = [flat.mean(-2), flat.std(-2), np.quantile(flat, 0.9, axis=-2)]
    return np.concatenate([*found, np.ones((*flat.shape[:-2], 1))], -1).astype(np.float32)


def loss(params, stats, batch, key):
    z = batch["x"] @ params["w"]
    each = jnp.where(batch["label"] == 1, -jax.nn.log_sigmoid(z), -jax.nn.log_sigmoid(-z))
    return jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1), (stats, {})


TASK = Task(
    init=lambda key: Variables({"w": jnp.zeros(10)}, {}),
    loss=loss,
    metrics=lambda params, stats, batch: {},
    predict=lambda params, stats, batch: jax.nn.sigmoid(batch["x"] @ params["w"]),
    normalization=Variables({"w": False}, {}),
)


@pytest.mark.slow
def test_federated_areas_are_those_of_pooled_tiles():
    """Within 0.02, the mean over five cohorts of four sites with stains of their own."""
    areas, algorithm = [], baid(TASK, optax.adam(0.05))
    step = fl.make_round(algorithm, batch_size=32, epochs=1)

    @jax.jit
    def run(data, key):
        state = fl.init_state(algorithm, TASK.init(None), data)
        state = jax.lax.fori_loop(0, 150, lambda _, state: step(state, data, key)[0], state)
        return state.variables.params["w"]

    for seed in range(5):
        cohort = simulate_slide_cohort(4, 10, edge=16, tiles=6, seed=seed)

        def seen(part, one=False):
            x = darkness(part.examples["image"])
            examples = ({"x": x, "label": part.examples["label"]}, part.valid)
            # Of one shape, so that programs are compiled once.
            missing = 7 * 36 - part.valid.shape[1]
            examples = jax.tree.map(
                lambda x: np.pad(x, [(0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)]), examples
            )
            if one:
                examples = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), examples)
            return Clients(*jax.tree.map(jnp.asarray, examples))

        test = seen(cohort.test, one=True)
        x, y = (np.asarray(test.examples[k][test.valid]) for k in ("x", "label"))
        found = []
        for one in (False, True):
            found.append(auc(x @ np.asarray(run(seen(cohort.train, one), jax.random.key(seed))), y))
        areas.append(found)
    federated, pooled = np.mean(areas, 0)
    assert pooled > 0.8 and federated > pooled - 0.02, areas
