"""The sparse vector technique: how much is sent, with which noise, and what it costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from fedrecon import federated as fl
from fedrecon.federated.methods.li_w import li_w, sparse_vector, upload_epsilon
from fedrecon.types import Variables

SIZE, STEPS = 400, 4.0


@functools.partial(jax.jit, static_argnames="options")
def upload(delta, seed, options=()):
    """(what is sent, whether it was accepted, metrics) of a change of the model."""
    method = sparse_vector(**dict(options))
    zero = Variables({"w": jnp.zeros(delta.shape)}, {})
    result = fl.ClientResult(
        Variables({"w": delta}, {}),
        jnp.float32(1),
        (),
        fl.Message(),
        {"steps": (1.0, 1.0), "loss": (9.0, 1.0)},
        zero,
    )
    context = fl.LocalContext(
        zero, (), None, jax.random.key(seed), None, jnp.float32(STEPS), None, lambda variables: variables
    )
    result, message, _ = method.finish(result, (), context)
    return result.delta.params["w"], message.summed["w"], result.metrics


def options(**changed):
    return tuple(
        sorted({"fraction": 0.1, "epsilon": 5.0, "release_epsilon": 5.0, "bound": 1.0, **changed}.items())
    )


def test_no_more_than_asked_is_sent_and_none_of_it_raw():
    raw = jnp.asarray(STEPS * np.random.default_rng(0).uniform(-1, 1, SIZE), jnp.float32)
    sent, accepted, metrics = upload(raw, 0, options(threshold=0.2))
    assert 0 < (sent != 0).sum() <= 40 and accepted.sum() <= 40
    # What was not accepted is exactly zero; what was differs from the raw value.
    np.testing.assert_array_equal(sent[accepted == 0], 0)
    assert (sent[accepted == 1] != raw[accepted == 1]).all() and np.abs(sent).max() <= STEPS
    assert set(metrics) == {"steps", "uploaded", "epsilon"}
    assert float(metrics["uploaded"][0]) == accepted.sum()
    np.testing.assert_allclose(metrics["epsilon"][0], upload_epsilon(40, 5.0, 5.0), rtol=1e-6)


def test_what_an_upload_costs():
    """The figure of 10^5 entries, whose epsilon is quoted as 0.1."""
    assert abs(upload_epsilon(10**5, 0.1, 0.1) - (0.1 + 341.995 + 0.1)) < 0.01
    assert upload_epsilon(40, 1.0, 0.5, "per_coordinate") - upload_epsilon(40, 1.0, 0.5) == pytest.approx(
        19.5
    )


def test_released_values_have_laplace_noise_for_the_whole_vector():
    """On values that stay inside the bound; the scale is 2 q gamma / e3."""
    chosen = options(fraction=1.0, release_epsilon=2e5, epsilon=1e9, threshold=0.0)
    raw = jnp.full(SIZE, 0.5 * STEPS, jnp.float32)
    noise = np.concatenate([np.asarray(upload(raw, seed, chosen)[0]) / STEPS - 0.5 for seed in range(5)])
    width = 2 * SIZE * 1.0 / 2e5
    assert len(noise) == 2000 and np.abs(noise).max() < 0.1
    assert stats.kstest(noise / width, "laplace").pvalue > 1e-3
    # The legacy scale is that of one entry.
    legacy = options(fraction=1.0, release_epsilon=2e3, epsilon=1e9, threshold=0.0, scale="per_coordinate")
    noise = np.asarray(upload(raw, 1, legacy)[0]) / STEPS - 0.5
    assert stats.kstest(noise / 1e-3, "laplace").pvalue > 1e-3


@pytest.mark.slow
def test_of_equal_entries_all_are_as_likely():
    chosen = options(fraction=0.1, threshold=0.0)
    counts = sum(np.asarray(upload(jnp.zeros(SIZE), seed, chosen)[1]) for seed in range(400))
    assert counts.sum() > 400 * 20
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.slow
def test_without_noise_the_largest_bound_is_averaging(fx):
    data = fx.quad_data()
    free = {"fraction": 1.0, "epsilon": 1e12, "release_epsilon": 1e12, "bound": 1e3, "threshold": -1.0}
    task, sgd = fx.quad, optax.sgd(0.05)
    states, infos = fx.trajectory(task, li_w(task, sgd, **free), 2)(data)
    plain, _ = fx.trajectory(task, fl.fedavg(task, sgd, weighting=fl.equal), 2)(data)
    np.testing.assert_allclose(states.variables.params["w"], plain.variables.params["w"], rtol=1e-5)
    # Two entries of 4 bytes, their places of one bit each, and 8 bytes in front.
    np.testing.assert_array_equal(infos.bytes_up, 17)


def test_means_are_over_those_who_sent_an_entry():
    method, everybody = sparse_vector(), sparse_vector(average="all")
    message = fl.Message(summed={"w": jnp.array([2.0, 0.0, 4.0])})
    gradient = {"w": jnp.array([1.0, 0.0, 3.0])}

    def moved(method):
        return method.transform.update(gradient, (), None, message=message, participants=4, clients=4)[0]["w"]

    np.testing.assert_allclose(moved(method), [2, 0, 3])
    np.testing.assert_allclose(moved(everybody), [1, 0, 3])


def test_a_bound_from_the_data_has_no_guarantee_and_statistics_are_refused():
    _, _, metrics = upload(jnp.ones(8), 0, options(bound=0.0))
    assert np.isinf(metrics["epsilon"][0])
    result = fl.ClientResult(Variables({}, {"mean": jnp.zeros(1)}), None, (), fl.Message(), {}, None)
    with pytest.raises(
        ValueError, match=r"^variables.stats: expected none, since they would be sent without"
    ):
        sparse_vector().finish(result, (), None)
    for option, message in (
        ({"fraction": 0}, "fraction"),
        ({"scale": "x"}, "scale"),
        ({"epsilon": 0}, "epsilon"),
    ):
        with pytest.raises(ValueError, match=f"^{message}: expected"):
            sparse_vector(**option)
