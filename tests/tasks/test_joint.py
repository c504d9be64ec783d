"""Reconstruction and reading as one task: gradients at their interface, scales and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon.errors import ArgumentError
from fedrecon.tasks import MODES, mri_measure, reconstruction_task
from fedrecon.tasks.interface import combined, interface_images, interface_scale
from tests.tasks.joint_problem import batch_of, make, network, valid

KEY = jax.random.key(1)


def gradients(task, batch, variables=None):
    variables = variables or task.init(jax.random.key(0))
    step = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    return step(variables.params, variables.stats, batch, KEY)


@pytest.fixture(scope="module")
def parts():
    """(gradient, metrics) of one batch in each mode."""
    batch = valid(batch_of(3))
    found = {}
    for mode in ("rec_only", "joint", "task_only"):
        (_, (_, metrics)), gradient = gradients(make(mode), {**batch, "interface": jnp.zeros(3)})
        found[mode] = gradient, metrics
    found["strong"] = gradients(make("joint"), {**batch, "interface": jnp.full(3, 0.7)})[1], {}
    return found


def test_without_weight_the_reconstruction_has_the_gradient_of_its_own_loss_to_the_bit(parts):
    alone, joint = parts["rec_only"][0]["reconstruction"], parts["joint"][0]["reconstruction"]
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all() and a.any()), alone, joint)))


def test_alone_the_reconstruction_is_trained_as_by_its_own_task(parts):
    example = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch_of(1).items()}
    task = reconstruction_task(network(), mri_measure, example)
    params = make("rec_only").init(jax.random.key(0)).params["reconstruction"]
    expected = jax.jit(jax.grad(task.loss, has_aux=True))(params, {}, valid(batch_of(3)), KEY)[0]
    found = parts["rec_only"][0]["reconstruction"]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), found, expected)


def test_the_reader_learns_the_same_whatever_the_weight(parts):
    weak, strong = parts["joint"][0], parts["strong"][0]
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all() and a.any()), *(
        x["task"] for x in (weak, strong)))))  # fmt: skip
    assert not all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), *(
        x["reconstruction"] for x in (weak, strong)))))  # fmt: skip


def test_the_weight_scales_what_flows_into_the_reconstruction_alone(parts):
    rec, task, both = (parts[m][0]["reconstruction"] for m in ("rec_only", "task_only", "strong"))
    expected = jax.tree.map(lambda a, b: a + 0.7 * b, rec, task)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-6), both, expected)
    metrics = parts["joint"][1]
    assert -1 <= float(metrics["cosine"][0]) <= 1
    assert float(metrics["task_norm"][0]) == pytest.approx(
        float(parts["task_only"][1]["task_norm"][0]), rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("masks", [False, True])
def test_gradients_through_all_steps_are_central_differences(masks):
    batch = valid(batch_of(2, double=True))
    batch["interface"] = jnp.full(2, 0.3)
    joint = make("joint", masks=masks, steps=3, double=True, reference_weight=0.0)
    variables = joint.init(jax.random.key(0))
    gradient = gradients(joint, batch, variables)[1]["reconstruction"]
    values = jax.jit(lambda params: joint.loss(params, variables.stats, batch, KEY)[0])
    rec_only = make("rec_only", masks=masks, steps=3, double=True)
    error = jax.jit(lambda params: rec_only.loss(params, variables.stats, batch, KEY)[0])
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), gradient)

    def weighed(step):
        """L_rec + 0.3 L_task, from the sum that is reported and L_rec."""
        moved = jax.tree.map(lambda x, d: x + step * d, variables.params["reconstruction"], direction)
        params = {**variables.params, "reconstruction": moved}
        both, alone = float(values(params)), float(error(params))
        return alone + 0.3 * (both - alone)

    h = 1e-5
    expected = (weighed(h) - weighed(-h)) / (2 * h)
    found = sum(
        float((g * d).sum()) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True)
    )
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_recomputed_steps_have_the_gradient_of_kept_ones():
    batch = {**valid(batch_of(2)), "interface": jnp.full(2, 0.3)}
    kept, recomputed = (gradients(make("joint", remat=remat), batch)[1] for remat in (False, True))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7), kept, recomputed)


def test_the_scale_of_the_interface_is_that_of_the_measurement():
    batch = valid(batch_of(3))
    measured = jnp.asarray([True, True, False])

    def shown(x, y_factor=1.0, x_factor=1.0):
        operators, y, _ = mri_measure({**batch, "kspace": y_factor * batch["kspace"]})
        scale = interface_scale(operators, y, batch["target"], measured)
        return interface_images(x_factor * x, batch["target"], scale, measured)

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 8, 8)) + 1j * rng.normal(size=(3, 8, 8)), jnp.complex64)
    plain = shown(x)
    np.testing.assert_allclose(shown(x, 7.0, 7.0), plain, rtol=1e-5)
    np.testing.assert_allclose(shown(x, 1.0, 7.0)[:2], 7 * plain[:2], rtol=1e-5)
    # Direct: the percentile of the magnitude of A^H y, by numpy.
    y, maps = np.asarray(batch["kspace"]), np.asarray(batch["coil_maps"])
    images = np.fft.ifft2(np.fft.ifftshift(y, axes=(-2, -1)), norm="ortho")
    back = (np.conj(maps) * np.fft.fftshift(images, axes=(-2, -1))).sum(1)
    scale = np.percentile(np.abs(back[0]), 99)
    np.testing.assert_allclose(plain[0], np.abs(x[0]) / scale, rtol=1e-4)
    # Without a measurement the image is the reference, over its own percentile.
    target = np.asarray(batch["target"])[2]
    np.testing.assert_allclose(plain[2], target / np.percentile(target, 99), rtol=1e-5)


@given(st.integers(0, 10_000), st.floats(0.01, 10), st.booleans())
def test_projected_gradients_never_oppose_the_reconstruction(seed, factor, complex_):
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=(2, 5)) + complex_ * 1j * rng.normal(size=(2, 5)) for _ in range(2))
    c, norms = combined(jnp.asarray(a), jnp.asarray(b), jnp.float32(factor), project=True)
    inner = float(np.vdot(a, (np.asarray(c) - a) / factor).real)
    size = np.linalg.norm(a) * np.linalg.norm(b)
    assert inner >= -1e-4 * size
    cosine = np.vdot(a, b).real / size
    assert float(norms["cosine"]) == pytest.approx(cosine, abs=1e-5)
    expected = b - min(np.vdot(a, b).real, 0) / np.linalg.norm(a) ** 2 * a
    np.testing.assert_allclose(c, a + factor * expected, rtol=1e-3, atol=1e-4)


def test_what_has_no_measurement_or_no_label_trains_its_half_alone():
    batch = {**valid(batch_of(4)), "interface": jnp.full(4, 0.5)}
    task = make("joint")
    variables = task.init(jax.random.key(0))
    step = jax.jit(jax.value_and_grad(task.loss, has_aux=True))

    def run(measured, labeled, **other):
        masks = {"measured": jnp.asarray(measured, float), "labeled": jnp.asarray(labeled, float)}
        (_, (_, metrics)), gradient = step(*variables, {**batch, **masks, **other}, KEY)
        return gradient, metrics

    some, zero, ones = [1, 1, 0, 0], [0] * 4, [1] * 4
    gradient, metrics = run(zero, ones)
    assert not any(x.any() for x in jax.tree.leaves(gradient["reconstruction"]))
    assert any(x.any() for x in jax.tree.leaves(gradient["task"]))
    assert float(metrics["error_norm"][1]) == 0
    gradient, metrics = run(ones, zero)
    assert not any(x.any() for x in jax.tree.leaves(gradient["task"]))
    assert float(metrics["task_norm"][1]) == 0
    # What is masked does not matter.
    other = batch["label"].at[2:].set(1 - batch["label"][2:])
    jax.tree.map(np.testing.assert_array_equal, run(ones, some)[0], run(ones, some, label=other)[0])
    noise = batch["kspace"].at[2:].multiply(3.0)
    jax.tree.map(np.testing.assert_array_equal, run(some, ones)[0], run(some, ones, kspace=noise)[0])


def test_wrong_arguments_are_named():
    for wrong in (
        {"mode": "both"},
        {"mode": "joint", "strength": -1},
        {"mode": "joint", "reference_weight": np.nan},
    ):
        with pytest.raises(ArgumentError, match=list(wrong)[-1]):
            make(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_its_groups_and_scores_its_images(mode):
    batch = valid(batch_of(3))
    task = make(mode, masks=True)
    (value, (stats, metrics)), gradient = gradients(task, batch)
    trained = {name: any(bool(x.any()) for x in jax.tree.leaves(part)) for name, part in gradient.items()}
    flags = MODES[mode]
    assert trained == {"reconstruction": flags.reconstruction or flags.through, "task": flags.reader}
    assert np.isfinite(value) and jax.tree.structure(stats) == jax.tree.structure(task.init(KEY).stats)
    variables = task.init(jax.random.key(0))
    scores = task.metrics(*variables, batch)
    assert ("psnr" in scores) == (mode != "oracle") and ("dice" in scores) == (mode != "rec_only")
    shown = task.predict(*variables, batch)
    assert shown["image"].shape == (3, 8, 8)
    assert float(metrics["loss"][0] / metrics["loss"][1]) == pytest.approx(float(value), rel=1e-5)
