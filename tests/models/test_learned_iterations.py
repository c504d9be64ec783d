"""vSHARP beside DIRECT's, and what learned iterations are where nothing is learned."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from fedrecon.models.learned_gradient import LearnedGradient
from fedrecon.models.operator_scale import excess
from fedrecon.models.variational_network import VariationalNetwork
from fedrecon.models.vsharp import VSharp
from fedrecon.published_weights import from_direct
from operators import NUFFT, SENSE, CartesianFourier, Diagonal, ParallelBeam, radial_trajectory
from operators.ct import filtered_radon
from tests.models.reference.mri_networks import REFERENCE, unit_kspace
from tests.models.reference.torchvision_networks import weights

once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize("name", ["vsharp", "vsharp_as_published"])
def test_vsharp_is_that_of_direct(name, x64):
    """With networks that give what is added, and as DIRECT has them."""
    record = json.loads(REFERENCE.read_text())[name]
    state = {name: weights(name, tuple(shape)) for name, shape in record["shapes"].items()}
    state["rho"] = abs(state["rho"]) + 0.05
    network, variables = from_direct({name.replace(".unet.", "."): x for name, x in state.items()})
    params = variables.params
    assert network == VSharp(2, 4, 1, 3, network.norm, published=True)
    if name == "vsharp":
        network = network.clone(published=False)
        params["cascades"]["log_rho"] = np.log(params["cascades"].pop("rho"))
    data, masks, maps = unit_kspace()
    data = data if name == "vsharp" else 2 * data
    operators = jax.vmap(lambda m, s: SENSE(CartesianFourier((18, 20), m), s))(
        np.broadcast_to(masks[:, None], (2, 18, 20)).astype(float), maps
    )
    shapes = jax.eval_shape(network.init, jax.random.key(0), operators, jnp.asarray(data))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    got = once(network.apply)({"params": params}, operators, jnp.asarray(data))
    want = np.asarray(record["values"])
    np.testing.assert_allclose(got, want[..., 0] + 1j * want[..., 1], rtol=1e-6, atol=1e-7)


def diagonal(largest):
    """Two operators whose norm is ``largest``, and measurements."""
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 1, (2, 6, 5))
    weights *= largest / weights.max((1, 2), keepdims=True)
    return jax.vmap(Diagonal)(weights), jnp.asarray(rng.normal(size=(2, 6, 5)))


def filled(model, operators, y, fill):
    shapes = jax.eval_shape(model.init, jax.random.key(0), operators, y)["params"]
    return jax.tree.map(lambda s: fill(s.shape), shapes)


def test_vsharp_begins_as_proximal_points(x64):
    """And takes shorter steps with larger operators, without which these diverge."""
    operators, y = diagonal(3)
    network = VSharp(2, 1, 0, 300, rho=0.4)
    got = once(lambda: network.init_with_output(jax.random.key(0), operators, y)[0])()
    squares, want = operators.weights**2, operators.weights * y
    for _ in range(2):
        want = (operators.weights * y + 0.4 * want) / (squares + 0.4)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_learned_gradients_contain_gradient_descent(x64):
    """With the right weights; what is remembered is seen by the next step."""
    operators, y = diagonal(2)
    network = LearnedGradient(3, 4, 1)
    params = filled(network, operators, y, np.zeros)
    update = params["cascades"]["update"]
    first, second, last = (update[name]["kernel"][..., 1, 1, :, :] for name in ("conv1", "conv2", "step"))
    # ReLUs of both signs of both gradients: d = -0.5 g - 0.25 r.
    for feature, (gradient, sign) in enumerate(((0, 1), (0, -1), (1, 1), (1, -1))):
        first[..., 1 + gradient, feature] = sign
        second[..., feature, feature] = 1
        last[..., feature, 0] = -sign * (0.5, 0.25)[gradient]
    run = once(network.apply)
    got = run({"params": params}, operators, y)
    size = once(lambda A, y: excess(A))
    norm = size(operators, y)
    assert norm.shape == (2, 1, 1) and (norm <= 4).all() and (norm > 3.5).all()
    assert (size(*diagonal(1)) == 1).all()
    want = operators.weights * y
    for _ in range(3):
        gradient = operators.weights * (operators.weights * want - y)
        before = np.pad(want, ((0, 0), (1, 1), (1, 1)), mode="edge")
        laplacian = (
            sum(before[:, 1 + a : 7 + a, 1 + b : 6 + b] for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0)))
            - 4 * want
        )
        want = want - 0.5 * gradient / norm + 0.25 * laplacian / 8
    np.testing.assert_allclose(got, want, rtol=1e-9)
    update["memory"]["bias"][:] = 1
    np.testing.assert_allclose(run({"params": params}, operators, y), got, rtol=1e-12)
    first[..., 3, 0] = 1
    assert abs(run({"params": params}, operators, y) - got).max() > 0.1


def mirrored(x, pad):
    return np.pad(x, ((pad, pad), (pad, pad)), mode="symmetric")


def test_steps_of_variational_networks_are_those_of_the_publication(x64):
    """Kernels of mean 0 and norm 1, sums of Gaussians, transposed filters, and the data term, in loops."""
    rng = np.random.default_rng(0)
    data, masks, maps = unit_kspace()
    data, maps, mask = 0.1 * data[:1, :, 4:10, 6:14], maps[:1, :, 4:10, 6:14], masks[:1, None, 6:14]
    data = jnp.asarray(data * mask[:, None])
    operators = jax.vmap(lambda m, s: SENSE(CartesianFourier((6, 8), m), s))(
        np.broadcast_to(mask, (1, 6, 8)).astype(float), maps / np.linalg.norm(maps, axis=1, keepdims=True)
    )
    network = VariationalNetwork(1, 3, 3, 5)
    params = filled(network, operators, data, lambda shape: rng.normal(size=shape))
    run = once(network.apply)
    got = run({"params": params}, operators, data)[0]

    A = jax.tree.map(lambda leaf: leaf[0], operators)
    x = np.asarray(A.H(data[0]))
    top = abs(x).max()
    parts = [mirrored(part / top, 2) for part in (x.real, x.imag)]
    experts = params["cascades"]["experts"]
    kernels = np.asarray(experts["kernel"][0])
    kernels = kernels - kernels.mean((0, 1), keepdims=True)
    kernels /= np.sqrt((kernels**2).sum((0, 1, 2), keepdims=True))
    # Kernels of 3 x 3, images of 10 x 12: responses of 8 x 10, which go back to 10 x 12.
    back = np.zeros((2, 10, 12))
    for i in range(3):
        response = np.zeros((8, 10))
        for c, a, b in np.ndindex(2, 3, 3):
            response += kernels[a, b, c, i] * parts[c][a : a + 8, b : b + 10]
        means = np.linspace(-1, 1, 5)
        bumps = np.exp(-((response[..., None] - means) ** 2) / (2 * 0.5**2))
        slope = bumps @ np.asarray(experts["heights"][0, :, i])
        for c, a, b in np.ndindex(2, 3, 3):
            back[c, a : a + 8, b : b + 10] += kernels[a, b, c, i] * slope / 3
    correction = top * (back[0] + 1j * back[1])[2:-2, 2:-2]
    weight = np.exp(params["cascades"]["log_weight"][0])
    np.testing.assert_allclose(got, x - weight * A.H(A(x) - data[0]) - correction, rtol=1e-7, atol=1e-9)

    # Without activations it is gradient descent.
    quiet = {"cascades": {**params["cascades"], "experts": {**experts, "heights": 0 * experts["heights"]}}}
    want = x - weight * A.H(A(x) - data[0])
    np.testing.assert_allclose(run({"params": quiet}, operators, data)[0], want, rtol=1e-7, atol=1e-9)


def stacked_cartesian():
    data, masks, maps = unit_kspace()
    mask = np.broadcast_to(masks[:, None], (2, 18, 20)).astype(np.float32)
    A = jax.vmap(lambda m, s: SENSE(CartesianFourier((18, 20), m), s))(mask, maps.astype(np.complex64))
    return A, jnp.asarray(data, jnp.complex64)


def stacked_radial():
    """Of norm about 5."""
    maps = unit_kspace()[2].astype(np.complex64)
    spokes = jnp.stack([radial_trajectory(7, 24), radial_trajectory(7, 24, "golden")]).reshape(2, -1, 2)
    A = jax.vmap(lambda k, s: SENSE(NUFFT(k, (18, 20)), s))(spokes, maps)
    return A, jax.vmap(lambda A, x: A(x))(A, maps[:, 0])


def stacked_ct():
    """Few views: of norm above 2."""
    angles = jnp.linspace(0, np.pi, 5, endpoint=False) + jnp.array([[0.0], [0.1]])
    A = jax.vmap(lambda a: filtered_radon(ParallelBeam(a, 20), (12, 14), 1.0, jnp.ones(5)))(angles)
    x = jnp.ones((2, 12, 14)).at[:, 3:7, 2:9].set(2.0)
    return A, jax.vmap(lambda A, x: A(x))(A, x)


NETWORKS = {
    "vsharp": VSharp(4, 2, 1, 6),
    "learned-gradient": LearnedGradient(3, 3, 2),
    "variational-network": VariationalNetwork(4, 2, 3, 5),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("physics", "name"),
    [
        (stacked_ct, "vsharp"),
        (stacked_ct, "learned-gradient"),
        (stacked_ct, "variational-network"),
        (stacked_radial, "vsharp"),
        (stacked_radial, "variational-network"),
        (stacked_cartesian, "learned-gradient"),
    ],
)
def test_any_operator_has_them_and_steps_do_not_blow_up(physics, name):
    """Untrained, the data are explained no worse than by the start; all leaves have finite gradients."""
    A, y = physics()
    network = NETWORKS[name]

    @once
    def run():
        params = network.init(jax.random.key(0), A, y)["params"]

        def loss(params, y):
            x = network.apply({"params": params}, A, y)
            return jnp.square(jnp.abs(x)).sum(), x

        (_, x), slope = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, y)
        error = jax.vmap(lambda A, x, y: jnp.abs(A(x) - y).max())(A, x, y)
        start = jax.vmap(lambda A, y: jnp.abs(A(A.H(y)) - y).max())(A, y)
        return x, slope, error, start

    x, slope, error, start = run()
    assert x.shape == (2, *A.in_shape) and x.dtype == A.in_dtype
    assert (error <= 1.1 * start).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


@pytest.mark.parametrize("name", NETWORKS)
def test_clients_on_devices_have_them(name):
    """Traced only, inside a mesh."""
    operators, y = diagonal(1)
    network = NETWORKS[name]
    shapes = jax.eval_shape(network.init, jax.random.key(0), operators, y)["params"]
    mesh = jax.make_mesh((2,), ("clients",), axis_types=(AxisType.Auto,))
    clients = PartitionSpec("clients")

    def inside(params, operators, y):
        params = jax.lax.pcast(params, "clients", to="varying")
        slope = jax.grad(lambda p: jnp.square(network.apply({"params": p}, operators, y)).sum())(params)
        return jax.tree.map(lambda g: g[None], slope)

    specs = {"in_specs": (PartitionSpec(), clients, clients), "out_specs": clients}
    found = jax.eval_shape(jax.shard_map(inside, mesh=mesh, **specs), shapes, operators, y)
    assert jax.tree.map(lambda s: s.shape[1:], found) == jax.tree.map(jnp.shape, shapes)


def test_sizes_are_those_of_the_publications():
    operators = jax.vmap(Diagonal)(jnp.ones((1, 16, 16)))
    real = jax.ShapeDtypeStruct((1, 16, 16), np.float32)
    complex_ones = jax.vmap(lambda m: CartesianFourier((16, 16), m))(jnp.ones((1, 16, 16)))
    kspace = jax.ShapeDtypeStruct((1, 16, 16), np.complex64)

    def count(network, operators, y):
        shapes = jax.eval_shape(network.init, jax.random.key(0), operators, y)["params"]
        return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(shapes))

    assert count(LearnedGradient(), operators, real) == 13_318
    assert count(VariationalNetwork(), complex_ones, kspace) == 131_050
