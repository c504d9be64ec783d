"""Two losses that meet at an interface, in a federation: their balance, and the weights of their groups."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.data import stack_clients
from fedrecon.errors import ArgumentError
from fedrecon.federated.messages import Context, Message
from fedrecon.federated.method import LocalContext
from fedrecon.federated.methods.interface_balance import interface_balance
from fedrecon.federated.secure_sum import secure_sum
from fedrecon.secure_aggregation import FixedPoint
from fedrecon.types import Task, Variables
from tests.tasks.joint_problem import clients, make


def linear_task():
    """Two vectors that follow the means of "x" and "y", with norms that are told by the examples."""

    def loss(params, stats, batch, key):
        del key
        weight = batch["valid"] / jnp.maximum(batch["valid"].sum(), 1)
        pulls = {"reconstruction": "x", "task": "y"}
        value = sum(
            (weight * jnp.square(params[g] - batch[k][:, None]).sum(1)).sum() for g, k in pulls.items()
        )
        has = {"error_norm": batch["measured"], "task_norm": batch["labeled"]}
        metrics = {}
        for name, mask in has.items():
            some = (batch["valid"] & (mask > 0)).any().astype(jnp.float32)
            metrics[name] = (some * batch[name].max(), some)
        metrics["seen"] = (batch["interface"][0], jnp.float32(1))
        return value, (stats, metrics)

    params = {"reconstruction": jnp.zeros(3), "task": jnp.zeros(2)}
    return Task(lambda key: Variables(params, {}), loss, lambda *a: {}, lambda *a: (), Variables(params, {}))


def sites(labeled=(1, 1, 0)):
    parts = []
    for number, has in enumerate(labeled):
        full = np.ones(2 + number, np.float32)
        parts.append({
            "x": (1 + number) * full, "y": (5.0 - number) * full, "measured": full, "labeled": has * full,
            "error_norm": (1.0 + number) * full, "task_norm": (4.0 + 2 * number) * full,
        })  # fmt: skip
    return stack_clients(parts, [f"site {number}" for number in range(len(labeled))])


def run(method, data, rounds=1, task=None, variables=None, **options):
    task = task or linear_task()
    algorithm = fl.federated(task, optax.sgd(0.25), method=method, **options)
    state = fl.init_state(algorithm, variables or task.init(jax.random.key(0)), data)
    round_ = fl.make_round(algorithm, batch_size=8, epochs=1)
    infos = []
    for _ in range(rounds):
        state, info = round_(state, data, jax.random.key(3))
        infos.append(info)
    return state, infos


def counts(data):
    return [np.asarray((data.examples[name] * data.valid).sum(1)) for name in ("measured", "labeled")]


def test_sites_without_labels_are_left_out_of_the_mean_of_the_reader():
    data = sites()
    state, (info,) = run(interface_balance(*counts(data), 4, strength=0.5), data)
    # One step of 0.25 * 2 of the way from 0 to the client's value; weights are numbers of examples.
    np.testing.assert_allclose(
        state.variables.params["reconstruction"], 0.5 * (2 * 1 + 3 * 2 + 4 * 3) / 9, rtol=1e-6
    )
    np.testing.assert_allclose(state.variables.params["task"], 0.5 * (2 * 5 + 3 * 4) / 5, rtol=1e-6)
    # Two groups, two weights, two norms; without labels the reader's group is absent.
    assert info.bytes_up.tolist() == [4 * (3 + 2) + 16, 4 * (3 + 2) + 16, 4 * 3 + 16]


def test_what_a_site_without_labels_makes_of_the_reader_is_sent_as_zeros():
    data = sites()
    balance = interface_balance(*counts(data), 4)
    seen = []

    def note(client, x):
        seen.append((int(client), np.asarray(x)))

    def encode(upload, state, context):
        jax.debug.callback(note, context.client, upload.delta.params["task"])
        return upload, state, {}

    run(balance, data, channel=fl.chain()._replace(encode=encode))
    jax.effects_barrier()
    assert all(x.any() == (client != 2) for client, x in seen) and len(seen) == 3


@pytest.mark.slow
def test_a_secure_sum_weighs_the_groups_apart():
    data = sites()
    fixed = FixedPoint.finest(64.0, 3)
    channel = secure_sum(fixed, largest_weight=4.0, message_bound=64.0)
    plain, _ = run(interface_balance(*counts(data), 4), data)
    secure, (info,) = run(interface_balance(*counts(data), 4), data, channel=channel)
    for name, value in plain.variables.params.items():
        np.testing.assert_allclose(secure.variables.params[name], value, atol=1e-5)
    # The sum hides who has no labels: all send as much.
    assert len(set(info.bytes_up.tolist())) == 1


def test_all_sites_have_the_balance_of_the_mean_norms():
    data = sites()
    state, infos = run(
        interface_balance(*counts(data), 4, strength=0.5, start=0.25, full=0.75, decay=0.9), data, 4
    )
    # Norms 1, 2, 3 of all and 4, 6 of the two with labels; s = 0, 0, 1/2, 1 of the four rounds.
    expected = [0.5 * s * 2.0 / 5.0 for s in (0, 0, 0.5, 1)]
    for info, value in zip(infos, expected, strict=True):
        np.testing.assert_allclose(info.client_metrics["seen"][0], value, rtol=1e-5)
    assert float(state.exchange.strength) == 0.5
    np.testing.assert_allclose(state.exchange.error.total / state.exchange.error.weight, 2.0, rtol=1e-5)


def test_averages_forget_with_the_decay():
    balance = interface_balance([1, 1], [1, 1], 10, decay=0.5)
    state = balance.server.init(Variables({"reconstruction": 0, "task": 0}, {}))
    context = Context(jnp.int32(0), jax.random.key(0), arrived=jnp.asarray([True, True]))
    for total in (2.0, 6.0):
        state = balance.server.receive(
            state, Message({"error": jnp.float32(total), "task": jnp.float32(0)}), context
        )
    # (0.25 * 1 + 0.5 * 3) / 0.75, and nothing of the reader yet: its weight is that of what is known.
    np.testing.assert_allclose(state.error.total / state.error.weight, (0.25 + 1.5) / 0.75, rtol=1e-6)
    assert float(state.task.weight) == 0 and float(balance.server.broadcast(state)[0]) == 0


def test_the_weight_is_halved_where_images_get_worse():
    balance = interface_balance(
        [1], [1], 4, strength=0.4, start=0.25, full=0.25, quality=lambda v, b: b["q"][0]
    )
    context = Context(jnp.int32(0), jax.random.key(0), arrived=jnp.asarray([True]))
    state = balance.server.init(Variables({"reconstruction": 0, "task": 0}, {}))
    best, strengths = balance.init(None), []
    for quality in (30.0, 29.6, 29.4, 29.6):
        local = LocalContext(
            None, balance.server.broadcast(state), _Batches({"q": jnp.float32([quality])}), None, None,
            jnp.float32(1), None, lambda v: v,
        )  # fmt: skip
        memory = balance.begin(best, local)
        best = memory.best
        message = Message({"error": jnp.float32(1), "task": jnp.float32(1), "fallen": memory.fallen})
        state = balance.server.receive(state, message, context)
        strengths.append(round(float(state.strength), 3))
    assert strengths == [0.4, 0.4, 0.2, 0.2]


class _Batches:
    def __init__(self, validation):
        self.validation = validation


@pytest.mark.slow
def test_without_weight_a_federation_trains_the_reconstruction_as_alone_to_the_bit():
    data = clients()
    variables = make("joint").init(jax.random.key(0))
    found = []
    for mode in ("rec_only", "joint"):
        method = interface_balance(*counts(data), 2, strength=0.0, start=0.0, full=0.0)
        task = make(mode)
        state, _ = run(method, data, 3, task, variables)
        found.append(state.variables.params["reconstruction"])
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), *found)))


@pytest.mark.slow
def test_nothing_of_the_operator_is_sent():
    data = clients()
    task = make("joint")
    sizes = [x.size for x in jax.tree.leaves(task.init(jax.random.key(0)).params)]
    _, (info,) = run(interface_balance(*counts(data), 2), data, task=task)
    assert info.bytes_up.tolist() == [4 * sum(sizes) + 16] * 2


def test_wrong_arguments_are_named():
    with pytest.raises(ArgumentError, match="first, second"):
        interface_balance([1, 2], [1], 4)
    with pytest.raises(ArgumentError, match="start, full"):
        interface_balance([1], [1], 4, start=0.7, full=0.6)
    with pytest.raises(ArgumentError, match="strength"):
        interface_balance([1], [1], 4, strength=float("nan"))
    with pytest.raises(ArgumentError, match="groups reconstruction, task"):
        interface_balance([1], [1], 4).server.init(Variables({"body": 0}, {}))
