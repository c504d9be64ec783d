"""P3SGD and Beguier: steps of whole patients, their scale, and what they cost."""

import dataclasses
import json
from functools import partial

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from fedrecon import federated as fl
from fedrecon import privacy
from fedrecon.data import stack_clients
from fedrecon.federated.mechanism import Mechanism
from fedrecon.privacy import read_ledger
from fedrecon.privacy.events import event_to_json
from fedrecon.privacy.methods.p3sgd import SCALES, chosen_scale, patient_steps, scaling
from fedrecon.training.budgets import Budget
from fedrecon.training.catalog_algorithms import check_method, make_algorithm
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError
from fedrecon.training.privacy_plan import plan_privacy
from fedrecon.training.spending import Purse
from fedrecon.types import Task, Variables

KEY, RATE, PATIENTS, IMAGES, WIDTH = jax.random.key(5), 0.3, 4, 3, 20


def loss(params, stats, batch, key):
    away = jnp.where(batch["valid"][:, None], params["w"] - batch["x"], 0)
    return 0.5 * (away**2).sum() / jnp.maximum(batch["valid"].sum(), 1), (stats, {})


TASK = Task(
    init=lambda key: Variables({"w": jnp.zeros(WIDTH)}, {}),
    loss=loss,
    metrics=lambda params, stats, batch: {"loss": (loss(params, stats, batch, None)[0], jnp.float32(1))},
    predict=lambda params, stats, batch: batch["x"],
    normalization=Variables({"w": False}, {}),
)
MECHANISM = Mechanism(0.5, 0.0, PATIENTS, PATIENTS, unit="patient", units=PATIENTS, images=IMAGES)


@partial(jax.jit, static_argnums=(0, 1))
def moved(method, optimizer, examples, valid, validation=None):
    """How far the model moves in one round at one client."""
    update = fl.local_training(loss, optimizer, method)
    index, mask = update.batching(examples, valid, KEY)
    batches = fl.Batches(examples, index, valid.sum(), valid, jnp.int32(0), validation=validation)
    variables = TASK.init(KEY)
    return update.update(variables, (), update.init(variables), batches, mask, KEY).delta.params["w"]


def test_a_step_is_the_clipped_sum_of_passes_over_patients():
    """By hand, with patients of one to three images; an edit of one moves it by 2 C at most."""
    rng, owned = np.random.default_rng(0), np.array([1, 3, 2, 1])
    volume = np.repeat(np.arange(PATIENTS), owned)
    x = 0.2 * rng.normal(size=(len(volume), WIDTH)).astype(np.float32)
    method = fl.private_gradients(MECHANISM, patient_steps(RATE))
    optimizer, valid = optax.sgd(1.0), jnp.ones(len(volume), bool)

    def found(x):
        return np.asarray(
            moved(method, optimizer, {"x": jnp.asarray(x), "volume": jnp.asarray(volume)}, valid)
        )

    total = np.zeros(WIDTH)
    for patient in range(PATIENTS):
        w = np.zeros(WIDTH)
        for image in x[volume == patient]:
            w = w - RATE * (w - image)
        total += w * min(1, 0.5 / np.linalg.norm(w))
    np.testing.assert_allclose(found(x), total / PATIENTS, rtol=1e-4, atol=1e-6)
    for value in (1e6, np.nan):
        other = x.copy()
        other[volume == 1] = value
        assert np.linalg.norm(found(other) - found(x)) * PATIENTS <= 2 * 0.5 * (1 + 1e-4)


def test_patients_of_one_image_are_records_of_dp_sgd():
    """A pass over one image is a gradient step: C becomes C / rate, the noise with it."""
    examples = {"x": jax.random.normal(KEY, (PATIENTS, WIDTH))}
    valid = jnp.ones(PATIENTS, bool)
    single = dataclasses.replace(MECHANISM, images=1, noise_multiplier=1.2)
    steps = fl.private_gradients(single, patient_steps(RATE))
    found = moved(steps, optax.sgd(1.0), examples, valid)
    records = dataclasses.replace(single, unit="example", clipping_norm=0.5 / RATE)
    expected = moved(fl.private_gradients(records), optax.sgd(RATE), examples, valid)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_scales_are_chosen_by_the_exponential_mechanism():
    losses, keys = jnp.array([1.0, 0.9, 1.2]), jax.random.split(KEY, 3000)

    def counts(epsilon):
        draw = jax.jit(jax.vmap(lambda key: chosen_scale(losses, jnp.int32(10), epsilon, 2.0, key)))
        found = np.asarray(draw(keys))
        return np.array([(found == scale).sum() for scale in SCALES])

    assert scipy.stats.chisquare(counts(0.0)).pvalue > 1e-3
    assert counts(1e6)[1] == 3000
    weights = np.exp(-np.asarray(losses, float) * 2.0 * 10 / (2 * 2.0))
    assert scipy.stats.chisquare(counts(2.0), 3000 * weights / weights.sum()).pvalue > 1e-3


@pytest.mark.slow
def test_validation_patients_scale_the_step():
    """The largest scale is best for examples far away, the smallest for those at the start."""
    examples = {"x": jnp.ones((PATIENTS, WIDTH)), "volume": jnp.arange(PATIENTS)}
    valid = jnp.ones(PATIENTS, bool)
    steps = fl.private_gradients(MECHANISM, patient_steps(RATE))
    plain = moved(steps, optax.sgd(1.0), examples, valid)
    method = fl.combine(steps, scaling(1e9, 1e3))
    for place, scale in ((10.0, 2.0), (0.0, 0.5)):
        seen = {"x": jnp.full((3, WIDTH), place), "volume": jnp.array([0, 0, 1])}
        seen["valid"] = jnp.array([True, True, True])
        found = moved(method, optax.sgd(1.0), examples, valid, seen)
        np.testing.assert_allclose(found, scale * plain, rtol=1e-5)


def test_by_name_they_are_built_and_accounted(tmp_path):
    clients = stack_clients(
        [{"x": np.ones((n, WIDTH), np.float32), "volume": np.arange(n, dtype=np.int32) // 2} for n in (8, 6)],
        ("a", "b"),
    )
    budget = Budget(rounds=2, epochs=1, batch_size=2, learning_rate=0.1)
    for name, unit in (("beguier", "example"), ("p3sgd", "patient")):
        settings = FederationSettings(algorithm=name, dp_epsilon=500.0, dp_noise_multiplier=1.0)
        spending = plan_privacy(settings, [(clients, {"s": budget})]).noise["s"]
        assert spending.mechanism.unit == unit
        algorithm = make_algorithm(settings, budget, TASK, clients, noise=spending)
        assert algorithm.client.batching is not None
        (folder := tmp_path / name).mkdir()
        assert Purse(folder, "s", spending, KEY).permit(0, 1) == 1
        lines = read_ledger(folder / "ledger.jsonl")
        sites = ["a", "b"] if name == "beguier" else ["a", "a, validation", "b", "b, validation"]
        assert [line["site"] for line in lines] == sites
        # Exactly what happened: two or four steps of expected size 2, at most 8.
        units, rate = (8, 0.25) if unit == "example" else (4, 0.5)
        step = dp_accounting.TruncatedSubsampledGaussianDpEvent(units, rate, 8, 1.0)
        event = dp_accounting.SelfComposedDpEvent(step, 4 if unit == "example" else 2)
        assert lines[0]["event"] == json.loads(event_to_json(event))
        if name == "p3sgd":
            chosen = dp_accounting.SelfComposedDpEvent(dp_accounting.ZCDpEvent(0.1**2 / 8), 2)
            assert lines[1]["event"] == json.loads(event_to_json(chosen))


def test_what_they_presume_is_asked_for():
    with pytest.raises(FlagError, match=r"--dp\.epsilon: expected a budget, for --algorithm=p3sgd"):
        check_method(FederationSettings(algorithm="p3sgd"))
    with pytest.raises(FlagError, match=r"--dp\.unit: expected patient, which p3sgd protects"):
        check_method(FederationSettings(algorithm="p3sgd", dp_epsilon=1.0, dp_unit="site"))
    with pytest.raises(ValueError, match="unit: expected patient"):
        privacy.p3sgd(TASK, 0.1, mechanism=Mechanism(1.0, 1.0, 2, 8))
    with pytest.raises(ValueError, match="selection"):
        privacy.p3sgd(TASK, 0.1, mechanism=MECHANISM, selection=-1.0)
