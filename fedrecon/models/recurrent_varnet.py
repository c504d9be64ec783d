"""Recurrent variational network: gradient steps, and a convolutional recurrent unit that remembers."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models.convolutions import Conv
from fedrecon.models.data_steps import sampled, start_kspace
from fedrecon.models.e2e_varnet import expanded, reduced
from fedrecon.models.regularizers import bind, from_channels, to_channels
from fedrecon.models.unrolled import CascadeInputs, cascade_inputs, start_image, unroll
from operators import SENSE, CartesianFourier, LinearOperator, fft2c, ifft2c, rss


class DilatedConv(nn.Module):
    """A convolution whose taps are ``dilation`` pixels apart; outside, the image is its nearest pixel.

    Attributes:
      features: output features.
      width: taps along each axis, odd.
      dilation: pixels between taps.
      zero: starts at zero.
    """

    features: int
    width: int = 3
    dilation: int = 1
    zero: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (examples, ny, nx, features_in) to (examples, ny, nx, features)."""
        d, (n, ny, nx, _) = self.dilation, x.shape
        pad = d * (self.width // 2)
        x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
        init = nn.initializers.zeros if self.zero else nn.initializers.he_normal()
        conv = Conv(self.features, self.width, padding="VALID", kernel_init=init, name="conv")
        if d == 1:
            return conv(x)
        # Each phase of the grid is an image of its own, whose neighbors are the taps.
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % d), (0, -x.shape[2] % d), (0, 0)))
        x = x.reshape(n, x.shape[1] // d, d, x.shape[2] // d, d, -1).transpose(0, 2, 4, 1, 3, 5)
        y = conv(x.reshape(n * d * d, *x.shape[3:]))
        y = y.reshape(n, d, d, *y.shape[1:]).transpose(0, 3, 1, 4, 2, 5)
        return y.reshape(n, y.shape[1] * d, y.shape[3] * d, -1)[:, :ny, :nx]


class ConvolutionalGRU(nn.Module):
    """Convolutions with a gated recurrent unit after each, which sees single pixels.

    The first convolution is 5 pixels wide, the second has a dilation of 2; a last one, which starts at zero,
    gives the output. Gates start orthogonal, and the reset gate at a bias of -1.

    Attributes:
      features: of the hidden state.
      layers: number of recurrent units, n_l.
    """

    features: int
    layers: int

    @nn.compact
    def __call__(self, x: jax.Array, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(image, hidden) -> (correction, hidden).

        Args:
          x: (examples, ny, nx, channels).
          hidden: (layers, examples, ny, nx, features).
        """
        channels, states = x.shape[-1], []
        for i in range(self.layers):
            x = nn.relu(DilatedConv(self.features, *_window(i), name=f"conv{i}")(x))
            both = jnp.concatenate([x, hidden[i]], -1)
            update = nn.sigmoid(self._gate(f"update{i}", both, 0.0))
            reset = nn.sigmoid(self._gate(f"reset{i}", both, -1.0))
            new = jnp.tanh(self._gate(f"new{i}", jnp.concatenate([x, hidden[i] * reset], -1), 0.0))
            states.append(hidden[i] * (1 - update) + new * update)
            x = nn.relu(states[-1])
        last = DilatedConv(channels, *_window(self.layers), zero=True, name=f"conv{self.layers}")
        return last(x), jnp.stack(states)

    def _gate(self, name: str, x: jax.Array, bias: float) -> jax.Array:
        kernel, offset = nn.initializers.orthogonal(), nn.initializers.constant(bias)
        return Conv(self.features, 1, kernel_init=kernel, bias_init=offset, name=name)(x)


def _window(layer: int) -> tuple[int, int]:
    """(width, dilation) of the convolution of a layer."""
    return 5 if layer == 0 else 3, 2 if layer == 1 else 1


class HiddenStart(nn.Module):
    """The hidden state before the first step, of the measurement: dilated convolutions, one output a layer.

    Attributes:
      features, layers: of the hidden state.
      channels, dilations: of the convolutions.
      scales: how many of the last ones the outputs see.
    """

    features: int
    layers: int
    channels: Sequence[int] = (32, 32, 64, 64)
    dilations: Sequence[int] = (1, 1, 2, 4)
    scales: int = 3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(examples, ny, nx, channels) -> (layers, examples, ny, nx, features)."""
        seen = []
        for i, (channels, dilation) in enumerate(zip(self.channels, self.dilations, strict=True)):
            x = nn.relu(DilatedConv(channels, 3, dilation, name=f"conv{i}")(x))
            seen.append(x)
        x = jnp.concatenate(seen[-self.scales :], -1)
        return jnp.stack([nn.relu(Conv(self.features, 1, name=f"out{i}")(x)) for i in range(self.layers)])


class _State(NamedTuple):
    iterate: jax.Array
    hidden: jax.Array


class RecurrentVarNet(nn.Module):
    """Gradient descent on the data term with a recurrent unit in place of a regularizer.

    ``k <- k - alpha_t M (k - y) + F S w_t`` with ``w_t, h = G_t(sum_c conj(S_c) F^-1 k_c, h)`` for
    t = 1 ... cascades: G_t is a `ConvolutionalGRU`, h its hidden state, which starts at `HiddenStart` of the
    Fourier transform of A^H y. Coil maps are those of the operators. Defaults are those of the publication
    (DIRECT's Calgary-Campinas configuration).

    Iterates are k-space of all coils for ``SENSE`` of ``CartesianFourier``, and the result is the root of the
    sum of squares over coils, as in the publication. For other operators iterates are images,
    ``x <- x - alpha_t (A^H A x - A^H y) / |A|^2 + w_t`` (`squared_norms`), h starts from A^H y, and the
    result is the last one.

    Attributes:
      cascades: number of unrolled steps, T.
      channels: features of the hidden state.
      layers: recurrent units of a step, n_l.
      learned_start: whether h starts at `HiddenStart`; else at zero.
      shared: uses one step size and one unit in all steps.
      remat: recomputes each step in the backward pass, which stores one state per step only.
      start_channels, start_scales: ``channels`` and ``scales`` of `HiddenStart`.

    Source: Yiasemis et al., CVPR 2022, arXiv:2111.09639.
    """

    cascades: int = 15
    channels: int = 64
    layers: int = 4
    learned_start: bool = True
    shared: bool = False
    remat: bool = False
    start_channels: Sequence[int] = (32, 32, 64, 64)
    start_scales: int = 3

    @nn.compact
    def __call__(
        self,
        operators: LinearOperator,
        measurements: jax.Array,
        initial: jax.Array | None = None,
        train: bool = False,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Reconstructs a batch of images.

        Args:
          operators: stacked leaf by leaf: every array leaf has a leading batch axis.
          measurements: (batch, *out_shape).
          initial: (batch, ny, nx) to start from, where iterates are images; None for A^H y.
          train, valid: change nothing.

        Returns:
          (batch, ny, nx); real and not negative where iterates are k-space, else of the operator's dtype.

        Raises:
          ValueError: the operators do not act on images, or ``initial`` has a wrong shape or place.
        """
        inputs = cascade_inputs(operators, measurements, train, valid, normalized=True)
        image = start_image(inputs, initial)
        if image.ndim != 3:
            raise ArgumentError("in_shape", "images (ny, nx)", image.shape[1:])
        in_kspace = isinstance(operators, SENSE) and isinstance(operators.fourier, CartesianFourier)
        if in_kspace and initial is not None:
            raise ArgumentError("initial", "None: iterates are k-space", initial.shape)
        seen = to_channels(fft2c(image) if in_kspace else image)
        hidden = jnp.zeros((self.layers, *image.shape, self.channels), seen.dtype) + 0 * seen[None, ..., :1]
        if self.learned_start:
            starts, scales = self.start_channels, self.start_scales
            start = HiddenStart(self.channels, self.layers, starts, scales=scales, name="start")
            hidden = start(seen)

        def step(cascade: nn.Module, state: _State, inputs: CascadeInputs) -> _State:
            size = cascade.param("step", nn.initializers.ones, ())
            unit = bind(ConvolutionalGRU(self.channels, self.layers, parent=None), cascade, "unit")
            error, image, moved = _kspace_terms if in_kspace else _image_terms
            x = image(state.iterate, inputs)
            w, hidden = unit(to_channels(x), state.hidden)
            new = state.iterate - size * error(state.iterate, inputs)
            return _State(new + moved(from_channels(w, x.dtype), inputs), hidden)

        state = _State(start_kspace(inputs, None) if in_kspace else image, hidden)
        last = unroll(step, state, inputs, self.cascades, shared=self.shared, remat=self.remat).iterate
        return rss(ifft2c(last), axis=1) if in_kspace else last


# What the data term pulls back, the image that the unit sees, and what its correction is of the iterate.
_kspace_terms = (
    lambda k, inputs: jnp.where(jax.vmap(sampled)(inputs.operators)[:, None], k - inputs.measurements, 0),
    lambda k, inputs: reduced(k, inputs.operators.coil_maps),
    lambda w, inputs: expanded(w, inputs.operators.coil_maps),
)
_image_terms = (
    lambda x, inputs: inputs.gradient(x),
    lambda x, inputs: x,
    lambda w, inputs: w,
)
