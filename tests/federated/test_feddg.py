"""FedDG: spectra of others, interpolated images, and episodic steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.alignment import boundary_contrast, boundary_rings, frequency_window
from fedrecon.federated.methods.feddg import episodic, feddg
from fedrecon.federated.methods.spectra import Spectra, exchange_spectra, interpolated
from fedrecon.types import Task, Variables

RNG = np.random.default_rng(11)
COUNTS = [4, 2, 5]
VALID = np.arange(6)[None] < np.array(COUNTS)[:, None]
# Images on an offset, so that clipping to their range rarely acts; padding is of large numbers.
IMAGES = RNG.normal(size=(3, 6, 10, 8, 1)).astype(np.float32)
IMAGES[~VALID] = 1e3
LABELS = np.zeros((3, 6, 10, 8), np.int32)
LABELS[:, :, 3:7, 2:6] = 1
KEY = jax.random.key(2)


def logits(params, batch):
    seen = batch["image"] * params["w"][:, 0] + params["b"]
    return jnp.stack([jnp.zeros(seen.shape[:3]), seen[..., 0]], -1)


def maps(params, stats, batch):
    """Two features of each pixel, on two rows of padding that the network adds."""
    image = jnp.pad(batch["image"], ((0, 0), (1, 1), (0, 0), (0, 0)))
    return jnp.tanh(image * params["w"] + params["b"])


def loss(params, stats, batch, key):
    each = optax.softmax_cross_entropy_with_integer_labels(logits(params, batch), batch["segmentation"])
    each = jnp.where(batch["valid"], each.mean((1, 2)), 0)
    return each.sum() / jnp.maximum(batch["valid"].sum(), 1), (stats, {})


TASK = Task(
    init=lambda key: Variables({"w": 0.5 * jax.random.normal(key, (1, 2)), "b": jnp.float32(0.1)}, {}),
    loss=loss,
    metrics=lambda params, stats, batch: {},
    predict=lambda params, stats, batch: jax.nn.softmax(logits(params, batch)),
    normalization=Variables({"w": False, "b": False}, {}),
)


@pytest.fixture
def data(fx):
    examples = {"image": jnp.asarray(IMAGES), "segmentation": jnp.asarray(LABELS)}
    return fx.clients(examples, jnp.asarray(VALID))


def exchanged(data, **options):
    return exchange_spectra(TASK, TASK.init(KEY), data, KEY, **options)


def test_spectra_are_sent_once_and_are_those_of_the_window_alone(data):
    found = exchanged(data, part=0.13, spectra=3)
    bank = found.exchanged
    assert bank.amplitudes.shape == (3, 3, 3, 3, 1) and bank.count.tolist() == [3, 2, 3]
    rows = [0, 1, -1]
    for client, count in enumerate(bank.count.tolist()):
        whole = np.abs(np.fft.fft2(IMAGES[client][VALID[client]].astype(float), axes=(1, 2)))
        crops = whole[:, rows][:, :, rows]
        for crop in np.asarray(bank.amplitudes[client, :count]):
            assert np.abs(crops - crop).max((1, 2, 3)).min() < 1e-3
        # Drawn without replacement.
        assert len(np.unique(np.asarray(bank.amplitudes[client, :count, 0, 0, 0]))) == count
    # Nine values a spectrum, and the number of spectra; the others' come down.
    size = 4 * (3 * 9 + 1)
    np.testing.assert_array_equal(found.bytes_up, [size] * 3)
    np.testing.assert_array_equal(found.bytes_down, [2 * size] * 3)


def bank_of(amplitudes, counts):
    return Spectra(jnp.asarray(amplitudes, jnp.float32), jnp.asarray(counts, jnp.int32))


def test_amplitudes_are_mixed_inside_the_window_and_phases_stay():
    """Of the only other client's only spectrum, with lambda 1, before anything is clipped."""
    part, images = 0.13, IMAGES[0, :4]
    # As one of the images has them, a little larger.
    whole = 1.05 * np.abs(np.fft.fft2(images[2].astype(float), axes=(0, 1)))
    crop = whole[[0, 1, -1]][:, [0, 1, -1]]
    bank = bank_of(np.stack([np.full((1, 3, 3, 1), 99.0), crop[None]]), [1, 1])
    wide = jnp.concatenate([jnp.asarray(images)])
    found = interpolated(wide, bank, jnp.int32(0), KEY, part, 1.0)
    window = frequency_window((10, 8), part)
    spectra = np.fft.fft2(images.astype(float), axes=(1, 2))
    expected = np.where(window[..., None], whole, np.abs(spectra)) * np.exp(1j * np.angle(spectra))
    expected = np.fft.ifft2(expected, axes=(1, 2))
    assert np.abs(expected.imag).max() < 1e-6
    axes = (1, 2, 3)
    expected = np.clip(expected.real, images.min(axes, keepdims=True), images.max(axes, keepdims=True))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_mean_intensity_alone_is_moved_by_the_part_zero(data):
    bank = bank_of(np.full((2, 1, 1, 1, 1), 80 * 0.2), [1, 1])
    images = 0.05 * jnp.asarray(IMAGES[0, :4]) + 0.2
    found = interpolated(images, bank, jnp.int32(1), KEY, 0.0, 1.0)
    low, high = images.min((1, 2, 3), keepdims=True), images.max((1, 2, 3), keepdims=True)
    moved = images - images.mean((1, 2), keepdims=True) + 0.2
    np.testing.assert_allclose(found, jnp.clip(moved, low, high), atol=1e-6)


def test_own_spectra_and_absent_ones_are_never_taken():
    """The client's own and an absent client's are huge; lambda is drawn anew for each image."""
    bank = bank_of(np.array([1e6, 80 * 5.0, 1e6]).reshape(3, 1, 1, 1, 1), [1, 1, 0])
    # Two pixels widen the range to which images are clipped.
    images = (
        jnp.tile(jnp.asarray(IMAGES[0, :1]) + 1, (64, 1, 1, 1)).at[:, 0, :2, 0].set(jnp.array([-30.0, 30.0]))
    )
    found = interpolated(images, bank, jnp.int32(0), KEY, 0.0)
    means = np.asarray(found.mean((1, 2, 3)))
    start = float(images[0].mean())
    assert np.ptp(means) > 2 and means.min() > start - 0.1 and means.max() < 5.1
    alone = bank_of(np.array([16.0, 0.0]).reshape(2, 1, 1, 1, 1), [1, 0])
    np.testing.assert_array_equal(interpolated(images, alone, jnp.int32(0), KEY, 0.0), images)


def value_and_grad(params, stats, batch, memory, key):
    return (), jax.grad(loss, argnums=0, has_aux=True)(params, stats, batch, key)[0]


def test_a_step_is_that_of_the_equations_in_first_order(x64):
    """Finite differences of l_in + l_out + gamma l_bd with the inner gradient held fixed."""
    rate, gamma, part = 0.3, 0.7, 0.13
    bank = bank_of(np.abs(RNG.normal(size=(2, 2, 3, 3, 1))) * 20, [2, 2])
    params = {"w": jnp.asarray(RNG.normal(size=(1, 2))), "b": jnp.asarray(0.2)}
    batch = {
        "image": jnp.asarray(IMAGES[0, :4], float),
        "segmentation": jnp.asarray(LABELS[0, :4]),
        "valid": jnp.array([True, True, True, False]),
    }
    own = episodic(TASK, maps, bank, part=part, inner_rate=rate, boundary=gamma)
    key = jax.random.key(5)
    step_of = jax.jit(lambda params: own.oracle(value_and_grad)(params, {}, batch, (jnp.int32(0), None), key))
    _, found = step_of(params)
    inner = value_and_grad(params, {}, batch, None, None)[1]
    drawn = interpolated(batch["image"], bank, jnp.int32(0), jax.random.fold_in(key, 61), part)
    changed = {**batch, "image": drawn}

    @jax.jit
    def objective(flat):
        p = {"w": flat[None, :2], "b": flat[2]}
        ahead = jax.tree.map(lambda x, g: x - rate * g, p, inner)
        seen = jnp.concatenate([maps(p, {}, batch)[:, 1:-1], maps(ahead, {}, changed)[:, 1:-1]])
        rings = jnp.stack(boundary_rings(batch["segmentation"] == 1))
        contrast = boundary_contrast(seen, jnp.tile(rings, (1, 2, 1, 1)), jnp.tile(batch["valid"], 2))
        first, second = loss(p, {}, batch, None)[0], loss(ahead, {}, changed, None)[0]
        return first + second + gamma * contrast

    flat, step = np.array([*params["w"][0], params["b"]], float), 1e-5
    expected = [(objective(flat + step * e) - objective(flat - step * e)) / 2 / step for e in np.eye(3)]
    np.testing.assert_allclose(np.array([*found["w"][0], found["b"]]), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_alone_it_is_averaging_with_gradients_counted_twice(fx, data):
    """No other client's spectra, no inner rate, no boundary: sgd at half the rate is FedAvg bit for bit."""
    bank = bank_of(np.zeros((3, 1, 1, 1, 1)), [0, 0, 0])
    options = {"inner_rate": 0.0, "boundary": 0.0, "part": 0.0}
    ours = feddg(TASK, optax.sgd(0.25), maps=maps, exchanged=bank, **options)
    runs = [
        fx.trajectory(TASK, algorithm, 2, batch_size=2, epochs=1)(data)
        for algorithm in (ours, fl.fedavg(TASK, optax.sgd(0.5)))
    ]
    fx.assert_equal(runs[0][0].variables, runs[1][0].variables)
    np.testing.assert_array_equal(runs[0][1].bytes_up, runs[1][1].bytes_up)


@pytest.mark.slow
def test_frozen_leaves_are_filled_in_for_the_contrast(fx, data):
    """With "b" frozen, "w" moves as it does in one step of everything, and "b" stays."""
    bank = jax.device_get(exchanged(data).exchanged)
    start, ends = TASK.init(KEY), []
    for frozen in (False, True):
        mask = Variables({"w": True, "b": fl.FROZEN if frozen else True}, True)
        algorithm = feddg(TASK, optax.sgd(0.1), maps=maps, exchanged=bank, inner_rate=0.0, share_mask=mask)
        placed = fl.place(data, frozen=start if frozen else None)
        state = fl.init_state(algorithm, start, placed)
        state, _ = fl.make_round(algorithm, batch_size=6, epochs=1)(state, placed, KEY)
        ends.append(state.variables.params)
    np.testing.assert_allclose(ends[1]["w"], ends[0]["w"], rtol=1e-5)
    assert ends[1]["b"] is None


@pytest.mark.slow
def test_no_image_is_in_what_is_sent(fx, data):
    """A marker image: its pixels are in no message, before the rounds or in them."""
    marked = data.examples["image"].at[0, 0].set(jnp.linspace(7, 8, 80).reshape(10, 8, 1))
    data = data._replace(examples={**data.examples, "image": marked})
    before = exchanged(data, part=0.13)
    sent = np.concatenate([np.ravel(x) for x in jax.tree.leaves(before.exchanged.amplitudes)])
    assert not ((sent > 7) & (sent < 8) & np.isin(sent, np.linspace(7, 8, 80, dtype=np.float32))).any()
    bank = jax.device_get(before.exchanged)
    algorithm = feddg(TASK, optax.sgd(0.1), maps=maps, exchanged=bank, part=0.13)
    _, infos = fx.trajectory(TASK, algorithm, 1, batch_size=2, epochs=1)(data)
    np.testing.assert_array_equal(infos.bytes_up, 4 * (3 + 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_rate": -1.0}, "inner_rate: expected a number in"),
        ({"boundary": -1.0}, "boundary: expected a number in"),
        ({"least_mix": 1.5}, "least_mix: expected a number in"),
        ({"temperature": 0.0}, "temperature: expected a positive"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        episodic(TASK, maps, None, **options)


def test_bad_arguments_of_the_exchange_are_named(data):
    with pytest.raises(ValueError, match="spectra: expected a positive"):
        exchanged(data, spectra=0)
    with pytest.raises(ValueError, match="part: expected a number in"):
        exchanged(data, part=0.7)
