"""The adapters of libraries on torch; see :mod:`benchmarks.mri.libraries`."""

import functools
import math
import os

import numpy as np

from benchmarks.measure import Operation
from benchmarks.mri.problems import MRIProblem


def _torch():
    import torch

    torch.set_num_threads(os.cpu_count())
    # Says what is the default, which otherwise is warned of.
    torch.sparse.check_sparse_tensor_invariants.disable()
    return torch


def _torch_operations(forward, adjoint, x, y, toeplitz) -> dict[str, list[Operation]]:
    torch = _torch()

    def without_graph(function, *arguments):
        def call():
            with torch.no_grad():
                return function(*arguments)

        return call

    leaf = x.clone().requires_grad_()

    def gradient():
        residual = torch.view_as_real(forward(leaf) - y)
        return torch.autograd.grad(residual.square().sum(), leaf)[0]

    return {
        "forward": [Operation(without_graph(forward, x))],
        "adjoint": [Operation(without_graph(adjoint, y))],
        "gram": [
            Operation(without_graph(lambda: adjoint(forward(x))), route="adjoint of forward"),
            Operation(without_graph(toeplitz, x), route="Toeplitz"),
        ],
        "gradient": [Operation(gradient)],
    }


def pytorch_finufft(problem: MRIProblem, eps: float) -> dict[str, list[Operation]]:
    """``finufft_type2`` and ``finufft_type1`` by trajectory; the Toeplitz gram by torch's FFTs."""
    torch = _torch()
    from pytorch_finufft.functional import finufft_type1, finufft_type2

    shape, axes = problem.shape, tuple(range(-len(problem.shape), 0))
    radians = 2 * np.pi * problem.trajectory.astype(np.float64)
    points = [torch.from_numpy(np.ascontiguousarray(p.T, np.float32)) for p in radians]
    maps = torch.from_numpy((problem.maps / math.sqrt(math.prod(shape))).astype(np.complex64))
    x, y = torch.from_numpy(problem.image), torch.from_numpy(problem.samples)

    def forward(x):
        images = x[:, :, None] * maps
        values = [
            finufft_type2(p, image, eps=eps, isign=-1, modeord=0)
            for p, image in zip(points, images, strict=True)
        ]
        return torch.stack(values)

    def adjoint(y):
        images = [
            finufft_type1(p, value, shape, eps=eps, isign=1, modeord=0)
            for p, value in zip(points, y, strict=True)
        ]
        return (torch.stack(images) * maps.conj()).sum(2)

    @functools.cache
    def kernel():
        twice = tuple(2 * n for n in shape)
        ones = torch.ones(problem.samples.shape[-1], dtype=torch.complex64)
        lags = [finufft_type1(p, ones, twice, eps=eps, isign=1, modeord=1) for p in points]
        return torch.fft.fftn(torch.stack(lags), dim=axes)[:, None, None]

    def toeplitz(x):
        spectrum = torch.fft.fftn(x[:, :, None] * maps, s=tuple(2 * n for n in shape), dim=axes)
        images = torch.fft.ifftn(spectrum * kernel(), dim=axes)[..., *(slice(n) for n in shape)]
        return (images * maps.conj()).sum(2)

    return _torch_operations(forward, adjoint, x, y, toeplitz)


def torchkbnufft(
    problem: MRIProblem, numpoints: int, oversampling: float, table: int, sparse: bool = False
) -> dict[str, list[Operation]]:
    """The modules with coil maps, by table or by sparse matrix, and ``ToepNufft``."""
    torch = _torch()
    import torchkbnufft as library

    frames = len(problem.trajectory)
    shape = problem.shape
    if sparse and len(shape) > 2:
        raise ValueError("sparse matrices in three dimensions take many gigabytes")
    options = {
        "im_size": shape,
        "grid_size": tuple(2 * math.ceil(oversampling * n / 2) for n in shape),
        "numpoints": numpoints,
        "table_oversamp": table,
    }
    radians = 2 * np.pi * problem.trajectory.astype(np.float64)
    omega = torch.from_numpy(np.ascontiguousarray(np.moveaxis(radians, 2, 1), np.float32))
    omega = omega[0] if frames == 1 else omega
    maps = torch.from_numpy((problem.maps / math.sqrt(math.prod(shape))).astype(np.complex64))[None]
    # Images or trajectories are the batch; of the channels, the image has one and the samples have the coils.
    x = torch.from_numpy(problem.image.reshape(-1, 1, *shape))
    y = torch.from_numpy(problem.samples.reshape(-1, *problem.samples.shape[2:]))
    A, AH, gram = library.KbNufft(**options), library.KbNufftAdjoint(**options), library.ToepNufft()

    def transform(module, arrays):
        if not sparse:
            return module(arrays, omega, smaps=maps)
        parts = [
            module(part, points, interp_mats=m, smaps=maps)
            for part, points, m in zip(arrays.chunk(frames), each, matrices, strict=True)
        ]
        return torch.cat(parts)

    if sparse:
        each = omega[None] if frames == 1 else omega
        matrices = [library.calc_tensor_spmatrix(points, **options) for points in each]
    forward, adjoint = functools.partial(transform, A), functools.partial(transform, AH)
    kernel = functools.cache(lambda: library.calc_toeplitz_kernel(omega, **options))
    # With one kernel for all images it takes as many images as there are sets of maps.
    sets = maps.expand(len(x), *maps.shape[1:])
    return _torch_operations(forward, adjoint, x, y, lambda x: gram(x, kernel(), smaps=sets))
