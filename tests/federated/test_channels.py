"""Channels: clipping bounds what a client contributes, chains are onions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.types import Variables

KEY = jax.random.key(5)


def context():
    return fl.Context(jnp.int32(0), KEY, jnp.int32(0))


NOTHING = fl.Message()


def upload_of(delta, message=NOTHING, weight=1.0):
    weight = jnp.float32(weight)
    delta = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32) * weight, delta)
    return fl.Upload(delta, jax.tree.map(jnp.float32, message), weight)


@pytest.mark.parametrize("weight", [1.0, 7.0, 1e-3])
@pytest.mark.parametrize("size", [0.0, 1e-30, 0.5, 1.9, 2.1, 1e6, 1e30])
def test_clip_bounds_the_norm_and_leaves_what_is_within_alone(fx, size, weight):
    rng = np.random.default_rng(0)
    direction = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)}
    norm = np.sqrt(sum((x**2).sum() for x in direction.values()))
    upload = upload_of(jax.tree.map(lambda x: x / norm * size, direction), weight=weight)
    channel = fl.clip(2.0)
    clipped, _, info = channel.encode(upload, (), context())
    squares = [np.square(np.asarray(x, np.float64)).sum() for x in jax.tree.leaves(clipped.delta)]
    found = np.sqrt(np.sum(squares))
    assert found <= 2.0 * weight * (1 + 1e-6)
    assert float(clipped.weight) == np.float32(weight)
    if size < 2:
        fx.assert_equal(clipped, upload)
        assert int(info["clipped"]) == 0
    elif size < 1e19:  # the square of anything larger overflows in single precision
        np.testing.assert_allclose(found, 2.0 * weight, rtol=1e-5)
        assert int(info["clipped"]) == 1


def test_clip_bounds_delta_and_message_apart():
    """Neither changes the other, scalars pass, and weights scale the bound of the delta alone."""
    message = fl.Message(summed={"c": [3.0, 4.0]}, scalars={"s": 7.0})
    upload = upload_of({"w": [3.0, 4.0]}, message, weight=2.0)
    clipped, _, info = fl.clip(1.0, message_norm=2.5).encode(upload, (), context())
    np.testing.assert_allclose(clipped.delta["w"], [1.2, 1.6], rtol=1e-6)
    np.testing.assert_allclose(clipped.message.summed["c"], [1.5, 2.0], rtol=1e-6)
    assert float(clipped.message.scalars["s"]) == 7.0 and int(info["clipped"]) == 1
    huge = upload._replace(message=message._replace(summed={"c": jnp.asarray([3e4, 4e4])}))
    delta = fl.clip(100.0).encode(huge, (), context())[0].delta
    np.testing.assert_array_equal(delta["w"], upload.delta["w"])
    with pytest.raises(ValueError, match="message_norm: expected a positive number"):
        fl.clip(1.0, message_norm=0.0)


@pytest.mark.slow
def test_clipped_round(fx):
    """Deltas are scaled to the bound before averaging and counted; a loose bound is bitwise none."""
    variables = Variables({"w": jnp.zeros(2)}, {})

    def run(channel):
        algorithm = fl.fedavg(fx.quad, optax.sgd(0.05), weighting=fx.fixed_weights, channel=channel)
        state = fl.init_state(algorithm, variables, fx.quad_data())
        return fl.make_round(algorithm, batch_size=1, epochs=1)(state, fx.quad_data(), KEY)

    rho = (1 - 0.05 * fx.a[:, None]) ** fx.tau[:, None]
    delta = (1 - rho) * fx.b
    norms = np.linalg.norm(delta, axis=1)
    bound = np.sort(norms)[1:3].mean()
    state, info = run(fl.chain(fl.clip(float(bound))))
    expected = (fx.p[:, None] * delta * np.minimum(1, bound / norms)[:, None]).sum(0)
    np.testing.assert_allclose(state.variables.params["w"], expected, rtol=1e-5)
    np.testing.assert_allclose(info.delta_norm, norms, rtol=1e-5)
    assert int(info.channel[0][0]["clipped"]) == 2
    fx.assert_equal(run(fl.chain(fl.clip(1e6)))[0].variables, run(fl.chain())[0].variables)


def test_chain_encodes_forward_and_decodes_backward():
    def affine(scale, shift):
        """Counts its uses at both ends; decoding inverts the encoding of a sum of two."""
        return fl.Channel(
            init=lambda upload: (jnp.int32(0), jnp.int32(0)),
            encode=lambda upload, state, context: (
                upload._replace(delta=upload.delta * scale + shift),
                state + 1,
                {"before": upload.delta},
            ),
            decode=lambda total, state, context: (
                total._replace(delta=(total.delta - 2 * shift) / scale),
                state + 1,
                {},
            ),
        )

    channel = fl.chain(affine(2.0, 1.0), affine(5.0, -3.0))
    one, two = (upload_of(jnp.asarray(x)) for x in (1.5, -4.0))
    client, server = channel.init(one)
    encoded = [channel.encode(u, client, context()) for u in (one, two)]
    assert float(encoded[0][0].delta) == (1.5 * 2 + 1) * 5 - 3
    assert [float(i["before"]) for i in encoded[0][2]] == [1.5, 4.0]
    total = jax.tree.map(jnp.add, encoded[0][0], encoded[1][0])
    decoded, server, _ = channel.decode(total, server, context())
    np.testing.assert_allclose(decoded.delta, -2.5, rtol=1e-6)
    assert [int(s) for s in (*encoded[0][1], *server)] == [1, 1, 1, 1]


def test_stages_of_a_chain_have_their_own_keys():
    def noise():
        def encode(upload, state, context):
            return upload._replace(delta=upload.delta + jax.random.normal(context.key)), state, {}

        return fl.Channel(lambda upload: ((), ()), encode, lambda total, state, context: (total, state, {}))

    upload = upload_of(jnp.asarray(0.0))
    channel = fl.chain(noise(), noise())
    once = fl.chain(noise()).encode(upload, fl.chain(noise()).init(upload)[0], context())[0].delta
    twice = channel.encode(upload, channel.init(upload)[0], context())[0].delta
    assert abs(float(twice - 2 * once)) > 1e-3
