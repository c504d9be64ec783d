"""HarmoFL: amplitude normalization, its exchange, and perturbed gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.harmofl import harmofl, harmofl_scaffold, perturbed
from fedrecon.federated.methods.mean_amplitude import mean_amplitude, normalized_task
from fedrecon.types import Task, Variables

RNG = np.random.default_rng(5)
# Three sites of 5, 3 and 6 images; the others are padding, of large numbers.
IMAGES = RNG.normal(size=(3, 6, 8, 6, 2)).astype(np.float32) + 2
VALID = np.arange(6)[None] < np.array([5, 3, 6])[:, None]
IMAGES[~VALID] = 1e3
EXAMPLE = {"image": jax.ShapeDtypeStruct((1, 8, 6, 2), jnp.float32)}


def values(params, batch):
    seen = jnp.einsum("nyxc,yxc->n", batch["image"], params["w"])
    return (jnp.tanh(seen) - 0.3) ** 2


def loss(params, stats, batch, key):
    each = jnp.where(batch["valid"], values(params, batch), 0)
    return each.sum() / jnp.maximum(batch["valid"].sum(), 1), (stats, {})


TASK = Task(
    init=lambda key: Variables({"w": 0.1 * jax.random.normal(key, (8, 6, 2))}, {}),
    loss=loss,
    metrics=lambda params, stats, batch: {"value": (values(params, batch).sum(), batch["valid"].sum())},
    predict=lambda params, stats, batch: batch["image"],
    normalization=Variables({"w": False}, {}),
)


@pytest.fixture
def data(fx):
    return fx.clients({"image": jnp.asarray(IMAGES)}, jnp.asarray(VALID))


def exchanged(data, **options):
    task = normalized_task(TASK, EXAMPLE)
    return mean_amplitude(task, task.init(jax.random.key(0)), data, jax.random.key(1), **options)


def of_client(images, batch, decay):
    """The running mean as published, with the transform of numpy in double precision."""
    mean = None
    for start in range(0, len(images), batch):
        found = np.abs(np.fft.fft2(images[start : start + batch].astype(float), axes=(1, 2))).mean(0)
        mean = found if mean is None else (1 - decay) * mean + decay * found
    return mean


@pytest.mark.parametrize("decay", [0.1, 0.0, 1.0])
def test_the_server_gets_the_mean_of_running_means_once(data, decay):
    found = exchanged(data, decay=decay, amplitude_batch=2)
    expected = np.mean([of_client(x[v], 2, decay) for x, v in zip(IMAGES, VALID, strict=True)], axis=0)
    np.testing.assert_allclose(found.variables.stats["amplitude"], expected, rtol=2e-5)
    size = 4 * 8 * 6 * 2
    np.testing.assert_array_equal(found.bytes_up, [size] * 3)
    np.testing.assert_array_equal(found.bytes_down, [size] * 3)
    assert found.frozen == ("amplitude",) and found.own is None


def test_a_site_without_examples_has_no_part(data):
    alone = data._replace(valid=data.valid.at[1].set(False))
    expected = np.mean([of_client(IMAGES[i][VALID[i]], 16, 0.1) for i in (0, 2)], axis=0)
    found = exchanged(alone)
    np.testing.assert_allclose(found.variables.stats["amplitude"], expected, rtol=2e-5)
    assert found.bytes_up[1] == found.bytes_down[1] == 0


def test_images_get_the_mean_amplitude_and_keep_their_phases():
    task, mean = normalized_task(TASK, EXAMPLE), np.abs(np.fft.fft2(IMAGES[2, 0], axes=(0, 1)))
    seen = task.predict({}, {"amplitude": jnp.asarray(mean)}, {"image": jnp.asarray(IMAGES[0, :3])})
    new, old = (np.fft.fft2(np.asarray(x, float), axes=(1, 2)) for x in (seen, IMAGES[0, :3]))
    np.testing.assert_allclose(np.abs(new), np.broadcast_to(mean, new.shape), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(new / np.abs(new), old / np.abs(old), atol=1e-4)


def test_gain_and_offset_of_a_site_are_undone():
    """Two sites with x and 3 x + 2 of one phantom see the same."""
    task, stats = (
        normalized_task(TASK, EXAMPLE),
        {"amplitude": jnp.asarray(np.abs(RNG.normal(size=(8, 6, 2))))},
    )
    image = np.abs(IMAGES[0, :2])
    a, b = (task.predict({}, stats, {"image": jnp.asarray(x)}) for x in (image, 3 * image + 2))
    np.testing.assert_allclose(a, b, atol=2e-6)


def test_the_window_of_the_mean_alone_sets_the_mean_intensity():
    task = normalized_task(TASK, EXAMPLE, window=0.0)
    mean = np.full((8, 6, 2), 48 * 0.7, np.float32)
    image = IMAGES[0, :2]
    seen = task.predict({}, {"amplitude": jnp.asarray(mean)}, {"image": jnp.asarray(image)})
    expected = image - image.mean((1, 2), keepdims=True) + 0.7
    np.testing.assert_allclose(seen, expected, atol=2e-6)


def test_steps_are_those_of_the_perturbed_gradient(x64):
    """Of w^T A w / 2 the gradient is exactly A (w + alpha A w / |A w|)."""
    matrix = jnp.asarray(RNG.normal(size=(4, 4)))
    matrix = matrix @ matrix.T
    w = jnp.asarray(RNG.normal(size=4))

    def value_and_grad(params, stats, batch, memory, key):
        return fl_evaluation(params), matrix @ params

    def fl_evaluation(params):
        return 0.5 * params @ matrix @ params

    evaluation, gradient = perturbed(0.05).oracle(value_and_grad)(w, {}, {}, (), None)
    first = matrix @ w
    expected = matrix @ (w + 0.05 * first / jnp.linalg.norm(first))
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)
    assert evaluation == fl_evaluation(w)


@pytest.mark.slow
def test_without_both_parts_it_is_fedavg_bit_for_bit(fx):
    assert normalized_task(TASK, EXAMPLE, normalize=False) is TASK
    counts = fx.regression_data([5, 3, 4])
    runs = [
        fx.trajectory(fx.regression, algorithm, 2, batch_size=2, epochs=1)(counts)
        for algorithm in (
            harmofl(fx.regression, optax.adam(0.05), strength=0.0, by_size=True),
            fl.fedavg(fx.regression, optax.adam(0.05)),
        )
    ]
    fx.assert_equal(*runs)


@pytest.mark.slow
def test_with_control_variates_and_without_perturbation_it_is_scaffold(fx):
    counts = fx.regression_data([5, 3, 4])
    plain, ours, perturbed = (
        fx.trajectory(fx.regression, algorithm, 2, batch_size=2, epochs=1)(counts)
        for algorithm in (
            fl.scaffold(fx.regression, 0.05),
            harmofl_scaffold(fx.regression, 0.05, strength=0.0),
            harmofl_scaffold(fx.regression, 0.05, strength=0.5),
        )
    )
    fx.assert_equal(ours, plain)
    # The control variates of the first round are those of perturbed gradients.
    first = jax.tree.map(lambda x: x[0], (perturbed[0].exchange, plain[0].exchange))
    assert not np.allclose(*(np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in first))


def test_one_round_is_that_of_the_equations(fx, data):
    """One full-batch step of gradient descent at each site, and the plain mean, in double precision."""
    task, before = normalized_task(TASK, EXAMPLE), exchanged(data)
    rate, alpha = 0.1, 0.05
    algorithm = harmofl(task, optax.sgd(rate), strength=alpha)
    round = fl.make_round(algorithm, batch_size=6, epochs=1)
    state = fl.init_state(algorithm, before.variables, data)
    state, _ = round(state, data, jax.random.key(0))
    mean = np.asarray(before.variables.stats["amplitude"], float)
    start = np.asarray(before.variables.params["w"], float)

    def gradient(w, images):
        seen = np.tanh(np.einsum("nyxc,yxc->n", images, w))
        return np.einsum("n,nyxc->yxc", 2 * (seen - 0.3) * (1 - seen**2), images) / len(images)

    ends = []
    for images, valid in zip(IMAGES.astype(float), VALID, strict=True):
        spectrum = np.fft.fft2(images[valid], axes=(1, 2))
        seen = np.fft.ifft2(mean * np.exp(1j * np.angle(spectrum)), axes=(1, 2)).real
        g = gradient(start, seen)
        ends.append(start - rate * gradient(start + alpha * g / np.linalg.norm(g), seen))
    np.testing.assert_allclose(state.variables.params["w"], np.mean(ends, axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: perturbed(-1.0), "strength: expected a number of at least 0"),
        (lambda: normalized_task(TASK, {"x": EXAMPLE["image"]}), "example: expected one with 'image'"),
        (lambda: normalized_task(TASK, EXAMPLE, window=0.7), "part: expected a number in"),
        (lambda: exchanged(None, decay=2.0), "decay: expected a number in"),
        (lambda: exchanged(None, amplitude_batch=0), "amplitude_batch: expected a positive"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
