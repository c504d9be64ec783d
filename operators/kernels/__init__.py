"""Compiled CPU kernels, batched JAX primitives and the convolution of networks."""

from operators.kernels import native
from operators.kernels.batched import batch_length, call, over_trajectories, register, sum_to
from operators.kernels.convolution import (
    Pads,
    convolve,
    input_gradient,
    kernel_gradient,
    plain_convolution,
    plain_input_gradient,
    plain_kernel_gradient,
)
from operators.kernels.native import backends, prepare

__all__ = [
    "Pads",
    "backends",
    "batch_length",
    "call",
    "convolve",
    "input_gradient",
    "kernel_gradient",
    "native",
    "over_trajectories",
    "plain_convolution",
    "plain_input_gradient",
    "plain_kernel_gradient",
    "prepare",
    "register",
    "sum_to",
]
