"""fastMRI's U-Net and VarNet and DIRECT's RecurrentVarNet with the same weights; equilibria."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.models import (
    BatchNorm,
    DeepEquilibrium,
    E2EVarNet,
    RecurrentVarNet,
    UNet,
    VarNet,
    cascade_inputs,
)
from fedrecon.models.conditioned import FEATURES, ConditionedVarNet, scanner_features
from fedrecon.models.deep_equilibrium import fixed_point
from fedrecon.models.e2e_varnet import low_frequencies
from fedrecon.models.operator_scale import squared_norms
from fedrecon.models.recurrent_varnet import DilatedConv
from fedrecon.published_weights import from_direct, from_fastmri, read_fastmri
from operators import SENSE, CartesianFourier, Diagonal, FanBeam, Radon
from tests.models.reference.mri_networks import REFERENCE, kspace
from tests.models.reference.torchvision_networks import image, weights

once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def recorded():
    return json.loads(REFERENCE.read_text())


def state_of(record):
    return {name: weights(name, tuple(shape)) for name, shape in record["shapes"].items()}


def measured():
    data, masks, maps = kspace()
    two = np.broadcast_to(masks[:, None], (2, 18, 21)).astype(float)
    operators = jax.vmap(lambda m, s: SENSE(CartesianFourier((18, 21), m), s))(two, maps)
    return operators, jnp.asarray(data)


def test_unets_are_those_of_fastmri(recorded, x64):
    network, variables = from_fastmri(state_of(recorded["unet"]))
    assert isinstance(network, UNet) and (network.channels, network.pools) == (3, 2)
    x = image(2, 1, 12, 20).transpose(0, 2, 3, 1)
    got = once(network.apply)({"params": variables.params}, x)[..., 0]
    np.testing.assert_allclose(got, np.asarray(recorded["unet"]["values"])[:, 0], rtol=1e-6, atol=1e-7)


def test_end_to_end_networks_are_those_of_fastmri(recorded, x64):
    state = {f"module.varnet.{name}": x for name, x in state_of(recorded["varnet"]).items()}
    network, variables = from_fastmri(state | {"loss.w": np.ones(3)})
    assert network == E2EVarNet(2, 3, 2, 2, 1)
    operators, data = measured()
    shapes = jax.eval_shape(network.init, jax.random.key(0), operators, data)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables.params)
    # A coil of zeros, which is padding, changes nothing; neither do the maps of the operator, and an example
    # of zeros leaves the gradient finite.
    padded = jax.vmap(lambda A: SENSE(A.fourier, jnp.ones((4, 18, 21), complex)))(operators)
    more = jnp.pad(data, ((0, 0), (0, 1), (0, 0), (0, 0)))

    @once
    def gradient(params, y):
        def loss(params):
            images = network.apply({"params": params}, padded, y)
            return images[0].sum(), images

        return jax.grad(loss, has_aux=True)(params)

    _, got = gradient(variables.params, more)
    np.testing.assert_allclose(got, recorded["varnet"]["values"], rtol=1e-6, atol=1e-7)
    slope, got = gradient(variables.params, more.at[1].set(0))
    np.testing.assert_allclose(got[0], recorded["varnet"]["values"][0], rtol=1e-6, atol=1e-7)
    assert (got[1] == 0).all() and all(np.isfinite(x).all() for x in jax.tree.leaves(slope))


def test_recurrent_networks_are_those_of_direct(recorded, x64):
    operators, data = measured()
    network, variables = from_direct(state_of(recorded["recurrent"]))
    assert network == RecurrentVarNet(2, 4, 3)
    got = once(network.apply)({"params": variables.params}, operators, data)
    np.testing.assert_allclose(got, recorded["recurrent"]["values"], rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_recurrent_networks_remember_and_take_any_operator(x64):
    """Zero units are gradient descent on images; a hidden state that is not zero changes the next step."""
    rng = np.random.default_rng(0)
    operators = jax.vmap(Diagonal)(rng.uniform(0.5, 1, (2, 6, 5)))
    y = jnp.asarray(rng.normal(size=(2, 6, 5)))
    network = RecurrentVarNet(3, 2, 1, learned_start=False)
    variables = once(network.init)(jax.random.key(0), operators, y)
    want, norms = operators.weights * y, squared_norms(operators)[:, None, None]
    for _ in range(3):
        want = want - operators.weights * (operators.weights * want - y) / norms
    np.testing.assert_allclose(once(network.apply)(variables, operators, y), want, rtol=1e-6)
    variables = jax.tree.map(lambda x: x + 0.1, variables)
    got, moved = (
        once(RecurrentVarNet(3, 2, 1, learned_start=learned).apply)(filled, operators, y)
        for learned, filled in ((False, variables), (True, _with_start(variables, operators, y)))
    )
    assert got.shape == y.shape and abs(got - want).max() > 1e-3 and abs(got - moved).max() > 1e-5


def _with_start(variables, operators, y):
    full = once(RecurrentVarNet(3, 2, 1).init)(jax.random.key(1), operators, y)
    return {"params": {**variables["params"], "start": full["params"]["start"]}}


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_dilated_convolutions_are_those_of_lax(dilation):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 8, 3)), jnp.float32)
    layer = DilatedConv(4, 3, dilation)
    variables = layer.init(jax.random.key(0), x)
    edge = jnp.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation), (0, 0)), mode="edge")
    want = jax.lax.conv_general_dilated(
        edge,
        variables["params"]["conv"]["kernel"],
        (1, 1),
        "VALID",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(layer.apply(variables, x), want, rtol=1e-5, atol=1e-5)


def test_low_frequencies_are_a_rectangle_about_the_center():
    """Of columns all rows; even numbers where there is more than one; all of full masks."""
    found = once(low_frequencies)
    columns = np.zeros((6, 9), bool)
    columns[:, [0, 3, 4, 5, 6, 7]] = True
    # The center is column 4: one without a gap to its left, four from it on; fastMRI's place of two of nine.
    assert found(columns).sum(0).tolist() == [0, 0, 0, 0, 6, 6, 0, 0, 0]
    block = np.zeros((8, 8), bool)
    block[2:7, 3:6] = True
    low = np.asarray(found(block))
    assert low[2:6, 3:5].all() and low.sum() == 8
    assert np.asarray(found(np.ones((6, 9), bool))).all()
    assert found(np.zeros((6, 9), bool)).sum() == 1


def linear(arguments, x):
    matrix, b = arguments
    return x @ matrix + b


def test_fixed_points_and_their_derivatives_are_those_of_linear_equations(x64):
    rng = np.random.default_rng(0)
    matrix, b = 0.2 * rng.normal(size=(4, 4)), rng.normal(size=(3, 4))
    v = rng.normal(size=(3, 4))

    def found(arguments):
        x = fixed_point(linear, arguments, jnp.zeros((3, 4)), iterations=200, tolerance=0.0)
        return (x * v).sum(), x

    def solved(arguments):
        matrix, b = arguments
        x = jnp.linalg.solve(jnp.eye(4) - matrix.T, b.T).T
        return (x * v).sum(), x

    for got, want in zip(
        jax.tree.leaves(once(jax.grad(found, has_aux=True))((matrix, b))),
        jax.tree.leaves(once(jax.grad(solved, has_aux=True))((matrix, b))),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-10)


def test_equilibria_stay_where_they_are_at_the_memory_of_one_step(x64):
    """The derivative is that of the image; the program's memory is that of few iterations."""
    rng = np.random.default_rng(0)
    operators = jax.vmap(Diagonal)(jnp.asarray(rng.uniform(0.7, 1, (1, 4, 4))))
    y = jnp.asarray(rng.normal(size=(1, 4, 4)))
    model = DeepEquilibrium(1, 0, zero_init=False, iterations=200, tolerance=0.0)
    params = once(model.init)(jax.random.key(0), operators, y)["params"]
    params["cascades"]["regularizer"]["unet"]["head"]["kernel"] *= 0.05

    @partial(once, static_argnums=1)
    def gradient(params, iterations):
        def loss(params):
            x = model.clone(iterations=iterations).apply({"params": params}, operators, y)
            return jnp.square(x - 1).sum(), x

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, x), slope = gradient(params, 200)
    again = once(model.clone(iterations=1).apply)({"params": params}, operators, y, x)
    np.testing.assert_allclose(again, x, rtol=1e-10, atol=1e-10)
    step = 1e-6
    moved = jax.tree.map(lambda p, g: p + step * g, params, slope)
    expected = step * sum(float(jnp.square(g).sum()) for g in jax.tree.leaves(slope))
    assert abs((gradient(moved, 200)[0][0] - value) / expected - 1) < 1e-3

    def memory(iterations):
        return gradient.lower(params, iterations).compile().memory_analysis().temp_size_in_bytes

    assert memory(500) == memory(5) > 0


def test_equilibria_refuse_running_statistics():
    operators, y = jax.vmap(Diagonal)(jnp.ones((1, 4, 4))), jnp.ones((1, 4, 4))
    with pytest.raises(ValueError, match=r"norm.*running statistics"):
        jax.eval_shape(DeepEquilibrium(2, 0, norm=BatchNorm).init, jax.random.key(0), operators, y)


def test_weights_that_are_not_those_of_fastmri_are_refused(recorded, tmp_path):
    state = state_of(recorded["varnet"])
    with pytest.raises(
        ValueError, match=r"state: expected the names of fastMRI's VarNet or Unet.*found nothing"
    ):
        from_fastmri({})
    with pytest.raises(ValueError, match="found extra"):
        from_fastmri(state | {"extra": np.ones(2)})
    name = "cascades.1.model.unet.conv.layers.0.weight"
    expected = r"weights.pt: cascades.1.model.unet.conv.layers.0.weight: expected \(12, 6, 3, 3\), as "
    expected += r"cascades.0.model.unet.conv.layers.0.weight, found \(12, 5, 3, 3\)$"
    with pytest.raises(ValueError, match=expected):
        from_fastmri(state | {name: state[name][:, :5]}, "weights.pt")
    state.pop("cascades.1.dc_weight")
    with pytest.raises(ValueError, match=r"'cascades.1.dc_weight' among them"):
        from_fastmri(state)


def test_files_of_fastmri_are_read(recorded, tmp_path):
    """By torch where it is there; otherwise the extra is named."""
    path = tmp_path / "weights.pt"
    try:
        import torch
    except ImportError:
        with pytest.raises(ImportError, match=r"fedrecon\[torch\]"):
            read_fastmri(path)
        return
    state = state_of(recorded["varnet"])
    torch.save({"state_dict": {name: torch.as_tensor(x) for name, x in state.items()}, "epoch": 3}, path)
    network, variables = read_fastmri(path)
    assert network.cascades == 2 and variables.params["cascades"]["step"].shape == (2,)
    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"weights.pt: expected tensors"):
        read_fastmri(path)


def test_conditioned_networks_are_varnets_that_know_the_scanner(x64):
    """Features are what is measured of frequencies; at the start they change nothing, later they do."""
    ny = 16
    rng = np.random.default_rng(0)
    low = np.zeros((ny, ny))
    low[4:12, 4:12] = 1
    masks = np.stack([np.ones((ny, ny)), low])
    maps = rng.normal(size=(2, 2, ny, ny)) + 1j * rng.normal(size=(2, 2, ny, ny))
    maps /= np.linalg.norm(maps, axis=1, keepdims=True)
    flat = np.full((2, 2, ny, ny), 2**-0.5, complex)
    operators = jax.vmap(lambda m, s: SENSE(CartesianFourier((ny, ny), m), s))(masks, flat)
    y = jax.vmap(lambda A, x: A(x))(operators, jnp.asarray(maps[:, 0]))
    features = np.asarray(scanner_features(cascade_inputs(operators, y)))
    np.testing.assert_allclose(features[0, :16], 1, rtol=1e-6)
    np.testing.assert_allclose(features[1, :4], 1, atol=0.05)
    assert (features[1, 12:16] < 0.05).all() and features.shape == (2, FEATURES)

    network, plain = ConditionedVarNet(2, 2, 1), VarNet(2, 2, 1)
    params = once(network.init)(jax.random.key(0), operators, y)["params"]
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: x if "modulation" in jax.tree_util.keystr(path) else x + 0.1, params
    )
    unconditioned = once(plain.init)(jax.random.key(0), operators, y)["params"]

    def same(path, leaf):
        names = [key.key.replace("regulariser", "regularizer") for key in path]
        found = params
        for name in names:
            found = found.get(name, leaf) if isinstance(found, dict) else found
        return found

    unconditioned = jax.tree_util.tree_map_with_path(same, unconditioned)
    want = once(plain.apply)({"params": unconditioned}, operators, y)
    np.testing.assert_allclose(once(network.apply)({"params": params}, operators, y), want, rtol=1e-9)
    moved = jax.tree.map(lambda x: x + 0.1, params)
    # With the same images, but another scanner, the modulation is another one.
    assert abs(once(network.apply)({"params": moved}, operators, y) - want).max() > 1e-3


@pytest.mark.slow
def test_features_of_scanners_are_differentiable_in_the_geometry(x64):
    def loss(angles):
        A = jax.vmap(lambda a: Radon(FanBeam(a, 11, 1.5, 24.0, 24.0), (8, 8)))(angles[None])
        y = jax.vmap(lambda A: A(jnp.ones((8, 8))))(A)
        return scanner_features(cascade_inputs(A, y))[:, :16].sum()

    slope = jax.grad(loss)(jnp.linspace(0.1, 3, 4))
    assert np.isfinite(slope).all() and abs(slope).max() > 1e-6
