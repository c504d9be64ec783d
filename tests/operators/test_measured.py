"""What no scanner measures is refused by name, in every reconstruction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import operators

SHAPE = (8, 8)


def sense():
    return operators.SENSE(operators.CartesianFourier(SHAPE), operators.mri.birdcage_maps(SHAPE, 2))


RECONSTRUCTIONS = {
    "gridding: y": lambda y: operators.solvers.gridding(sense(), y),
    "cg_sense: y": lambda y: operators.cg_sense(sense(), y),
    "l1_wavelet: y": lambda y: operators.l1_wavelet(sense(), y, 0.1),
    "total_variation: y": lambda y: operators.total_variation(sense(), y, 0.1),
    "grappa: kspace": lambda y: operators.mri.grappa(y, np.ones(SHAPE)),
    "spirit: kspace": lambda y: operators.mri.spirit(y, np.ones(SHAPE)),
    "nlinv: kspace": lambda y: operators.mri.nlinv(operators.CartesianFourier(SHAPE), y),
    "espirit_maps: kspace": lambda y: operators.espirit_maps(y, (6, 6)),
}


@pytest.mark.parametrize("name", RECONSTRUCTIONS)
def test_real_or_not_finite_kspace_is_named(name, normal):
    kspace = normal((2, *SHAPE), np.complex64)
    with pytest.raises(ValueError, match=f"{name}: expected complex k-space, found float32"):
        RECONSTRUCTIONS[name](kspace.real)
    if name.startswith(("grappa", "spirit")):
        return  # Their masks say which samples were measured.
    kspace[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=f"{name}: expected finite values, found 1 of 128 samples"):
        RECONSTRUCTIONS[name](kspace)


def test_traced_values_are_left_alone(normal):
    kspace = normal((2, *SHAPE), np.complex64)
    kspace[0, 0, 0] = np.nan
    assert np.isnan(jax.jit(lambda y: operators.solvers.gridding(sense(), y))(jnp.asarray(kspace))).any()
