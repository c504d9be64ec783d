"""Fine-tuning by few parameters: frozen leaves stay, do not travel, and what is averaged is exact."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from experiments.pipeline.federated_run import run
from experiments.pipeline.federated_settings import resolve
from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.runtime import Workdir
from fedrecon.tasks import module_task
from fedrecon.training import FederationSettings, FlagError, check_method, flat
from fedrecon.training import low_rank as lr
from fedrecon.training.adapters import adapters, grouped_kernels
from fedrecon.training.finetuning import finetuned
from fedrecon.types import Variables
from fedrecon.weights import read_weights


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(4, (1, 1), name="conv")(x))


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Block(name="block0")(x)


class Network(nn.Module):
    @nn.compact
    def __call__(self, image):
        x = nn.Conv(4, (3, 3), feature_group_count=4, name="depthwise")(
            nn.Conv(4, (3, 3), name="first")(image)
        )
        x = Encoder(name="encoder")(x)
        return nn.Dense(2, name="head")(x.mean((1, 2)))


def hospital(seed, count=4):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(size=(count, 5, 6, 1)).astype(np.float32),
        "label": rng.integers(0, 2, count).astype(np.int32),
        "valid": np.ones(count, bool),
    }


@pytest.fixture(scope="module")
def setting():
    example = hospital(0)
    task = module_task(Network(), "cross_entropy", example)
    base = task.init(jax.random.key(1))
    # Biases that are zero would hide an error.
    named = {n: x + 0.1 for n, x in flatten_dict(base.params, sep="/").items()}
    return task, Variables(lr.unflatten_dict(named, sep="/"), {}), example


def given(kind, **options):
    texts = tuple((name, str(value)) for name, value in options.items())
    return FederationSettings(initialize_from="x", finetune=kind, finetune_options=texts)


KINDS = {
    "lora": ({"rank": 2, "train": "^head/bias"}, 4 * (2 * 4 + 2 * 4 + 2 * 2 + 2)),
    "adapter": ({"reduction": 2}, 4 * 2 * 4 * 2),
    "bias": ({}, 4 * (4 + 4 + 4 + 2)),
    "head": ({}, 4 * (8 + 2)),
}


@pytest.mark.parametrize(
    "kind", ["lora", "adapter", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("bias", "head"))]
)
def test_every_choice_begins_at_the_model_and_sends_what_it_trains_alone(setting, kind):
    task, base, batch = setting
    options, sent = KINDS[kind]
    tuning = finetuned(given(kind, **options), task, base, batch)
    whole = tuning.whole(tuning.variables)
    np.testing.assert_array_equal(tuning.task.predict(*tuning.variables, batch), task.predict(*base, batch))
    np.testing.assert_array_equal(tuning.released.predict(*whole, batch), task.predict(*base, batch))
    assert jax.tree.structure(tuning.task.normalization) == jax.tree.structure(tuning.variables)
    algorithm = tuning.applied_to(fl.fedavg(tuning.task, optax.sgd(0.1)))
    sites = [hospital(seed) for seed in (1, 2)]
    examples = {key: np.stack([site[key] for site in sites]) for key in ("image", "label")}
    data = fl.place(ClientData(examples, np.ones((2, 4), bool), ("a", "b")), frozen=tuning.frozen)
    # Numbers and weight; the state holds nothing of the frozen leaves, however many clients there are.
    assert fl.traffic.round_bytes(algorithm, tuning.variables, data).up == sent + 4
    state = jax.eval_shape(lambda: fl.init_state(algorithm, tuning.variables, data))
    assert sum(x.size * 4 for x in jax.tree.leaves(state.variables)) == sent


@pytest.mark.slow
def test_a_round_moves_what_is_trained_and_no_frozen_leaf(setting):
    task, base, batch = setting
    tuning = finetuned(given("adapter", reduction=2, train="^head/bias"), task, base, batch)
    algorithm = tuning.applied_to(fl.fedavg(tuning.task, optax.sgd(0.5)))
    examples = {key: hospital(3)[key][None] for key in ("image", "label")}
    data = fl.place(ClientData(examples, np.ones((1, 4), bool), ("a",)), frozen=tuning.frozen)
    round = fl.make_round(algorithm, batch_size=4, epochs=1)
    state, _ = round(fl.init_state(algorithm, tuning.variables, data), data, jax.random.key(3))
    end = tuning.whole(state.variables)
    before, after = (flatten_dict(x.params["base"], sep="/") for x in (tuning.variables, end))
    assert [n for n in before if (before[n] != after[n]).any()] == ["head/bias"]
    # U is zero: at first only its gradient is not. The step is that of a derivative by hand.
    place = end.params["adapters"]["encoder.block0"]
    np.testing.assert_array_equal(
        place["down"], tuning.variables.params["adapters"]["encoder.block0"]["down"]
    )

    def by_hand(up):
        x = batch_of["image"]
        for name, groups in (("first", 1), ("depthwise", 4)):
            layer = nn.Conv(4, (3, 3), feature_group_count=groups)
            x = layer.apply({"params": base.params[name]}, x)
        x = nn.relu(
            x @ base.params["encoder"]["block0"]["conv"]["kernel"][0, 0]
            + base.params["encoder"]["block0"]["conv"]["bias"]
        )
        x = x + nn.gelu(x @ place["down"]) @ up
        logits = x.mean((1, 2)) @ base.params["head"]["kernel"] + base.params["head"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch_of["label"]).mean()

    batch_of = hospital(3)
    gradient = jax.grad(by_hand)(jnp.zeros_like(place["up"]))
    np.testing.assert_allclose(place["up"], -0.5 * gradient, rtol=1e-4, atol=1e-6)


def test_kernels_of_grouped_convolutions_have_no_factors(setting):
    task, base, batch = setting
    assert grouped_kernels(task, base, batch) == ("depthwise/kernel",)
    tuning = finetuned(given("lora"), task, base, batch)
    assert set(tuning.variables.params["B"]) == {"first/kernel", "encoder/block0/conv/kernel", "head/kernel"}


@pytest.mark.slow
def test_a_transposed_convolution_is_changed_by_two_convolutions():
    """W + A B is the layer and one by A followed by a 1 x 1 convolution by B."""
    rng = np.random.default_rng(2)
    kernel = jnp.asarray(rng.normal(size=(2, 3, 5, 4)), jnp.float32)
    a, b = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((30, 2), (2, 4)))
    merged = lr.add_products({"k": kernel}, {"k": a}, {"k": b}, 0.5)["k"]
    x = jnp.asarray(rng.normal(size=(2, 4, 3, 5)), jnp.float32)
    for options in ({"strides": (2, 2)}, {"kernel_dilation": (2, 1)}, {"padding": "VALID"}):
        layer = nn.ConvTranspose(4, (2, 3), use_bias=False, **options)
        narrow = nn.ConvTranspose(2, (2, 3), use_bias=False, **options)
        through = narrow.apply({"params": {"kernel": a.reshape(2, 3, 5, 2)}}, x) @ b
        expected = layer.apply({"params": {"kernel": kernel}}, x) + 0.5 * through
        found = layer.apply({"params": {"kernel": merged}}, x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [2, pytest.param(9, marks=pytest.mark.slow)])
def test_stacked_factors_are_the_mean_of_products_at_their_rank(rank):
    """Two rounds against numpy; at full rank nothing is left out."""
    rng = np.random.default_rng(4)
    rows, columns, width = 6, 5, min(rank, 5)
    a = {"w": jnp.asarray(rng.normal(size=(rows, width)), jnp.float32)}
    params = {"base": None, "A": a, "B": {"w": jnp.zeros((width, columns))}}
    reducer = lr.stacked_factors(a, rank)
    zero = fl.Upload(Variables(params, {}), fl.Message(), jnp.float32(1))
    state, mean = reducer.init(zero), np.zeros((rows, columns))
    weights, included = np.array([1.0, 3.0, 2.0]), np.array([True, True, False])
    for _ in range(2):
        now = {name: np.asarray(state[name]["w"], float) for name in ("A", "B")}
        moves = {name: rng.normal(size=(3, *now[name].shape)) for name in now}
        products = [(now["A"] + moves["A"][i]) @ (now["B"] + moves["B"][i]) for i in range(3)]
        mean = np.average(products[:2], axis=0, weights=weights[:2])
        sent = {
            name: {"w": jnp.asarray(x * weights[:, None, None], jnp.float32)} for name, x in moves.items()
        }
        uploads = fl.Upload(
            Variables({"base": None, **sent}, {}), fl.Message(), jnp.asarray(weights, jnp.float32)
        )
        found = reducer.reduce(uploads, jnp.asarray(included), state, None)
        new = {
            name: now[name] + np.asarray(found.upload.delta.params[name]["w"]) / float(found.upload.weight)
            for name in now
        }
        u, s, v = np.linalg.svd(mean)
        best = (u[:, :width] * s[:width]) @ v[:width]
        np.testing.assert_allclose(new["A"] @ new["B"], best, atol=1e-4 * s[0])
        left = (s[width:] ** 2).sum() / (s**2).sum()
        np.testing.assert_allclose(found.info["rank_residual"], left, atol=1e-5)
        for name in now:
            np.testing.assert_allclose(found.state[name]["w"], new[name], atol=1e-5)
        state = found.state


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (given("lora", rank=0), r"finetune\.rank: expected a positive integer"),
        (given("lora", mode="mean"), r"finetune\.mode: expected one of freeze_A, stack, naive"),
        (given("lora", reduction=4), r"finetune\.reduction: expected one of lora's options"),
        (given("adapter", reduction=0), r"finetune\.reduction: expected a positive"),
        (given("full", rank=2), "finetune: expected another choice than full"),
    ],
)
def test_wrong_options_are_named(settings, words):
    with pytest.raises(FlagError, match=words):
        check_method(settings)


def test_what_needs_more_than_frozen_leaves_give_is_refused_with_the_reason(setting):
    stack = given("lora", mode="stack")
    for settings, words in (
        (stack, "secure_aggregation: expected none with --finetune.mode=stack"),
        (given("bias"), "stream: expected 0 with --finetune=bias, whose frozen leaves"),
        (stack, "algorithm: expected one that averages"),
        (stack, "server_optimizer: expected default with"),
    ):
        changes = {
            "secure": {"secure_aggregation": "secagg"},
            "stream": {"stream": 4},
            "algorit": {"algorithm": "fedadam"},
            "server": {"server_optimizer": "adam"},
        }
        change = next(value for key, value in changes.items() if words.startswith(key))
        with pytest.raises(FlagError, match=words):
            check_method(FederationSettings(**{**vars(settings), **change}))
    task, base, batch = setting
    for settings, words in (
        (given("lora", leaves="nosuch"), r"finetune\.leaves: expected an expression found in one of"),
        (given("lora", leaves="("), r"finetune\.leaves: expected a regular expression"),
        (given("adapter", blocks="nosuch"), r"finetune\.blocks: expected an expression found in one of"),
        (given("head", leaves="tail"), r"finetune\.leaves: expected"),
    ):
        with pytest.raises(FlagError, match=words):
            finetuned(settings, task, base, batch)
    with pytest.raises(FlagError, match="finetune: expected lora, bias, head or full in runs of several"):
        finetuned(given("adapter"), task, base, batch, "classification/federated")
    with pytest.raises(ValueError, match="reduction: expected a positive integer"):
        adapters(task, base, batch, reduction=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"finetune": "lora", "finetune_options": (("mode", "stack"),)},
        {"finetune": "lora", "codec": "top_k", "clip_norm": 1.0},
        {"finetune": "adapter", "secure_aggregation": "secagg", "codec": "random_k"},
        {"finetune": "bias", "dp_epsilon": 8.0, "algorithm": "fedprox"},
        {"finetune": "head", "algorithm": "fedper"},
        {"finetune": "lora", "algorithm": "fedbn", "finetune_options": (("train", "scale$"),)},
        {"finetune": "lora", "topology": "gossip"},
        {"finetune": "lora", "algorithm": "moon"},
    ],
    ids=str,
)
def test_trainings_from_a_model_train_what_was_asked_for_alone(started_run, tmp_path, more):
    """Of any algorithm, topology, codec and sum: what is released differs where it was trained."""
    start, sizes = started_run
    settings = resolve({**sizes, "initialize_from": str(start), **more})
    with Workdir(tmp_path, flat(settings), {}) as workdir:
        results, _ = run(settings, workdir)
    assert all(np.isfinite(scores["loss"]) for scores in results.own.values())
    name = settings.federation.algorithm
    before, after = (read_weights(p / f"models/{n}.npz")[0] for p, n in ((start, "fedavg"), (tmp_path, name)))
    before = flatten_dict(before.params, sep="/")
    after = flatten_dict(after.params.get("base", after.params), sep="/")
    moved = {n for n in before if not np.array_equal(before[n], after[n])}
    trained = {
        "lora": lambda n: n.endswith("kernel") or (n.endswith("scale") and "finetune_options" in more),
        "adapter": lambda n: False,
        "bias": lambda n: n.endswith(("bias", "scale")),
        "head": lambda n: n.startswith("head"),
    }[more["finetune"]]
    assert all(trained(n) for n in moved)
    assert moved or more["finetune"] == "adapter"


@pytest.fixture(scope="module")
def started_run(tmp_path_factory):
    sizes = {"preset": "smoke", "clients": 3, "examples_per_client": 16, "image_size": 8}
    folder = tmp_path_factory.mktemp("start") / "run"
    settings = resolve(sizes)
    with Workdir(folder, flat(settings), {}) as workdir:
        run(settings, workdir)
    return folder, sizes
