"""Transfer learning with a frozen backbone, and device images that are admitted by what the model says."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.acquisition import Pool, admit, half_weighted, seen_from_all_sides
from fedrecon.federated.methods.elayan import elayan
from fedrecon.federated.methods.thawing import last_block
from fedrecon.types import Task, Variables

COUNTS = np.array([6, 4, 5])
CLASSES = 3


def forward(params, batch):
    x = jnp.tanh(batch["image"].reshape(len(batch["image"]), -1) @ params["stem"]["kernel"])
    for name in ("block0", "block1"):
        x = x + jnp.tanh(x @ params[name]["kernel"])
    return x @ params["head"]["kernel"]


def init(key):
    keys = jax.random.split(key, 4)
    sizes = {"stem": (8, 5), "block0": (5, 5), "block1": (5, 5), "head": (5, CLASSES)}
    params = {n: {"kernel": jax.random.normal(k, s)} for k, (n, s) in zip(keys, sizes.items(), strict=True)}
    return Variables(params, {name: {"seen": jnp.float32(0)} for name in ("block0", "block1")})


def loss(params, stats, batch, key):
    each = optax.softmax_cross_entropy_with_integer_labels(forward(params, batch), batch["label"])
    valid = batch["valid"]
    stats = jax.tree.map(lambda x: x + valid.any(), stats)
    total = jnp.where(valid, each, 0).sum()
    return total / jnp.maximum(valid.sum(), 1), (stats, {"loss": (total, valid.sum().astype(float))})


TASK = Task(
    init,
    loss,
    lambda params, stats, batch: {},
    lambda params, stats, batch: jax.nn.softmax(forward(params, batch)),
    jax.tree.map(lambda _: False, jax.eval_shape(init, jax.random.key(0))),
)
HEAD = Variables({name: name == "head" for name in ("stem", "block0", "block1", "head")}, False)
SGD = optax.sgd(0.1)


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def clients(labeled=None):
    rng = np.random.default_rng(0)
    size = COUNTS.max() + 1
    examples = {
        "image": jnp.asarray(rng.normal(size=(3, size, 2, 4, 1)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, CLASSES, (3, size)), jnp.int32),
    }
    if labeled is not None:
        examples["labeled"] = jnp.asarray(labeled)
    return Clients(examples, jnp.arange(size)[None] < COUNTS[:, None])


DATA = clients()
# Of each client every second image.
HALF = clients(np.arange(7)[None] % 2 == np.zeros((3, 1)))
START = init(jax.random.key(0))


def rounds(algorithm, data=DATA, count=3, start=START, parallel="scan"):
    """States and infos after every round."""
    round = fl.make_round(algorithm, batch_size=2, epochs=2, donate=False, parallel=parallel)
    state = fl.init_state(algorithm, start, data)
    placed, found = fl.place(data, frozen=start), []
    for _ in range(count):
        state, info = round(state, placed, jax.random.key(5))
        found.append((state, info))
    return found


def make(**options):
    return elayan(TASK, options.pop("optimizer", SGD), head=HEAD, **options)


@pytest.fixture(scope="module")
def thawed():
    return rounds(make(unfreeze=2), count=3)


def test_the_backbone_is_bit_identical_and_in_no_message(thawed):
    sent = []

    def spied(upload):
        sent.append(upload)
        return (), ()

    algorithm = make(unfreeze=2)
    fl.init_state(algorithm._replace(channel=algorithm.channel._replace(init=spied)), START, DATA)
    paths = {jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(sent[0].delta)[0]}
    trained = {".params['block1']['kernel']", ".params['head']['kernel']", ".stats['block1']['seen']"}
    assert paths == trained
    # What the server holds, and what is sent down, lacks the rest, too; evaluation fills it in as it was.
    variables = thawed[-1][0].variables
    assert variables.params["stem"]["kernel"] is None and variables.params["block0"]["kernel"] is None
    assert variables.stats["block0"]["seen"] is None
    own = jax.tree.leaves(thawed[-1][0].private)
    assert not own
    block, head = START.params["block1"]["kernel"].size + 1, START.params["head"]["kernel"].size
    # Numbers of what is trained and the weights: of the head, of the block and of its statistics.
    np.testing.assert_array_equal(thawed[0][1].bytes_up, 4 * (head + 3))
    np.testing.assert_array_equal(thawed[2][1].bytes_up, 4 * (head + block + 3))
    np.testing.assert_array_equal(thawed[0][1].bytes_down, 4 * (head + block + 1))


def test_the_last_block_rests_and_then_moves_at_a_tenth_of_the_rate(thawed):
    kernels = [state.variables.params["block1"]["kernel"] for state, _ in thawed]
    seen = [float(state.variables.stats["block1"]["seen"]) for state, _ in thawed]
    for kernel in kernels[:2]:
        np.testing.assert_array_equal(kernel, START.params["block1"]["kernel"])
    assert seen[:2] == [0, 0] and seen[2] > 0
    assert np.abs(kernels[2] - kernels[1]).max() > 0
    heads = [state.variables.params["head"]["kernel"] for state, _ in thawed]
    assert np.abs(heads[0] - START.params["head"]["kernel"]).max() > 0
    # One full batch of one client, by the gradient itself.
    data = Clients(jax.tree.map(lambda x: x[:1], DATA.examples), DATA.valid[:1])
    algorithm = make(unfreeze=0, optimizer=optax.sgd(0.5), block_rate=0.1)
    round = fl.make_round(algorithm, batch_size=7, steps=1, donate=False)
    state, _ = round(fl.init_state(algorithm, START, data), fl.place(data, frozen=START), jax.random.key(0))
    batch = {name: x[0] for name, x in data.examples.items()} | {"valid": data.valid[0]}
    gradient = jax.grad(lambda p: loss(p, START.stats, batch, None)[0])(START.params)
    for name, rate in (("head", 0.5), ("block1", 0.05)):
        moved = state.variables.params[name]["kernel"] - START.params[name]["kernel"]
        np.testing.assert_allclose(moved, -rate * gradient[name]["kernel"], atol=1e-6)


def test_a_resting_block_rests_under_optimizers_that_decay():
    algorithm = make(unfreeze=9, optimizer=optax.adamw(0.01, weight_decay=0.1), keep_optimizer=True)
    (state, _), *_ = rounds(algorithm, count=1)
    np.testing.assert_array_equal(
        state.variables.params["block1"]["kernel"], START.params["block1"]["kernel"]
    )


def test_until_then_the_head_trains_as_if_all_else_were_frozen():
    mask = jax.tree.map(lambda _: "frozen", START)
    mask.params["head"] = True
    expected = rounds(fl.federated(TASK, SGD, share_mask=mask), count=2)
    for (state, _), (other, _) in zip(rounds(make(unfreeze=2), count=2), expected, strict=True):
        np.testing.assert_array_equal(
            state.variables.params["head"]["kernel"], other.variables.params["head"]["kernel"]
        )


@pytest.mark.slow
def test_with_nothing_frozen_it_is_averaging_bit_for_bit():
    everything = Variables(True, {"block0": True, "block1": True})
    found = rounds(elayan(TASK, SGD, head=everything, block="", unfreeze=0, block_rate=1.0))
    expected = rounds(fl.fedavg(TASK, SGD))
    for (state, _), (other, _) in zip(found, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, state.variables, other.variables)


def masked(update):
    """A client that leaves out unlabeled images, and knows nothing of the rest."""

    def only_labeled(variables, broadcast, state, batches, valid, key):
        labeled = batches.examples["labeled"] & batches.present
        batches = batches._replace(count=labeled.sum())
        return update(variables, broadcast, state, batches, valid & labeled[batches.index], key)

    return only_labeled


def test_above_any_probability_it_is_plain_fine_tuning():
    """Bit for bit FedAvg of the trained leaves on the labeled images."""
    found = rounds(make(threshold=1.01, unfreeze=0, block_rate=1.0), HALF)
    mask = jax.tree.map(lambda _: "frozen", START)
    mask.params["block1"], mask.params["head"] = True, True
    mask.stats["block1"] = True
    plain = fl.federated(TASK, SGD, share_mask=mask)
    plain = plain._replace(client=plain.client._replace(update=masked(plain.client.update)))
    for (state, info), (other, _) in zip(found, rounds(plain, HALF), strict=True):
        jax.tree.map(np.testing.assert_array_equal, state.variables, other.variables)
        assert float(info.metrics["pseudo_labels"][0]) == 0
    assert float(info.client_metrics["examples"][0][0]) == 2 * 3


def probabilities(guesses, sure, views=4, other=None):
    """Of examples that all views call ``guesses`` with probability ``sure``, but the last view ``other``."""
    rest = (1 - np.asarray(sure)) / (CLASSES - 1)
    p = np.where(np.eye(CLASSES)[guesses] > 0, np.asarray(sure)[:, None], rest[:, None])
    stack = np.tile(p[None], (views, 1, 1))
    if other is not None:
        stack[-1] = np.eye(CLASSES)[other]
    return jnp.asarray(stack, jnp.float32)


def empty(capacity=8):
    zeros = jnp.zeros(capacity, jnp.int32)
    return Pool(zeros, zeros, zeros)


def admitted(pool, number):
    live = np.asarray(pool.until) > number
    return dict(
        zip(np.asarray(pool.place)[live].tolist(), np.asarray(pool.label)[live].tolist(), strict=True)
    )


LIMITS = {"threshold": 0.95, "expiry": 10}
# Six labeled examples, two of each class, and then candidates.
LABELS = jnp.asarray([0, 0, 1, 1, 2, 2, -1, -1, -1, -1, -1, -1])
LABELED = jnp.arange(12) < 6


def test_sure_examples_that_all_views_agree_on_are_admitted():
    guesses = np.array([0] * 6 + [0, 0, 1, 1, 2, 2])
    sure = np.array([1.0] * 6 + [0.96, 0.949, 0.95, 0.5, 0.99, 0.97])
    other = guesses.copy()
    other[10] = 0
    pool = admit(
        empty(), probabilities(guesses, sure, other=other), LABELS, LABELED, ~LABELED, jnp.int32(3), **LIMITS
    )
    assert admitted(pool, 3) == {6: 0, 8: 1, 11: 2}


def test_no_class_exceeds_its_quota():
    """Twice the rarest class, and the surest enter first; also over rounds, and where slots are few."""
    guesses, sure = np.array([0] * 12), np.array([1.0] * 6 + [0.96, 0.99, 0.97, 0.98, 0.95, 0.96])
    found = probabilities(guesses, sure)
    pool = admit(empty(), found, LABELS, LABELED, ~LABELED, jnp.int32(0), **LIMITS)
    assert admitted(pool, 0) == {7: 0, 9: 0}
    pool = admit(pool, found, LABELS, LABELED, ~LABELED, jnp.int32(1), **LIMITS)
    assert admitted(pool, 1) == {7: 0, 9: 0}
    # A class that is above the quota already takes none, and classes that a client lacks set none.
    labels = jnp.asarray([0, 0, 0, 0, 1, 1, -1, -1, -1, -1, -1, -1])
    pool = admit(empty(), found, labels, LABELED, ~LABELED, jnp.int32(0), **LIMITS)
    assert not admitted(pool, 0)
    nobody = jnp.zeros(12, bool)
    assert not admitted(admit(empty(), found, labels, nobody, ~nobody, jnp.int32(0), **LIMITS), 0)
    pool = admit(empty(1), found, LABELS, LABELED, ~LABELED, jnp.int32(0), **LIMITS)
    assert admitted(pool, 0) == {7: 0}
    rng = np.random.default_rng(1)
    pool = empty()
    for number in range(30):
        found = probabilities(rng.integers(0, CLASSES, 12), rng.uniform(0.9, 1, 12))
        pool = admit(pool, found, LABELS, LABELED, ~LABELED, jnp.int32(number), threshold=0.92, expiry=4)
        inside = admitted(pool, number)
        assert set(inside) <= set(range(6, 12)) and len(inside) == (np.asarray(pool.until) > number).sum()
        assert max(np.bincount(list(inside.values()) + [0], minlength=CLASSES) + [1, 2, 2]) <= 4


def test_images_expire_and_may_enter_again():
    guesses, sure = np.array([0] * 12), np.array([1.0] * 6 + [0.99] + [0.1] * 5)
    pool = admit(empty(), probabilities(guesses, sure), LABELS, LABELED, ~LABELED, jnp.int32(2), **LIMITS)
    unsure = probabilities(guesses, 0.4 * sure)
    for number in range(3, 14):
        pool = admit(pool, unsure, LABELS, LABELED, ~LABELED, jnp.int32(number), **LIMITS)
        assert admitted(pool, number) == ({6: 0} if number < 12 else {})
    pool = admit(pool, probabilities(guesses, sure), LABELS, LABELED, ~LABELED, jnp.int32(14), **LIMITS)
    assert admitted(pool, 14) == {6: 0} and int(pool.until.max()) == 24


def test_views_are_mirrored_images_of_every_example():
    batches = fl.Batches(
        {name: x[0] for name, x in DATA.examples.items()},
        jnp.zeros((1, 2), jnp.int32),
        jnp.int32(6),
        DATA.valid[0],
        jnp.int32(0),
    )
    found = seen_from_all_sides(TASK, START, batches)
    image = np.asarray(DATA.examples["image"][0])
    for view, seen in zip(
        found, (image, image[:, :, ::-1], image[:, ::-1], image[:, ::-1, ::-1]), strict=True
    ):
        expected = TASK.predict(*START, {"image": jnp.asarray(seen)})
        np.testing.assert_allclose(view, expected, atol=1e-6)


def test_guessed_labels_count_half():
    batch = {name: x[0] for name, x in DATA.examples.items()} | {"valid": DATA.valid[0]}
    pseudo = jnp.arange(7) % 3 == 1
    value, _ = half_weighted(loss, 0.5)(*START, {**batch, "pseudo": pseudo}, None)
    each = np.asarray(
        optax.softmax_cross_entropy_with_integer_labels(forward(START.params, batch), batch["label"])
    )
    weights = np.where(pseudo, 0.5, 1.0) * np.asarray(DATA.valid[0])
    np.testing.assert_allclose(value, (weights * each).sum() / weights.sum(), rtol=1e-6)


@pytest.mark.slow
def test_admitted_images_train_and_are_told():
    """Of images that look alike from all sides, with a model that is sure of everything."""
    flat = jnp.broadcast_to(HALF.examples["image"][:, :, :1, :1], HALF.examples["image"].shape)
    data = HALF._replace(examples={**HALF.examples, "image": flat})
    start = START._replace(params={**START.params, "head": {"kernel": 50 * START.params["head"]["kernel"]}})
    algorithm = make(threshold=0.5, unfreeze=9, optimizer=optax.sgd(1e-4))
    found = rounds(algorithm, data, count=2, start=start)
    count = found[0][1].client_metrics["pseudo_labels"][0]
    assert float(count.sum()) > 0
    pool = found[0][0].client.pool
    np.testing.assert_array_equal((np.asarray(pool.until) > 0).sum(1), count)
    places = [np.asarray(pool.place[i])[np.asarray(pool.until[i]) > 0] for i in range(3)]
    assert all((p % 2 == 1).all() for p in places)
    # Each of two passes sees the labeled images and the admitted ones.
    labeled = (np.asarray(HALF.examples["labeled"]) & np.asarray(HALF.valid)).sum(1)
    np.testing.assert_array_equal(found[0][1].client_metrics["examples"][0], 2 * (labeled + count))
    together = rounds(algorithm, data, count=2, start=start, parallel="vmap")
    pools = (jax.tree.leaves(states[1][0].client.pool) for states in (found, together))
    for one, other in zip(*pools, strict=True):
        np.testing.assert_array_equal(one, other)


def test_which_block_is_the_last():
    def of(paths, block=""):
        tree = Variables({}, {})
        for path in paths:
            part = tree.params
            *inner, name = path.split("/")
            for step in inner:
                part = part.setdefault(step, {})
            part[name] = jnp.zeros(1)
        heads = jax.tree_util.tree_map_with_path(lambda p, _: "head" in jax.tree_util.keystr(p), tree)
        chosen = jax.tree_util.tree_flatten_with_path(last_block(tree, heads, block))[0]
        return {jax.tree_util.keystr(p[1:], simple=True, separator="/") for p, own in chosen if own}

    assert of(["stem/k", "stage0_block1/c9/k", "stage1_block0/c/k", "head/k"]) == {"stage1_block0/c/k"}
    assert of(["block9/k", "block10/k", "last_norm/k", "head/k"]) == {"block10/k"}
    assert of(["encoder/block0/conv2/k", "encoder/block1/conv1/k", "head/k"]) == {"encoder/block1/conv1/k"}
    assert of(["b1_l9_conv0/k", "b1_l15_conv0/k", "b1_l15_norm/k", "head/k"]) == {
        "b1_l15_conv0/k",
        "b1_l15_norm/k",
    }
    assert of(["body/k", "head/k"]) == {"body/k"}
    assert of(["block0/k", "block1/k", "head/k"], "block0") == {"block0/k"}
    with pytest.raises(ValueError, match="block: expected an expression that leaves besides the head match"):
        of(["block0/k", "head/k"], "head")


@pytest.mark.parametrize(
    "options", [{"unlabeled": 1.0}, {"threshold": 0}, {"weight": 0}, {"expiry": 0}, {"capacity": 0}]
)
def test_arguments_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: expected"):
        make(**options)


def test_privacy_is_refused():
    with pytest.raises(ValueError, match="which of its images it trains on"):
        make(method=fl.Method(hides=True))
