"""Networks that trainings start from: which are taken, and what is said of others."""

import functools
import hashlib
import json

import jax
import numpy as np
import pytest

from experiments.pipeline import run as pipeline
from experiments.pipeline.run import STAGES
from experiments.pipeline.settings import resolve
from experiments.pipeline.start import open_start, start_file, start_notes, with_start
from fedrecon import Variables
from fedrecon.learned import Architecture, CheckedNetwork, Signs, load_network, save_network
from fedrecon.runtime import Workdir
from fedrecon.training.options import changed, flat
from fedrecon.weights import read_weights, write_weights

NONE = Signs(*(float("nan"),) * 3)
TINY = Architecture("modl", 1, 2, 1)


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "network.npz"
    save_network(path, CheckedNetwork(TINY, Variables({"w": np.ones(3, np.float32)}, {}), NONE, "a test"))
    return path


def settings(**given):
    return resolve({"preset": "smoke", "cascades": 1, "channels": 2, "pools": 1, **given})


def test_a_file_and_its_folder_name_the_same_network(network):
    for start in (str(network), str(network.parent)):
        found = with_start(settings(start=start))
        assert found.start_sha256 == hashlib.sha256(network.read_bytes()).hexdigest()
        assert open_start(found).origin == "a test"
    assert flat(found)["start.sha256"] == found.start_sha256


def test_random_weights_are_no_network():
    assert open_start(settings()) is None and with_start(settings()) == settings()
    assert "start.sha256" not in flat(settings())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cascades": 2}, "--cascades: expected 1, as in the network of --start=.*, or --start=random"),
        ({"network": "varnet"}, "--network: expected modl"),
        ({"modality": "ct"}, "--start: expected a network of CT, or random, found one of MRI"),
        ({"start": "nowhere.npz"}, "--start: expected random, shipped, or the folder .* found nowhere.npz"),
    ],
)
def test_what_does_not_fit_is_named(network, given, message):
    with pytest.raises(ValueError, match=message):
        open_start(settings(**{"start": str(network), **given}))


def test_a_damaged_network_is_named(network):
    network.write_bytes(network.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"network\.npz"):
        open_start(settings(start=str(network)))


def test_the_shipped_network_is_that_of_the_first_command():
    default = resolve({})
    assert default.start == "shipped"
    network = open_start(default)
    assert "abdomen-T2-3T" in network.origin and network.physics == "mri"
    assert start_file("shipped").stat().st_size < 2**20


def test_a_model_of_the_reconstruction_takes_the_place_of_the_start(tmp_path):
    for task in ("reconstruction", "segmentation"):
        (tmp_path / task / "models").mkdir(parents=True)
        write_weights(tmp_path / task / "models/fedavg.npz", Variables({"w": np.ones(3)}, {}), {"task": task})
    begun, other = ({"initialize_from": str(tmp_path / t)} for t in ("reconstruction", "segmentation"))
    assert resolve(begun).start == "random" and resolve(other).start == "shipped"
    assert (
        resolve({**other, "start": "random"}).start == resolve({**begun, "start": "random"}).start == "random"
    )
    assert "reconstruction start from the model in --initialize_from=" in start_notes(resolve(begun))[0]
    assert [note.split()[1:3] for note in start_notes(resolve(other))] == [
        ["reconstruction", "trainings"],
        ["trainings", "of"],
    ]
    with pytest.raises(ValueError, match=r"^--start: expected random, or none, .* found shipped$"):
        resolve({**begun, "start": "shipped"})


@pytest.mark.slow
def test_every_training_starts_from_the_network(tmp_path):
    """With rates of next to nothing all of them end with its scores."""
    base = settings(image_size=32, sites=2, patients_per_site=3, rounds=1, finetune_rounds=1, epochs=1)
    random = _scores(base, tmp_path / "random")
    trained = CheckedNetwork(TINY, _shifted(tmp_path / "random"), NONE, "a test")
    save_network(tmp_path / "start.npz", trained)
    still = changed(base, start=str(tmp_path / "start.npz"), learning_rate=1e-12, pooled_learning_rate=1e-12)
    found = _scores(still, tmp_path / "started")
    assert "start" not in random
    for method in ("local-only", "centralized", "federated"):
        for site, score in found["start"].items():
            if site in found[method]:
                assert found[method][site]["psnr"] == pytest.approx(score["psnr"], abs=1e-3)
    sites = list(found["start"])
    assert len(sites) == 3, "the unseen hospital, too"
    # All stages of another run, and what does not fit before anything is trained.
    still = changed(still, start="random", finetune_learning_rate=1e-12, comparators=False)
    _scores(changed(still, initialize_from=str(tmp_path / "random")), tmp_path / "again")
    for stage in STAGES:
        models = [
            read_weights(tmp_path / run / f"models/{stage}/federated.npz")[0] for run in ("random", "again")
        ]
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), *models)
    wider = changed(still, initialize_from=str(tmp_path / "random"), finetune_channels=5)
    with pytest.raises(ValueError, match=r"^--initialize_from: expected the network of .* there and .* here"):
        _scores(wider, tmp_path / "wider")
    assert not (tmp_path / "wider" / "metrics.jsonl").exists()


def _scores(settings, folder):
    with Workdir(folder, flat(settings), {}) as workdir:
        pipeline.run(settings, workdir)
    return json.loads((folder / "results.json").read_text())["reconstruction"]


def _shifted(folder):
    """The weights of a run, changed by much more than a step of training does."""
    variables = load_network(folder).variables
    keys = iter(jax.random.split(jax.random.key(0), 99))
    return jax.tree.map(lambda x: x + 0.05 * jax.random.normal(next(keys), np.shape(x)), variables)
