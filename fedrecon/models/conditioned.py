"""A variational network whose layers know the scanner: modulated by what the operator lets through."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.models.data_steps import gradient_step
from fedrecon.models.normalization import ModulatedNorm
from fedrecon.models.regularizers import UNetRegularizer, regularized
from fedrecon.models.unrolled import CascadeInputs, cascade_inputs, start_image, unroll
from operators import LinearOperator

# Frequencies of the probes as parts of the Nyquist frequency, and their directions.
_RADII = (0.1, 0.3, 0.6, 0.9)
_DIRECTIONS = 4
# Numbers that `scanner_features` returns of an operator.
FEATURES = len(_RADII) * _DIRECTIONS + 1


def probes(shape: tuple[int, int]) -> np.ndarray:
    """Waves of 16 frequencies under a window of Hann, of norm 1: float32 (16, ny, nx)."""
    y, x = (np.arange(n) - n // 2 for n in shape)
    window = np.hanning(shape[0] + 2)[1:-1, None] * np.hanning(shape[1] + 2)[None, 1:-1]
    waves = []
    for radius in _RADII:
        for direction in np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS:
            phase = np.sin(direction) * y[:, None] + np.cos(direction) * x[None]
            waves.append(window * np.cos(np.pi * radius * phase))
    return np.asarray([w / np.linalg.norm(w) for w in waves], np.float32)


def scanner_features(inputs: CascadeInputs) -> jax.Array:
    """What a scanner is like, of its operator and measurement: (batch, `FEATURES`).

    The first 16 are ``|A w|^2`` of `probes` w over the largest of them: how much of each frequency and
    direction is measured, whatever the operator and its scale are (mask, coils, trajectory, views, detector).
    The last is how rough the measurement is,
    ``log(|differences of neighbors along the last axis|^2 / |y|^2)``, which grows with noise. They are
    differentiable in all leaves of the operator, such as a geometry.

    Raises:
      ValueError: the operators do not act on images.
    """
    shape = inputs.back_projection.shape[1:]
    if len(shape) != 2:
        raise ArgumentError("in_shape", "images (ny, nx)", shape)
    waves = jnp.asarray(probes(shape)).astype(inputs.back_projection.dtype)

    def energy(wave: jax.Array) -> jax.Array:
        seen = jax.vmap(lambda A: A(wave))(inputs.operators)
        return jnp.square(jnp.abs(seen)).sum(tuple(range(1, seen.ndim)))

    responses = jax.lax.map(energy, waves).T
    responses = responses / (responses.max(1, keepdims=True) + 1e-12)
    y = inputs.measurements
    axes = tuple(range(1, y.ndim))
    rough = jnp.square(jnp.abs(jnp.diff(y, axis=-1))).sum(axes)
    rough = jnp.log((rough + 1e-6) / (jnp.square(jnp.abs(y)).sum(axes) + 1e-6))
    return jnp.concatenate([responses, rough[:, None]], -1)


class ConditionedVarNet(nn.Module):
    """`VarNet` whose normalization layers are scaled and shifted by `scanner_features` of each example.

    One model for all scanners, and for one that was never seen, in place of one model a site: the features go
    through a hidden layer that all cascades share, and each normalization layer has a linear map of it, which
    starts at zero. After the line of hypernetworks for scanners (HyperFed, Yang et al. 2023; SCAN-PhysFed,
    Yang et al. 2025), whose vectors are tables of settings; here the operator itself is asked.

    Attributes:
      cascades, channels, pools, remat: as in `VarNet`.
      hidden: features of the hidden layer.
    """

    cascades: int
    channels: int
    pools: int
    hidden: int = 16
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        operators: LinearOperator,
        measurements: jax.Array,
        initial: jax.Array | None = None,
        train: bool = False,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Reconstructs a batch of images; arguments and result as in ``VarNet``."""
        inputs = cascade_inputs(operators, measurements, train, valid, normalized=True)
        state = start_image(inputs, initial)
        condition = nn.relu(nn.Dense(self.hidden, name="scanner")(scanner_features(inputs)))

        def step(cascade: nn.Module, x: jax.Array, inputs: CascadeInputs) -> jax.Array:
            norm = partial(ModulatedNorm, condition)
            regularizer = UNetRegularizer(
                self.channels, self.pools, norm, joint_deviation=False, parent=None, name="regularizer"
            )
            return regularized(gradient_step(), regularizer, "parallel")(cascade, x, inputs)

        return unroll(step, state, inputs, self.cascades, remat=self.remat)
