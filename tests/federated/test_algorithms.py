"""What holds for every named algorithm, whatever it does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import catalog
from fedrecon import federated as fl
from fedrecon.federated.methods.apfl import apfl
from fedrecon.federated.methods.diloco import diloco
from fedrecon.federated.methods.fedala import fedala
from fedrecon.federated.methods.fedcl import fedcl
from fedrecon.federated.methods.feddg_ga import feddg_ga
from fedrecon.types import Variables

RATE = 0.05
SHIFT = np.array([3.0, -5.0], np.float32)
COUNTS = [5, 3, 1, 4]
HEAD = Variables({"dense": True, "norm": False}, False)


def hidden(params, stats, batch):
    return jnp.tanh(batch["x"] * params["norm"]["scale"] + params["norm"]["bias"])


def everywhere(params, stats, batch):
    """Distances, which do not change when model and data are translated together."""
    return params["w"] - batch["b"]


# For every algorithm: how it is made, the scalars it sends up and down besides the model (P: parameters).
RECIPES = {
    "fedavg": (lambda task, sgd, **o: fl.fedavg(task, sgd, **o), "0", "0"),
    "fedbn": (lambda task, sgd, **o: fl.fedbn(task, sgd, **o), "0", "0"),
    "fedprox": (lambda task, sgd, **o: fl.fedprox(task, sgd, strength=0.5, **o), "0", "0"),
    "scaffold": (lambda task, sgd, **o: fl.scaffold(task, RATE, **o), "P", "P"),
    "scaffold_1": (lambda task, sgd, **o: fl.scaffold(task, RATE, option=1, **o), "P", "P"),
    "feddyn": (lambda task, sgd, **o: fl.feddyn(task, sgd, strength=0.1, **o), "0", "0"),
    "fednova": (lambda task, sgd, **o: fl.fednova(task, RATE, momentum=0.5, **o), "1", "0"),
    "fedavgm": (lambda task, sgd, **o: fl.fedavgm(task, sgd, **o), "0", "0"),
    "diloco": (lambda task, sgd, **o: diloco(task, sgd, **o), "0", "0"),
    "fedadagrad": (lambda task, sgd, **o: fl.fedadagrad(task, sgd, **o), "0", "0"),
    "fedyogi": (lambda task, sgd, **o: fl.fedyogi(task, sgd, **o), "0", "0"),
    "fedadam": (lambda task, sgd, **o: fl.fedadam(task, sgd, **o), "0", "0"),
    "ditto": (lambda task, sgd, **o: fl.ditto(task, sgd, **o), "0", "0"),
    "pfedme": (lambda task, sgd, **o: fl.pfedme(task, RATE, inner_steps=2, strength=2.0, **o), "0", "0"),
    "apfl": (lambda task, sgd, **o: apfl(task, sgd, mixing_rate=0.02, **o), "0", "0"),
    "fedala": (lambda task, sgd, head, **o: fedala(task, sgd, head=head, **o), "0", "0"),
    "feddg_ga": (lambda task, sgd, **o: feddg_ga(task, sgd, clients=4, rounds=3, **o), "1", "0"),
    "fedper": (lambda task, sgd, head, **o: fl.fedper(task, sgd, head=head, **o), "0", "0"),
    "fedrep": (lambda task, sgd, head, **o: fl.fedrep(task, sgd, head=head, head_steps=1, **o), "0", "0"),
    "moon": (lambda task, sgd, represent, **o: fl.moon(task, sgd, represent=represent, **o), "0", "0"),
    "fedcl": (lambda task, sgd, represent, **o: fedcl(task, sgd, represent=represent, **o), "0", "0"),
    "qfedavg": (lambda task, sgd, **o: fl.qfedavg(task, sgd, learning_rate=RATE, **o), "1", "0"),
    "afl": (lambda task, sgd, **o: fl.afl(task, sgd, clients=4, **o), "4", "4"),
    "local_only": (lambda task, sgd, **o: fl.local_only(task, sgd), "0", "0"),
    "median": (lambda task, sgd, **o: fl.fedavg(task, sgd, reduce=fl.reducers.median(), **o), "0", "0"),
    "screen": (lambda task, sgd, **o: fl.fedavg(task, sgd, reduce=fl.reducers.screen(), **o), "0", "0"),
}


def test_every_named_method_is_here():
    # centralized is local_only of one client; dp_fedavg chooses its own batches, see test_dp_sgd.py; sums of
    # ciphertexts are in tests/privacy/test_encrypted_sum.py; the others have files of their own.
    elsewhere = {"centralized", "dp_fedavg", "beguier", "p3sgd", "deepee", "li_w", "cheng", "famhe"}
    elsewhere |= {"medisecfed", "lai"}
    # Of frameworks.
    elsewhere |= {"singh", "fedce", "prr_fl"}
    elsewhere |= {"elayan"}
    elsewhere |= {"li_moe", "fl_mrcm", "vafl"}
    elsewhere |= {"li_moe", "fl_mrcm"}
    elsewhere |= {"elayan", "fedbiomed"}
    # Of streams, in test_remembering.py.
    elsewhere |= {"ewc", "lwf"}
    # Of other bytes, in test_low_communication.py.
    elsewhere |= {"streaming_diloco", "fedpaq", "feddropoutavg"}
    # By losses and times of clients, and work by round.
    elsewhere |= {"tuladhar", "ji", "fednorm", "fedacs"}
    # Tasks and exchanges of their own.
    elsewhere |= {"harmofl", "harmofl_scaffold", "feddg"}
    # Without labels, in test_momentum_contrast.py.
    elsewhere |= {"fedmoco", "wu_dermatology", "wu_volumetric"}
    # In files of their own, too.
    elsewhere |= {"braintorrent", "iop_fl"}
    elsewhere |= {"lc_fed"}
    elsewhere |= {"yang", "pan", "fedsim"}
    # Of applications.
    elsewhere |= {"fedvss", "wei", "priya", "roth", "baid", "banerjee"}
    elsewhere |= {"nalawade"}
    elsewhere |= {"sheller", "wang", "kades", "pati"}
    assert {entry.name for entry in catalog.entries()} - set(RECIPES) == elsewhere


def some(*names):
    """All algorithms, the named ones in the default selection."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]


def make(fx, name, task="regression", **options):
    if name in ("fedper", "fedrep", "fedala"):
        options["head"] = HEAD if task == "regression" else Variables(False, False)
    if name in ("moon", "fedcl"):
        options["represent"] = hidden if task == "regression" else everywhere
    return RECIPES[name][0](getattr(fx, task), optax.sgd(RATE), **options)


@functools.cache
def program(fx, name, task="regression", devices=1, parallel="scan"):
    mesh = fl.client_mesh(jax.devices()[:devices])
    work = {"batch_size": 2, "epochs": 2} if task == "regression" else {"batch_size": 1, "epochs": 1}
    return fx.trajectory(getattr(fx, task), make(fx, name, task), 3, mesh=mesh, parallel=parallel, **work)


def clients(fx):
    """The padding holds values of a thousand."""
    return fx.regression_data(COUNTS, shift=False, padding=3)


@functools.cache
def reference(fx, name):
    return program(fx, name)(clients(fx))


def models(fx, name, states, task="regression"):
    """The released model and every client's own, after the last round."""
    algorithm, last = make(fx, name, task), jax.tree.map(lambda x: x[-1], states)
    return algorithm.release(last), [fl.client_variables(algorithm, last, i) for i in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "devices", "parallel"),
    # A few on four devices, too; the engine's own tests go through all combinations.
    [(name, 2, 2) for name in RECIPES] + [(n, 4, "vmap") for n in ("scaffold", "fedrep", "afl", "screen")],
)
def test_results_do_not_depend_on_order_or_devices(fx, name, devices, parallel):
    found = program(fx, name, devices=devices, parallel=parallel)(clients(fx))
    fx.assert_close(found, reference(fx, name))


@pytest.mark.parametrize("name", some("scaffold"))
def test_same_seed_same_result_and_true_counts(fx, name):
    states, infos = reference(fx, name)
    fx.assert_equal(program(fx, name)(clients(fx)), (states, infos))
    np.testing.assert_array_equal(
        infos.client_metrics["steps"][0], np.tile([2 * -(-n // 2) for n in COUNTS], (3, 1))
    )
    np.testing.assert_array_equal(
        infos.client_metrics["examples"][0], np.tile([2 * n for n in COUNTS], (3, 1))
    )
    assert infos.applied.all() and not infos.excluded.any()


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_padding_changes_nothing(fx, name):
    found, _ = program(fx, name)(fx.regression_data(COUNTS, shift=False))
    fx.assert_close(found, reference(fx, name)[0], 1e-5)


@pytest.mark.parametrize("name", some("scaffold"))
def test_permutation_translation_and_scale_of_clients(fx, name):
    """Clients that change places, and a model that is translated together with the data."""
    run = program(fx, name, "quad")
    order = np.array([2, 0, 3, 1])
    states, _ = run(fx.quad_data())
    server, own = models(fx, name, states, "quad")
    permuted, _ = run(fx.quad_data(fx.a[order], fx.b[order], fx.tau[order]))
    other, others = models(fx, name, permuted, "quad")
    fx.assert_close(other, server)
    fx.assert_close(others, [own[i] for i in order])
    start = Variables({"w": jnp.asarray(np.array([0.3, -0.7]) + SHIFT)}, {})
    moved, _ = run(fx.quad_data(b=fx.b + SHIFT), start)
    other, others = models(fx, name, moved, "quad")
    fx.assert_close(other.params["w"], server.params["w"] + SHIFT, 2e-5)
    fx.assert_close([v.params["w"] for v in others], [v.params["w"] + SHIFT for v in own], 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in RECIPES if n != "local_only"])
def test_equal_clients_move_as_one(fx, name):
    """After one round, as gradient descent on their common objective; adaptive servers only in direction."""
    data = fx.quad_data(np.full(4, 2.0, np.float32), np.tile(fx.b[1], (4, 1)), np.full(4, 5))
    states, _ = program(fx, name, "quad")(data)
    server = jax.tree.map(lambda x: x[0], states.variables).params["w"]
    start = np.array([0.3, -0.7])
    change = (1 - (1 - 2 * RATE) ** 5) * (fx.b[1] - start)
    if name in ("fedadagrad", "fedyogi", "fedadam"):
        assert (np.sign(server - start) == np.sign(change)).all()
    elif name in (
        "fedavg",
        "fedbn",
        "fedper",
        "scaffold",
        "scaffold_1",
        "fedavgm",
        "ditto",
        "apfl",
        "fedala",
        "feddg_ga",
        "moon",
        "fedcl",
        "median",
    ):
        np.testing.assert_allclose(server, start + change, rtol=1e-5)
    else:
        moved = server - start
        np.testing.assert_allclose(moved / np.linalg.norm(moved), change / np.linalg.norm(change), rtol=1e-4)


class Spied(Exception):
    """Carries a message's shapes out of the tracing of a round's first state."""


def upload_of(fx, name):
    """Shapes of what a client hands to its channel."""

    def init(upload):
        raise Spied(jax.eval_shape(lambda: upload))

    algorithm = make(fx, name)
    spying = algorithm._replace(channel=algorithm.channel._replace(init=init))
    with pytest.raises(Spied) as spied:
        fl.init_state(spying, fx.regression.init(jax.random.key(0)), fx.regression_data(COUNTS))
    return algorithm, spied.value.args[0]


@pytest.mark.parametrize("name", RECIPES)
def test_messages_hold_what_is_stated_and_nothing_private(fx, name):
    algorithm, upload = upload_of(fx, name)
    variables = fx.regression.init(jax.random.key(0))
    private = {
        "fedbn": {"scale", "bias", "mean", "var", "count"},
        "fedper": {"dense"},
        "fedrep": {"dense"},
        "local_only": {"scale", "bias", "mean", "var", "count", "dense"},
    }.get(name, set())
    paths = jax.tree_util.tree_flatten_with_path(upload.delta)[0]
    assert not {path[-1].key for path, _ in paths} & private
    all_paths = jax.tree_util.tree_flatten_with_path(variables)[0]
    assert {p[-1].key for p, _ in paths} == {p[-1].key for p, _ in all_paths} - private
    parameters = sum(x.size for x in jax.tree.leaves(variables.params))
    up, down = (parameters if size == "P" else int(size) for size in RECIPES[name][1:])
    assert sum(x.size for x in jax.tree.leaves(upload.message)) == up
    payload = algorithm.exchange.broadcast(algorithm.exchange.init(variables))
    assert sum(x.size for x in jax.tree.leaves(payload)) == down


@pytest.mark.parametrize("name", some("scaffold"))
def test_bytes_are_counted(fx, name):
    _, upload = upload_of(fx, name)
    shared = sum(x.size for x in jax.tree.leaves(upload.delta))
    message = sum(x.size for x in jax.tree.leaves(upload.message))
    _, infos = reference(fx, name)
    parameters = sum(x.size for x in jax.tree.leaves(fx.regression.init(jax.random.key(0)).params))
    down = parameters if RECIPES[name][2] == "P" else int(RECIPES[name][2])
    np.testing.assert_array_equal(infos.bytes_up, 4 * (shared + message + 1) if shared else 0)
    np.testing.assert_array_equal(infos.bytes_down, 4 * (shared + down))


NEUTRAL = {
    "fedprox": lambda task, opt: fl.fedprox(task, opt, strength=0.0),
    "fedavgm": lambda task, opt: fl.fedavgm(task, opt, momentum=0.0),
    "moon": lambda task, opt: fl.moon(task, opt, represent=hidden, strength=0.0),
    "fedcl": lambda task, opt: fedcl(task, opt, represent=hidden, strength=0.0, keep_optimizer=False),
    "ditto": lambda task, opt: fl.ditto(task, opt, strength=0.7),
    "apfl": lambda task, opt: apfl(task, opt, mixing=0.7),
    "fedala": lambda task, opt: fedala(task, opt, head=HEAD, weight_rate=0.0),
    "fedper": lambda task, opt: fl.fedper(task, opt, head=Variables(False, False)),
    "fedrep": lambda task, opt: fl.fedrep(task, opt, head=Variables(False, False), head_steps=0),
}


@functools.cache
def averaged(fx):
    return fx.trajectory(
        fx.regression, fl.fedavg(fx.regression, optax.adam(0.05)), 2, batch_size=2, epochs=2
    )(fx.regression_data(COUNTS))


@pytest.mark.parametrize(
    "name",
    [n if n == "fedprox" else pytest.param(n, marks=pytest.mark.slow) for n in NEUTRAL],
)
def test_without_strength_it_is_fedavg_bit_for_bit(fx, name):
    """With the same keys; of Ditto and APFL the global model, whatever the strength."""
    algorithm = NEUTRAL[name](fx.regression, optax.adam(0.05))
    states, infos = fx.trajectory(fx.regression, algorithm, 2, batch_size=2, epochs=2)(
        fx.regression_data(COUNTS)
    )
    expected, _ = averaged(fx)
    fx.assert_equal(states.variables, expected.variables)
    assert infos.applied.all()
