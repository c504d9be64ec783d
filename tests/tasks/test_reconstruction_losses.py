"""Losses of reconstructions by name: with a reference, by held-out samples, rotations, other operators."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.models import RECONSTRUCTORS, E2EVarNet, VarNet
from fedrecon.tasks import RECONSTRUCTION_LOSSES, mri_measure, reconstruction_task
from fedrecon.tasks.equivariance_losses import _of_others, equivariant, rotated
from fedrecon.tasks.held_out_losses import held_out, noise2inverse, ssdu, weighted_ssdu
from fedrecon.training import named_task
from operators import Diagonal

once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(3)
OF_KSPACE = [name for name, of in RECONSTRUCTION_LOSSES.items() if "kspace" in of.samples]


@pytest.fixture(scope="module")
def batch():
    """Three images of two coils, the last one padding; all of k-space is measured in none."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)

    image, maps = normal(3, 8, 9), normal(3, 2, 8, 9)
    maps /= np.linalg.norm(maps, axis=1, keepdims=True)
    mask = (rng.random((3, 8, 9)) < 0.7).astype(np.float32)
    arrays = {"mask": mask, "coil_maps": maps, "image": image, "volume": np.arange(3)}
    arrays |= {"target": abs(image), "data_range": abs(image).max((1, 2)), "valid": np.array([1, 1, 0], bool)}
    found = {name: jnp.asarray(x) for name, x in arrays.items()}
    A = mri_measure({**found, "kspace": found["mask"]})[0]
    return found | {"kspace": jax.vmap(lambda A, x: A(x))(A, found["image"])}


def oracle(batch):
    return batch["image"]


def value(name, batch, reconstruct=oracle, key=KEY):
    loss = RECONSTRUCTION_LOSSES[name].function if isinstance(name, str) else name
    return once(lambda batch: loss(reconstruct, mri_measure, batch, key))(batch)


@pytest.mark.parametrize("name", [name for name in OF_KSPACE if "equivariant" not in name])
def test_losses_are_zero_at_the_truth_and_count_valid_examples(name, batch):
    """Multi-operator imaging too: whichever operator measures, the image is undone. No reference is read."""
    known = {**batch, "noise_level": jnp.zeros(3)}
    reference = RECONSTRUCTION_LOSSES[name].reference
    if reference == "complex":
        known["target"] = batch["image"]
    elif not reference:
        known |= {"target": jnp.full_like(batch["target"], jnp.nan), "data_range": jnp.full(3, jnp.nan)}

    def truth(seen):
        # Another operator's measurement is of the same image.
        return batch["image"]

    got, scored = value(name, known, truth)
    np.testing.assert_allclose(got[:2], 0, atol=2e-5)
    assert scored.tolist() == [True, True, False]
    wrong, _ = value(name, known, lambda seen: 0.5 * batch["image"])
    assert (wrong[:2] > 0.05).all()


def test_supervised_losses_are_their_definitions(batch):
    x = batch["image"] + 0.1
    magnitude, target, ranges = (np.asarray(y) for y in (abs(x), batch["target"], batch["data_range"]))

    def of(name, batch=batch):
        return np.asarray(value(name, batch, lambda seen: x)[0])[:2]

    l1 = (abs(magnitude - target).mean((1, 2)) / ranges)[:2]
    np.testing.assert_allclose(of("l1"), l1, rtol=1e-4)
    np.testing.assert_allclose(of("l1_ssim"), l1 + 0.1 * of("ssim"), rtol=1e-4)
    nmse = np.square(magnitude - target).sum((1, 2)) / np.square(target).sum((1, 2))
    np.testing.assert_allclose(of("nmse"), nmse[:2], rtol=1e-4)
    np.testing.assert_allclose(
        of("complex_l1", {**batch, "target": batch["image"]}), 0.1 / ranges[:2], rtol=1e-4
    )
    wide = np.fft.fft2(np.asarray(batch["coil_maps"] * batch["image"][:, None]), norm="ortho")
    extra = np.fft.fft2(np.asarray(batch["coil_maps"] * 0.1), norm="ortho")
    np.testing.assert_allclose(
        of("kspace_l1", {**batch, "target": batch["image"]}),
        (abs(extra).sum((1, 2, 3)) / abs(wide).sum((1, 2, 3)))[:2],
        rtol=1e-4,
    )
    assert not value("l1", {**batch, "data_range": jnp.zeros(3)}, lambda seen: x)[1].any()


def test_samples_are_held_out_without_the_center():
    """As many as said, none of what was not measured, more of them near the center."""
    mask = jnp.asarray((np.random.default_rng(0).random((32, 40)) < 0.5).astype(np.float32))
    drawn = once(jax.vmap(lambda key: held_out(key, mask, 0.4)))
    draws = np.asarray(drawn(jax.random.split(KEY, 200)))
    center = np.zeros(mask.shape, bool)
    center[14:18, 18:22] = True
    free = (np.asarray(mask) != 0) & ~center
    assert not draws[:, ~free].any() and (draws.sum((1, 2)) == int(0.4 * free.sum())).all()
    near = np.hypot(*np.meshgrid(np.arange(32) - 16, np.arange(40) - 20, indexing="ij")) < 8
    assert draws[:, free & near].mean() > 1.5 * draws[:, free & ~near].mean() > 0


def test_what_is_held_out_is_never_seen(batch):
    """The network gets the samples of Theta and no other; the loss is of Lambda, and of nothing else."""

    @partial(once, static_argnums=1)
    def shown(batch, masks):
        seen = []

        def recording(given):
            seen.append(given)
            return jnp.zeros_like(batch["image"])

        loss, _ = ssdu(0.4, masks)(recording, mri_measure, batch, KEY)
        return loss, [given["mask"] for given in seen], [given["kspace"] for given in seen]

    loss, (left,), (kspace,) = jax.tree.map(np.asarray, shown(batch, 1))
    mask = np.asarray(batch["mask"])
    assert (left <= mask).all() and 0 < left.sum() < mask.sum()
    assert (kspace[np.broadcast_to(left[:, None] == 0, kspace.shape)] == 0).all()
    # An image of zeros misses all that is held out: both parts of the error are 1.
    np.testing.assert_allclose(loss[:2], 2, rtol=1e-5)
    masks = np.asarray(shown(batch, 3)[1])
    assert len(masks) == 3 and (masks[0] != masks[1]).any() and (masks[1] != masks[2]).any()


def test_images_rotate_about_their_center():
    rng = np.random.default_rng(0)
    turned_by = once(rotated)
    image = jnp.asarray(rng.normal(size=(9, 9)) + 1j * rng.normal(size=(9, 9)))
    np.testing.assert_allclose(turned_by(image, jnp.float32(0)), image, atol=1e-6)
    turned = turned_by(image, jnp.float32(np.pi / 2))
    np.testing.assert_allclose(turned, np.rot90(image, -1), atol=1e-5)
    point = jnp.zeros((9, 9)).at[4, 4].set(1.0)
    assert turned_by(point.astype(complex), jnp.float32(0.7))[4, 4] == 1


def test_rotations_and_other_operators_are_undone(batch):
    """Weights add, and another operator is that of another valid example."""

    @partial(once, static_argnums=1)
    def shown(batch, weights):
        calls = []

        def recording(given):
            calls.append(given)
            return batch["image"]

        loss, _ = equivariant(*weights)(recording, mri_measure, batch, KEY)
        A = mri_measure(calls[-1])[0]
        wanted = jax.vmap(lambda A, x: A(x))(A, batch["image"])
        return loss, calls[-1]["mask"], calls[-1]["kspace"], wanted

    one, other, both = (shown(batch, weights) for weights in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)))
    for _, mask, kspace, wanted in (other, both):
        # Of two valid examples and padding the other valid one is measured with.
        np.testing.assert_array_equal(mask[:2], batch["mask"][1::-1])
        np.testing.assert_allclose(kspace, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both[0], one[0] + other[0], rtol=1e-4, atol=1e-6)
    assert (one[0][:2] > 0.05).all()
    np.testing.assert_allclose(shown(batch, (2.0, 0.0))[0], 2 * one[0], rtol=1e-4, atol=1e-6)


def test_samples_of_real_images_are_compared(batch):
    """Sinograms have no phases; images of half the size miss half of the samples by both norms."""
    weights = jnp.full((3, 8, 9), 0.5)
    image = jnp.asarray(batch["target"])

    def measure(batch):
        operators = jax.vmap(Diagonal)(weights)
        return operators, weights * image, None

    loss = RECONSTRUCTION_LOSSES["measured"].function
    np.testing.assert_allclose(loss(lambda seen: image, measure, batch, KEY)[0], 0, atol=1e-6)
    np.testing.assert_allclose(loss(lambda seen: 0.5 * image, measure, batch, KEY)[0], 1, rtol=1e-5)


def test_others_are_other_valid_examples():
    keys = jax.random.split(KEY, 50)
    draw = once(jax.vmap(_of_others, in_axes=(0, None)))
    found = np.asarray(draw(keys, jnp.array([True, True, False, True])))
    assert set(found[:, 0]) == {1, 3} and set(found[:, 1]) == {0, 3} and set(found[:, 3]) == {0, 1}
    alone = np.asarray(draw(keys, jnp.array([False, True, False, False])))
    assert (alone[:, 1] == 1).all()


def test_a_single_example_is_its_own_other(batch):
    alone = {name: x[:1] for name, x in batch.items()}
    got, _ = value(equivariant(0.0, 1.0), alone)
    assert np.isfinite(got).all() and abs(got) < 1e-5


@pytest.mark.parametrize("name", ["ssdu", "multi_operator_equivariant", "robust_ssdu"])
def test_networks_are_trained_without_a_reference(name, batch):
    """Neither target nor range is looked at, padding has no influence, and the gradient is finite."""
    task = reconstruction_task(VarNet(1, 2, 0), mri_measure, batch, loss=RECONSTRUCTION_LOSSES[name].function)
    variables = task.init(jax.random.key(0))
    gradient = once(jax.grad(lambda p, batch: task.loss(p, {}, batch, KEY)[0]))
    got = jax.tree.leaves(gradient(variables.params, batch))
    assert all(np.isfinite(x).all() for x in got) and any(abs(x).max() > 0 for x in got)
    unknown = {**batch, "target": jnp.full_like(batch["target"], jnp.nan), "data_range": jnp.ones(3)}
    unknown["kspace"] = batch["kspace"].at[2].set(0)
    for x, y in zip(got, jax.tree.leaves(gradient(variables.params, unknown)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_losses_that_do_not_fit_are_refused(batch):
    sinograms = {name: batch[name] for name in ("target", "data_range", "volume", "valid")}
    sinograms["sinogram"] = np.zeros((3, 4, 9), np.float32)
    for arguments, message in (
        ({"loss": "l2"}, "loss: expected one of l1_ssim"),
        ({"loss": "ssdu", "network": "e2e-varnet"}, r"network: expected one of .* with loss=ssdu"),
        ({"loss": "complex_l1"}, "loss: expected another than complex_l1"),
        ({"loss": "kspace_l1"}, "loss: expected another than kspace_l1"),
        ({"loss": "noise2inverse"}, r"loss: expected one of .* for k-space, found"),
    ):
        with pytest.raises(ValueError, match=message):
            named_task("reconstruction", batch, **arguments)
    for arguments in ({"loss": "ssdu"}, {"network": "e2e-varnet"}):
        with pytest.raises(ValueError, match=r"for sinograms, found"):
            named_task("reconstruction", sinograms, **arguments)
    with pytest.raises(ValueError, match="part: expected a number between 0 and 1"):
        ssdu(1.0)
    with pytest.raises(ValueError, match="masks: expected a positive integer"):
        ssdu(masks=0)
    with pytest.raises(ValueError, match="noise: expected a number of 0 or more"):
        weighted_ssdu(noise=-1.0)
    with pytest.raises(ValueError, match="parts: expected an integer of 2 or more"):
        noise2inverse(1)
    with pytest.raises(ValueError, match="weights: expected numbers of 0 or more"):
        equivariant(0.0, 0.0)
    with pytest.raises(ValueError, match=r"network: expected one that returns complex images"):
        value("ssdu", batch, lambda seen: jnp.abs(batch["image"]))


@pytest.mark.slow
def test_every_named_network_trains(batch):
    """Shapes of gradients only: the networks are compared elsewhere."""
    for name in RECONSTRUCTORS:
        task = named_task("reconstruction", batch, network=name, channels=2, pools=1, cascades=2)
        shapes = jax.eval_shape(task.init, jax.random.key(0))
        gradient = jax.eval_shape(
            jax.grad(lambda p, task=task: task.loss(p, {}, batch, KEY)[0]), shapes.params
        )
        assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, shapes.params)
    assert E2EVarNet(2, 2, 1, 1, 1) == RECONSTRUCTORS["e2e-varnet"](2, 2, 1)
