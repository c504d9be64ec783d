"""Secure sums by flags: every method of the catalog, options, and refusals."""

import dataclasses
import functools

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon import catalog
from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.secure_aggregation import simulate_round
from fedrecon.training import Budget, FederationSettings, FlagError, check_method
from fedrecon.training.catalog_algorithms import algorithms, make_algorithm
from fedrecon.training.clocks import clocked
from fedrecon.training.secure import check_secure, make_setup, noise_in_shares, secured
from fedrecon.types import Task, Variables

BUDGET = Budget(rounds=2, epochs=1, batch_size=2, learning_rate=0.05)
COUNTS = (4, 2, 6, 4)


def _values(params, batch):
    return (batch["x"] @ params["body"] * params["head"][0] - batch["y"]) ** 2


def _loss(params, stats, batch, key):
    valid = batch["valid"]
    values = jnp.where(valid, _values(params, batch), 0)
    total, count = values.sum(), valid.sum().astype(jnp.float32)
    return total / jnp.maximum(count, 1), (stats, {"loss": (total, count)})


TASK = Task(
    init=lambda key: Variables({"body": jnp.asarray([0.5, -0.2, 0.1]), "head": jnp.ones(2)}, {}),
    loss=_loss,
    metrics=lambda params, stats, batch: {},
    predict=lambda params, stats, batch: batch["x"] @ params["body"],
    normalization=Variables({"body": False, "head": True}, {}),
)


def clients():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 6, 3)).astype(np.float32)
    valid = np.arange(6) < np.asarray(COUNTS)[:, None]
    label = (x[..., 0] > 0).astype(np.int32)
    examples = {"x": x, "label": label, "y": (x.sum(-1) + rng.normal(size=(4, 6))).astype(np.float32)}
    return ClientData(examples, valid, tuple("abcd"))


@functools.cache
def trained(settings):
    """(shared leaves after two rounds, infos)."""
    represent = None
    if "represent" in catalog.lookup(settings.algorithm).needs:
        represent = lambda params, stats, batch: batch["x"] * params["body"]  # noqa: E731
    algorithm = make_algorithm(settings, BUDGET, TASK, clients(), represent=represent)
    algorithm = clocked(algorithm, settings, BUDGET, clients(), TASK.init(jax.random.key(0)))
    start, key = TASK.init(jax.random.key(0)), jax.random.key(1)
    round = fl.make_round(algorithm, batch_size=2, epochs=1, parallel="vmap")
    state, data = fl.init_state(algorithm, start, clients()), fl.place(clients())
    found = []
    for _ in range(2):
        state, info = round(state, data, key)
        found.append(info)
    return state.variables, jax.tree.map(lambda *x: jnp.stack(x), *found)


def settings_of(name="fedavg", **changes):
    fields = {"algorithm": name, "clip_norm": 4.0, "secure_aggregation": "secagg"}
    return FederationSettings(**{**fields, **changes})


REFUSED = {
    "fednova": "secure_aggregation.scalar_bound: expected the largest scalar",
    "qfedavg": "secure_aggregation.scalar_bound: expected the largest scalar",
    "li_w": "secure_aggregation: expected none with --algorithm=li_w",
    "braintorrent": "secure_aggregation: expected --topology=star",
    "lai": "algorithm=lai: expected --task=classification",
    **{
        name: f"algorithm={name}: expected --task=classification, segmentation alone"
        for name in ("fedce", "prr_fl", "tuladhar", "fednorm", "nalawade", "pati")
    },
    **{
        name: f"algorithm={name}: expected --task=segmentation, classification alone"
        for name in ("harmofl", "harmofl_scaffold")
    },
    "feddg": "algorithm=feddg: expected --task=segmentation alone",
    "yang": "algorithm=yang: expected --task=segmentation alone",
    "fedsim": "algorithm=fedsim: expected --task=segmentation alone",
    "pan": "algorithm=pan: expected --task=segmentation alone",
    "wang": "algorithm=wang: expected --task=segmentation alone",
    "kades": "algorithm=kades: expected --task=segmentation alone",
    "lc_fed": "algorithm=lc_fed: expected --task=segmentation alone",
    "lwf": "algorithm=lwf: expected --task=classification, segmentation alone",
    "vafl": "algorithm=vafl: expected --task=classification alone",
    "li_moe": "algorithm=li_moe: expected --task=classification alone",
    "fedvss": "algorithm=fedvss: expected --task=classification alone",
    "roth": "algorithm=roth: expected --task=classification alone",
    "banerjee": "algorithm=banerjee: expected --task=classification alone",
    "baid": "algorithm=baid: expected --task=classification alone",
    "wei": "algorithm=wei: expected --task=classification alone",
    "fl_mrcm": "algorithm=fl_mrcm: expected --task=reconstruction alone",
    "ji": "clock: expected a policy, such as wait, with --algorithm=ji",
    "cheng": "secure_aggregation: expected none with --algorithm=cheng",
    "famhe": "secure_aggregation: expected none with --algorithm=famhe",
    "fedpaq": "secure_aggregation: expected none with --algorithm=fedpaq",
    "feddropoutavg": "secure_aggregation: expected none with --algorithm=feddropoutavg",
    "streaming_diloco": "secure_aggregation: expected none with --algorithm=streaming_diloco",
    "medisecfed": "algorithm=medisecfed: expected --task=classification alone",
    **dict.fromkeys(("beguier", "deepee", "p3sgd"), "dp.epsilon: expected a budget"),
    "local_only": "secure_aggregation: expected none, which local_only implies",
    "centralized": "secure_aggregation: expected none, which centralized implies",
}


def test_sums_with_an_entry_of_each_client_are_refused():
    """AFL's losses stand in the sum as they are: all but one client add zeros to each."""
    with pytest.raises(FlagError, match="algorithm: expected one that sends nothing but sums"):
        check_method(settings_of("afl"))


@pytest.mark.slow
@pytest.mark.parametrize("name", algorithms())
def test_every_method_trains_as_with_plain_sums_or_says_why_not(name):
    row = catalog.lookup(name)
    settings = settings_of(name, clip_norm=4.0 if row.exchanges and "channel" not in row.fixes else 0.0)
    if not catalog.lookup(name).linear or name in REFUSED:
        with pytest.raises(
            FlagError, match=REFUSED.get(name, "algorithm: expected one that sends nothing but")
        ):
            check_method(settings)
            trained(settings)
        return
    plain, _ = trained(dataclasses.replace(settings, secure_aggregation="none"))
    secure, infos = trained(settings)
    assert infos.applied.all()
    # Four clients, numbers up to 4 in 2^27 steps, two rounds; and what training makes of such differences.
    for a, b in zip(jax.tree.leaves(secure), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "fednova", "secure_aggregation_options": (("scalar_bound", "8"),)},
        {
            "algorithm": "qfedavg",
            "secure_aggregation_options": (("scalar_bound", "5000"),),
            "clip_norm": 300.0,
        },
        {"secure_aggregation": "secagg+", "secure_aggregation_options": (("neighbors", "2"),)},
        {"secure_aggregation": "lightsecagg", "clip_norm": 0.0},
        {"sampler": "uniform", "clients_per_round": 3},
        {"fault": "nan:b"},
    ],
)
def test_variants_train_as_with_plain_sums(changes):
    settings = settings_of(**{"algorithm": "fedavg"} | changes)
    plain, _ = trained(
        dataclasses.replace(settings, secure_aggregation="none", secure_aggregation_options=())
    )
    secure, infos = trained(settings)
    assert infos.applied.all()
    for a, b in zip(jax.tree.leaves(secure), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 if "qfedavg" in changes.values() else 3e-6)


@pytest.mark.slow
def test_rounds_below_the_threshold_and_beyond_the_bound_are_not_applied():
    secure, infos = trained(settings_of(fault="crashed:a,crashed:b"))
    assert not infos.applied.any() and not infos.channel[1][1]["enough"].any()
    start = TASK.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, secure, start)
    options = (("scalar_bound", "0.5"),)
    _, infos = trained(settings_of("fednova", secure_aggregation_options=options))
    assert not infos.applied.any() and (infos.channel[1][1]["beyond"] > 0).all()


@pytest.mark.slow
def test_robust_reducers_see_the_means_of_groups():
    options = (("groups", "2"),)
    settings = settings_of(reduce="median", secure_aggregation_options=options, weighting="equal")
    _, infos = trained(settings)
    assert infos.applied.all()
    # Of two groups the median is their mean: that of all four.
    plain, _ = trained(settings_of(secure_aggregation="none", weighting="equal"))
    secure, _ = trained(settings)
    for a, b in zip(jax.tree.leaves(secure), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reduce": "median"}, "reduce: expected mean with --secure_aggregation, or"),
        ({"screen_norm": 3.0}, "reduce: expected mean with --secure_aggregation, or"),
        ({"sampler": "highest_loss", "clients_per_round": 2}, "sampler: expected one that needs no losses"),
        ({"options": {"minimum": "3"}}, "secure_aggregation.minimum: expected one of secagg's options"),
        ({"options": {"threshold": "0"}}, "secure_aggregation.threshold: expected a positive number"),
        ({"options": {"threshold": "2"}}, "secure_aggregation.threshold: expected more than half of 4"),
        ({"options": {"neighbors": "2"}}, "secure_aggregation.neighbors: expected it with"),
        ({"options": {"bound": "2"}}, "secure_aggregation.bound: expected --clip_norm or it"),
        ({"options": {"groups": "2"}}, "secure_aggregation.groups: expected a --reduce"),
        ({"options": {"groups": "3"}, "reduce": "median"}, "secure_aggregation: expected more clients"),
        ({"secure_aggregation": "secagg+"}, "secure_aggregation: expected secagg, or"),
        (
            {"secure_aggregation": "none", "options": {"threshold": "3"}},
            "secure_aggregation: expected a protocol",
        ),
        ({"clip_norm": 1e9}, "clip_norm: expected a bound with which the sum of 4 clients does not wrap"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    options = tuple(changes.pop("options", {}).items())
    settings = settings_of(**{**changes, "secure_aggregation_options": options})
    with pytest.raises(FlagError, match=message):
        check_secure(settings)
        algorithm = fl.fedavg(TASK, None, reduce=fl.reducers.median() if settings.reduce != "mean" else None)
        secured(algorithm, settings, TASK, clients())


def test_noise_in_shares_meets_the_budget_with_the_fewest_clients():
    settings = settings_of(clip_norm=0.0, dp_epsilon=8.0, dp_unit="site", dp_clipping_norm=0.5)
    settings = dataclasses.replace(settings, secure_aggregation_options=(("threshold", "6"),))
    noise, epsilon = noise_in_shares(settings, 10, 20, 1e-5)
    assert 7.9 < epsilon <= 8 and noise.least_clients == 6 and noise.clip == 0.5
    # Of twenty Gaussian sums with the noise of six shares; rounding and the accountant cost the rest.
    gaussian = dp_accounting.GaussianDpEvent(noise.central_stddev / 0.5)
    spent = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-3).compose(gaussian, 20)
    assert 0.85 * epsilon < spent.get_epsilon(1e-5) <= epsilon
    for change in ({"codec": "sign"}, {"sampler": "poisson"}, {"dp_adaptive_clipping": True}):
        with pytest.raises(FlagError, match="with noise in shares"):
            noise_in_shares(dataclasses.replace(settings, **change), 10, 20, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["secagg", "secagg+", "lightsecagg"])
def test_bytes_are_those_of_the_parties(protocol):
    """But for headers, which are some percent."""
    from fedrecon.training.secure import _bytes

    options = {"neighbors": 4} if protocol == "secagg+" else {}
    setup = make_setup(settings_of(secure_aggregation=protocol), options, 8, 50)
    outcome = simulate_round(setup, lambda i: np.zeros(50, np.uint32))
    counted = _bytes(setup)
    assert outcome.bytes_up[0] == pytest.approx(counted.up + 200, rel=0.08)
    assert outcome.bytes_down[0] == pytest.approx(counted.down, rel=0.08)
