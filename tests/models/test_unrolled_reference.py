"""VarNet and MoDL against recorded numbers: parameters, their initial values, images, derivatives.

Run as a program, with the root of the project in PYTHONPATH, this file records them anew.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.models import BatchNorm, GroupNorm, MoDL, VarNet
from operators import SENSE, CartesianFourier, Diagonal

REFERENCE = Path(__file__).parent / "reference" / "unrolled.json"
CASES = {
    "varnet": VarNet(2, 2, 0, learn_coil_maps=True, norm=BatchNorm),
    "varnet, real": VarNet(2, 2, 1, zero_init=False),
    "modl": MoDL(2, 2, 0, learn_coil_maps=True, remat=True),
    "modl, real": MoDL(2, 2, 0, norm=partial(GroupNorm, groups=2), zero_init=False, weight=0.3),
}
# The programs run once: compiling them takes longer.
UNOPTIMIZED = {"xla_backend_optimization_level": 0}


def arguments(name):
    """(operators, measurements, initial, train, valid) of a case, in double precision."""
    rng = np.random.default_rng(5)

    def normal(*shape):
        return rng.normal(size=shape)

    if name.endswith("real"):
        weights = rng.uniform(0.5, 1, (2, 4, 3))
        return jax.vmap(Diagonal)(weights), jnp.asarray(normal(2, 4, 3)), jnp.asarray(normal(2, 4, 3))
    maps = normal(3, 2, 5, 6) + 1j * normal(3, 2, 5, 6)
    maps /= np.linalg.norm(maps, axis=1, keepdims=True)
    masks = (rng.random((3, 5, 6)) < 0.5).astype(float)
    operators = jax.vmap(lambda m, s: SENSE(CartesianFourier((5, 6), m), s))(masks, maps)
    y = masks[:, None] * (normal(3, 2, 5, 6) + 1j * normal(3, 2, 5, 6))
    return operators, jnp.asarray(y), None, True, jnp.array([True, True, False])


def named(tree):
    return {
        jax.tree_util.keystr(p, simple=True, separator="/"): leaf
        for p, leaf in jax.tree.leaves_with_path(tree)
    }


def results(name):
    """What is recorded of a case: name -> list of numbers."""
    model, (operators, y, initial, *rest) = CASES[name], arguments(name)
    train, valid = rest or (False, None)
    init = jax.jit(lambda key: model.init(key, operators, y, initial), compiler_options=UNOPTIMIZED)
    variables = init(jax.random.key(0))
    # The initial values hide a network of zeros; these do not.
    rng = np.random.default_rng(3)
    filled = jax.tree.map(lambda v: jnp.asarray(0.3 * rng.normal(size=v.shape)), variables)

    def run(params, y):
        given = {**filled, "params": params}
        image, updates = model.apply(given, operators, y, initial, train, valid, mutable=["batch_stats"])
        weights = jnp.arange(image.size).reshape(image.shape) / image.size
        return jnp.sum(weights * jnp.abs(image - 1) ** 2), (image, updates)

    run = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True), compiler_options=UNOPTIMIZED)
    (_, (image, updates)), (by_params, by_data) = run(filled["params"], y)

    def summary(leaf):
        return [*leaf.shape, float(jnp.sum(leaf)), float(jnp.linalg.norm(leaf))]

    return {
        **{f"initial {path}": summary(leaf) for path, leaf in named(variables).items()},
        **{f"update {path}": summary(leaf) for path, leaf in named(updates).items()},
        **{f"gradient {path}": summary(leaf) for path, leaf in named(by_params).items()},
        "gradient measurements": [float(jnp.linalg.norm(by_data))],
        "image": [float(part) for z in np.ravel(image) for part in (z.real, z.imag)],
    }


@pytest.mark.parametrize("name", CASES)
def test_results_equal_the_recorded_ones(x64, name):
    got, want = results(name), json.loads(REFERENCE.read_text())[name]
    assert list(got) == list(want)
    for key in want:
        np.testing.assert_allclose(got[key], want[key], rtol=1e-6, atol=1e-6, err_msg=key)


if __name__ == "__main__":
    with jax.enable_x64(True):
        rows = {name: {k: [float(f"{v:.9g}") for v in r] for k, r in results(name).items()} for name in CASES}
    text = ",\n".join(
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in row.items())
        + "\n}"
        for name, row in rows.items()
    )
    REFERENCE.write_text("{\n" + text + "\n}\n")
