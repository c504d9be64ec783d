"""The core of unrolled networks: data steps against loops in numpy, and what the loop over cascades keeps."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from fedrecon.models import (
    BatchNorm,
    ConvolutionStack,
    ISTANet,
    LearnedPrimalDual,
    MoDL,
    UNetRegularizer,
    Unrolled,
    VarNet,
    cascade_inputs,
    gradient_step,
    primal_dual_step,
    projection_step,
    proximal_step,
    regularized,
    start_primal_dual,
)
from fedrecon.models.data_steps import start_kspace
from fedrecon.models.ista import SparseTransform
from fedrecon.models.operator_scale import squared_norms
from operators import (
    SENSE,
    CartesianFourier,
    Diagonal,
    LinearOperator,
    ParallelBeam,
    rasterize,
    shepp_logan,
)
from operators.algebra import frozen_pytree, static
from operators.ct import filtered_radon


@frozen_pytree
class Dense(LinearOperator):
    """A matrix on raveled arrays of ``in_shape``."""

    matrix: jax.Array
    in_shape: tuple[int, ...] = static()

    out_shape = property(lambda self: self.matrix.shape[-2:-1])
    in_dtype = out_dtype = property(lambda self: self.matrix.dtype)

    def _forward(self, x):
        return x.reshape(*x.shape[: x.ndim - len(self.in_shape)], -1) @ self.matrix.T

    def _adjoint(self, y):
        return (y @ self.matrix.conj()).reshape(*y.shape[:-1], *self.in_shape)


SHAPE = (2, 3, 2)  # A volume.
# Compiles in a fraction of the time, for programs that run once or twice.
once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def dense(batch=2, rows=16, seed=0):
    """Stacked operators of norm 1, measurements that nothing explains exactly, and a starting image."""
    rng = np.random.default_rng(seed)
    matrices = rng.normal(size=(batch, rows, 12)) + 1j * rng.normal(size=(batch, rows, 12))
    matrices /= np.linalg.norm(matrices, 2, (1, 2), keepdims=True)
    y = rng.normal(size=(batch, rows)) + 1j * rng.normal(size=(batch, rows))
    x = rng.normal(size=(batch, *SHAPE)) + 1j * rng.normal(size=(batch, *SHAPE))
    return jax.vmap(lambda m: Dense(m, SHAPE))(jnp.asarray(matrices)), jnp.asarray(y), jnp.asarray(x)


def nothing(x, train, valid):
    return jnp.zeros_like(x)


def shrinkage(x, train, valid):
    """x - P(x) for the map P(x) = x / (1 + |x|)."""
    return x - x / (1 + jnp.abs(x))


def run(model, operators, y, initial=None):
    """The untrained network."""

    def untrained():
        return model.init_with_output(jax.random.key(0), operators, y, initial)[0]

    return once(untrained)()


def each(operators, y, x):
    """Matrices, measurements and raveled starting images, one by one, in numpy."""
    return zip(*map(np.asarray, (operators.matrix, y, x.reshape(len(x), -1))), strict=True)


@pytest.mark.parametrize("order", ["after", "before", "parallel"])
def test_gradient_steps_are_a_loop(x64, order):
    """Landweber iterations, with a map before, after or within each."""
    operators, y, x = dense()
    for regularizer in (nothing, shrinkage):
        got = run(Unrolled(regularized(gradient_step(0.8), regularizer, order), 3), operators, y, x)
        for i, (A, data, z) in enumerate(each(operators, y, x)):
            for _ in range(3):
                before = z
                if order == "before" and regularizer is shrinkage:
                    z = z / (1 + abs(z))
                z = z - 0.8 * A.conj().T @ (A @ z - data)
                if order == "after" and regularizer is shrinkage:
                    z = z / (1 + abs(z))
                if order == "parallel" and regularizer is shrinkage:
                    z = z - (before - before / (1 + abs(before)))
            np.testing.assert_allclose(got[i].ravel(), z, rtol=1e-12, atol=1e-12)


def test_proximal_steps_go_from_the_least_squares_solution_to_the_network(x64):
    operators, y, x = dense()

    def nearest(weight, order):
        step = regularized(proximal_step(weight, cg_iterations=60), shrinkage, order)
        return run(Unrolled(step, 1), operators, y, x)

    np.testing.assert_allclose(nearest(1e9, "before"), x / (1 + abs(x)), rtol=1e-7)
    got = nearest(1e-10, "before")
    for i, (A, data, _) in enumerate(each(operators, y, x)):
        np.testing.assert_allclose(got[i].ravel(), np.linalg.lstsq(A, data)[0], rtol=1e-5)


def chambolle_pock(A, y, x, steps, tau, sigma, P):
    ahead, p = x, np.zeros_like(y)
    for _ in range(steps):
        p = (p + sigma * (A @ ahead - y)) / (1 + sigma)
        new = P(x - tau * A.conj().T @ p)
        x, ahead = new, 2 * new - x
    return x


def test_primal_dual_steps_are_the_iteration_of_chambolle_and_pock(x64):
    operators, y, x = dense()
    for regularizer, P in ((nothing, lambda z: z), (shrinkage, lambda z: z / (1 + abs(z)))):
        step = regularized(primal_dual_step(0.7, 1.2), regularizer)
        got = run(Unrolled(step, 4, start_primal_dual), operators, y, x)
        for i, (A, data, z) in enumerate(each(operators, y, x)):
            want = chambolle_pock(A, data, z, 4, 0.7, 1.2, P)
            np.testing.assert_allclose(got[i].ravel(), want, rtol=1e-12, atol=1e-12)


def test_learned_primal_dual_contains_chambolle_and_pock(x64):
    operators, y, x = dense()
    tau, sigma = 0.7, 1.2

    def dual(u, outputs):
        h, other, projected, data = jnp.moveaxis(u, -1, 0)
        return jnp.stack([(h + sigma * (projected - data)) / (1 + sigma) - h, 0 * other], -1)

    def primal(u, outputs):
        image, ahead, back = jnp.moveaxis(u, -1, 0)
        return jnp.stack([-tau * back, image - 2 * tau * back - ahead], -1)

    got = run(LearnedPrimalDual(4, 2, primal=primal, dual=dual), operators, y, x)
    for i, (A, data, z) in enumerate(each(operators, y, x)):
        want = chambolle_pock(A, data, z, 4, tau, sigma, lambda z: z)
        np.testing.assert_allclose(got[i].ravel(), want, rtol=1e-12, atol=1e-12)


def sense(batch=2, coils=2, shape=(4, 6)):
    rng = np.random.default_rng(1)
    masks = jnp.asarray(rng.random((batch, *shape)) < 0.5, jnp.float32)
    maps = jnp.asarray(rng.normal(size=(batch, coils, *shape)) + 1j, jnp.complex64)
    operators = jax.vmap(lambda m, s: SENSE(CartesianFourier(shape, m), s))(masks, maps)
    y = masks[:, None] * jnp.asarray(rng.normal(size=maps.shape) - 1j, jnp.complex64)
    return operators, y, masks[:, None] > 0


def test_projections_keep_measured_samples_exactly():
    operators, y, measured = sense()
    step = regularized(projection_step(), lambda k, train, valid: k - 1j * jnp.roll(k, 1, -1), "before")
    got = np.asarray(run(Unrolled(step, 3, start_kspace), operators, y))
    np.testing.assert_array_equal(np.where(measured, got, 0), y)
    assert (got != y).any()
    with pytest.raises(
        TypeError, match="operators: expected CartesianFourier, or SENSE with it, found Diagonal"
    ):
        run(Unrolled(projection_step(), 1), jax.vmap(Diagonal)(jnp.ones((2, 3))), jnp.ones((2, 3)))


class Gain(nn.Module):
    """R(x) = g tanh|x| x with a random g, and statistics that count the cascades."""

    @nn.compact
    def __call__(self, x, train, valid):
        gain = self.param("gain", nn.initializers.normal(), ())
        seen = self.variable("batch_stats", "seen", lambda: jnp.zeros(()))
        if train:
            seen.value = jnp.abs(x).max()
        return gain * jnp.tanh(jnp.abs(x)) * x


def test_weights_are_shared_or_not_and_cascades_recomputed_or_not(x64):
    operators, y, x = dense()
    step = regularized(gradient_step(0.5), Gain(parent=None))

    def model(**options):
        return Unrolled(step, 3, **options)

    separate = jax.eval_shape(model().init, jax.random.key(0), operators, y)
    shared = model(shared=True).init(jax.random.key(0), operators, y)
    assert {leaf.shape for leaf in jax.tree.leaves(separate)} == {(3,)}
    assert {leaf.shape for leaf in jax.tree.leaves(shared["params"])} == {()}
    assert {leaf.shape for leaf in jax.tree.leaves(shared["batch_stats"])} == {(3,)}

    def loss(model, params, y):
        variables = {"params": params, "batch_stats": shared["batch_stats"]}
        image, updates = model.apply(variables, operators, y, x, True, mutable=["batch_stats"])
        return jnp.sum(jnp.abs(image - 1) ** 2), updates["batch_stats"]["cascades"]["regularizer"]["seen"]

    def all_of(params, y):
        stacked = jax.tree.map(lambda p: jnp.full(3, p), params)
        grad = jax.value_and_grad(loss, (1, 2), has_aux=True)
        models = (model(), stacked), (model(remat=True), stacked), (model(shared=True, remat=True), params)
        found = [grad(*each, y) for each in models]
        return [(value, jax.tree.map(jnp.sum, by_params), by_data) for value, (by_params, by_data) in found]

    want, *others = once(all_of)(shared["params"], y)
    for got in others:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10), got, want)
    assert len(set(np.asarray(want[0][1]))) == 3


def test_steps_keep_shapes_and_dtypes():
    operators, y, _ = sense()

    def half(cascade, state, inputs):
        return {name: leaf * jnp.full(leaf.shape, 0.5, jnp.float32) for name, leaf in state.items()}

    def start(inputs, initial):
        weight = inputs.measurements.real.astype(jnp.bfloat16)
        return {"image": inputs.back_projection, "k": inputs.measurements, "weight": weight}

    def last(step):
        return jax.eval_shape(
            lambda: Unrolled(step, 2, start, lambda state: state).init_with_output(
                jax.random.key(0), operators, y
            )[0]
        )

    got = last(half)
    assert {name: (leaf.shape, leaf.dtype.name) for name, leaf in got.items()} == {
        "image": ((2, 4, 6), "complex64"),
        "k": ((2, 2, 4, 6), "complex64"),
        "weight": ((2, 2, 4, 6), "bfloat16"),
    }
    with pytest.raises(
        ValueError, match=r"expected a state .*complex \(2, 2, 4, 6\).*found .*complex \(2, 1, 4, 6\)"
    ):
        last(lambda cascade, state, inputs: {**state, "k": state["k"][:, :1]})
    with pytest.raises(ValueError, match=r"expected a state .*real \(2, 2, 4, 6\).*found .*complex"):
        last(lambda cascade, state, inputs: {**state, "weight": state["k"]})
    with pytest.raises(ValueError, match=r"order: expected .*, found 'behind'"):
        regularized(gradient_step(), nothing, "behind")


def test_clients_on_devices_train_as_one_by_one(x64):
    mesh = jax.make_mesh((2,), ("clients",), axis_types=(AxisType.Auto,))
    operators, y, _ = dense(batch=4)
    step = regularized(primal_dual_step(), Gain(parent=None))
    model = Unrolled(step, 2, start_primal_dual, remat=True)
    variables = once(model.init)(jax.random.key(0), operators, y)

    def gradient(variables, operators, y):
        return jax.grad(lambda v: jnp.sum(jnp.abs(model.apply(v, operators, y)) ** 2))(variables)

    def inside(variables, operators, y):
        variables = jax.lax.pcast(variables, "clients", to="varying")
        return jax.tree.map(lambda g: g[None], gradient(variables, operators, y))

    clients = PartitionSpec("clients")
    sharded = jax.shard_map(
        inside, mesh=mesh, in_specs=(PartitionSpec(), clients, clients), out_specs=clients
    )
    got = once(sharded)(variables, operators, y)
    part = jax.tree.map(lambda a: a.reshape(2, 2, *a.shape[1:]), (operators, y))
    want = once(jax.vmap(gradient, (None, 0, 0)))(variables, *part)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-10), got["params"], want["params"])


def filled(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), s.dtype), shapes)


def test_sparse_transforms_threshold_what_a_convolution_finds():
    """For volumes; above the largest coefficient the network is gradient descent."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3, 5)), jnp.float32)
    layer = SparseTransform(3, threshold=1.5)
    params = {**filled(jax.eval_shape(layer.init, jax.random.key(0), x))["params"]}
    params["log_threshold"] = jnp.log(1.5)

    @partial(once, static_argnums=1)
    def conv(v, name):
        return jax.lax.conv_general_dilated(
            v, params[name]["kernel"], (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )

    scale = np.sqrt(np.square(x).mean((1, 2, 3), keepdims=True))[..., None]
    v = conv(x[..., None] / scale, "features")
    v = conv(jax.nn.relu(conv(v, "analysis1")), "analysis2")
    assert 0.1 < (abs(v) < 1.5).mean() < 0.9
    v = np.sign(v) * np.maximum(abs(v) - 1.5, 0)
    v = conv(jax.nn.relu(conv(v, "synthesis1")), "synthesis2")
    want = -scale * conv(v, "image")
    got = once(layer.apply)({"params": params}, x)
    np.testing.assert_allclose(got, want[..., 0], rtol=1e-4, atol=1e-5)

    weights = jnp.linspace(0.5, 1, 120, dtype=jnp.float32).reshape(x.shape)
    operators, model = jax.vmap(Diagonal)(weights), ISTANet(2, 3)
    variables = filled(jax.eval_shape(model.init, jax.random.key(0), operators, x))
    cascades = variables["params"]["cascades"]
    cascades["regularizer"]["log_threshold"] = jnp.full(2, 9.0)
    want, norms = weights * x, once(squared_norms)(operators)[:, None, None, None]
    for step in cascades["step"]:
        want = want - step * weights * (weights * want - x) / norms
    got = once(model.apply)(variables, operators, x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_steps_are_divided_by_the_norm_of_the_operator():
    """Few views have a large norm, for which steps of 1 diverge; that of Cartesian MRI is 1."""
    operators = jax.vmap(lambda a: filtered_radon(ParallelBeam(a, 31), (16, 16)))(
        jnp.linspace(0, jnp.pi, 6, endpoint=False, dtype=jnp.float32) + jnp.array([[0.0], [0.3]])
    )

    @once
    def compared(operators):
        y = jax.vmap(lambda A: A(rasterize(shepp_logan(), (16, 16))))(operators)
        model = VarNet(8, 1, 0)
        last = model.apply(model.init(jax.random.key(0), operators, y), operators, y)
        residuals = [
            jnp.linalg.norm(jax.vmap(lambda A, x: A(x))(operators, x) - y)
            for x in (last, cascade_inputs(operators, y).back_projection)
        ]
        matrices = jax.vmap(lambda A: A(jnp.eye(256).reshape(256, 16, 16)))(operators)
        return squared_norms(operators), matrices, *residuals

    found, matrices, last, first = compared(operators)
    exact = np.linalg.norm(matrices.reshape(2, 256, -1), 2, (1, 2)) ** 2
    assert exact.min() > 2.5
    assert (found / exact > 0.7).all() and (found / exact < 1.0001).all(), (found, exact)
    assert last < 0.5 * first
    assert squared_norms(sense()[0]) is None


def test_untrained_learned_primal_dual_returns_the_back_projection():
    operators, y, _ = sense()
    small = {name: ConvolutionStack(2, parent=None) for name in ("primal", "dual")}
    got = run(LearnedPrimalDual(2, 3, **small), operators, y)
    np.testing.assert_allclose(got, cascade_inputs(operators, y).back_projection, rtol=1e-6)
    variables = jax.eval_shape(LearnedPrimalDual(2, 3).init, jax.random.key(0), operators, y)
    kernels = variables["params"]["cascades"]
    # Coils are examples; real and imaginary parts of three dual variables, projection and data; one back.
    assert kernels["dual"]["conv1"]["kernel"].shape == (2, 3, 3, 10, 32)
    assert kernels["primal"]["conv1"]["kernel"].shape == (2, 3, 3, 8, 32)


@pytest.mark.parametrize(
    "model",
    [
        VarNet(2, 2, 1),
        MoDL(2, 2, 1, shared=True, norm=BatchNorm),
        ISTANet(2, 3),
        LearnedPrimalDual(2, 2),
        Unrolled(regularized(primal_dual_step(), UNetRegularizer(2, 1, parent=None)), 2, start_primal_dual),
    ],
    ids=["varnet", "modl", "ista_net", "learned primal-dual", "primal-dual"],
)
def test_volumes_have_networks(model):
    """Shapes only: the parts are compared elsewhere."""
    weights = jnp.ones((2, 3, 5, 4))
    operators = jax.vmap(Diagonal)(weights)
    image, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), operators, weights)
    assert image.shape == weights.shape and image.dtype == np.float32
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim >= 5]
    assert kernels and all(kernel.shape[-5:-2] in ((3, 3, 3), (1, 1, 1)) for kernel in kernels)
