"""fedrecon and its peers behind one interface: how each library computes the operations of a problem.

An adapter takes a problem and an accuracy setting, converts the inputs to the library's own arrays, plans
what the library lets one plan, and returns by operation (``forward``, ``adjoint``, ``gram`` and
``gradient``) its routes, of which the benchmark takes the fastest. Operations a library does not offer are
left out. What is expensive and not needed for the forward operation is made at the first call, outside the
timing. Libraries with a normalization of their own have it folded into the coil maps: it costs nothing.
"""

import dataclasses
import functools
import importlib.util
import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import operators
from benchmarks.measure import Operation
from benchmarks.mri.problems import MRIProblem

Operations = dict[str, list[Operation]]

# Requested tolerances, from loose to tight, the same for all libraries that take one.
TOLERANCES = tuple({"eps": eps} for eps in (5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5, 3e-6, 1e-6))


@dataclasses.dataclass(frozen=True)
class Library:
    """An adapter.

    Attributes:
      operations: makes the operations of a problem at a setting.
      settings: keyword arguments of ``operations``, from cheap to accurate.
      packages: distributions whose versions are recorded.
      modules: what must be importable.
      cartesian: it takes problems on a Cartesian grid, and no others; None: it takes both.
      absent: why operations are left out, by operation.
    """

    operations: Callable[..., Operations]
    settings: tuple[dict[str, Any], ...]
    packages: tuple[str, ...]
    modules: tuple[str, ...] = ()
    cartesian: bool | None = False
    absent: dict[str, str] = dataclasses.field(default_factory=dict)

    def missing(self) -> list[str]:
        """The modules that are not installed."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]


def _energy(x):
    return jnp.sum(x.real**2 + x.imag**2)


def _jitted(function, *arguments):
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*arguments))


def _jax_operations(forward, adjoint, constants, image, samples) -> Operations:
    """The operations of ``forward(constants, x)`` and ``adjoint(constants, y)``."""
    x, y, constants = jax.tree.map(jnp.asarray, (image, samples, constants))

    def gram(constants, x):
        return adjoint(constants, forward(constants, x))

    def loss(x, constants, y):
        return _energy(forward(constants, x) - y)

    return {
        "forward": [Operation(_jitted(forward, constants, x))],
        "adjoint": [Operation(_jitted(adjoint, constants, y))],
        "gram": [Operation(_jitted(gram, constants, x), route="adjoint of forward")],
        # The gradient of a real function is the conjugate of JAX's.
        "gradient": [Operation(_jitted(jax.grad(loss), x, constants, y), np.conj)],
    }


def fedrecon(problem: MRIProblem, eps: float = 1e-3, backend: str = "auto") -> Operations:
    """``SENSE`` of ``NUFFT`` or ``CartesianFourier``; the gram directly and by Toeplitz embedding."""
    maps, shape = jnp.asarray(problem.maps), problem.shape
    x = problem.image.reshape(*problem.lead, *shape)
    y = problem.samples.reshape(*problem.lead, *problem.samples.shape[2:])

    def gram(A, x):
        return A.gram(x)

    if problem.trajectory is None:
        A = operators.SENSE(operators.CartesianFourier(shape, mask=jnp.asarray(problem.mask)), maps)
        made = _jax_operations(lambda A, x: A(x), lambda A, y: A.H(y), A, x, y)
        made["gram"] = [Operation(_jitted(gram, A, jnp.asarray(x)))]
        return made
    points = jnp.asarray(problem.trajectory[0] if len(problem.trajectory) == 1 else problem.trajectory)

    def operator(points, toeplitz):
        fourier = operators.NUFFT(points, shape, eps=eps, backend=backend, gram_by_toeplitz=toeplitz)
        return operators.SENSE(fourier, maps)

    A = operator(points, False)
    made = _jax_operations(lambda A, x: A(x), lambda A, y: A.H(y), A, x, y)
    x, y = jnp.asarray(x), jnp.asarray(y)
    embedded = functools.cache(lambda: operator(points, True))
    run = jax.jit(gram)
    made["gram"].append(Operation(lambda: jax.block_until_ready(run(embedded(), x)), route="Toeplitz"))

    def moved(points, x, y):
        return _energy(operator(points, False)(x) - y)

    made["trajectory gradient"] = [Operation(_jitted(jax.grad(moved), points, x, y))]
    # What back-propagation through a gram adds: its cotangent pulled back.
    slope = jax.jit(lambda A, x: jax.vjp(A.gram, x)[1](x)[0])
    made["gram gradient"] = [
        Operation(lambda: jax.block_until_ready(slope(A, x)), np.conj, "adjoint of forward"),
        Operation(lambda: jax.block_until_ready(slope(embedded(), x)), np.conj, "Toeplitz"),
    ]
    return made


def jax_finufft(problem: MRIProblem, eps: float) -> Operations:
    """All images and coils in one call; trajectories broadcast by the library itself."""
    from jax_finufft import nufft1, nufft2

    shape, ndim = problem.shape, len(problem.shape)
    # Images of one trajectory and coils are one axis; a second one is that of trajectories.
    batch = (-1,) if len(problem.trajectory) == 1 else (len(problem.trajectory), len(problem.maps))

    def forward(constants, x):
        points, maps = constants
        planes = (x[..., None, *[slice(None)] * ndim] * maps).reshape(*batch, *shape)
        return nufft2(planes, *points, iflag=-1, eps=eps).reshape(*x.shape[:-ndim], len(maps), -1)

    def adjoint(constants, y):
        points, maps = constants
        planes = nufft1(shape, y.reshape(*batch, y.shape[-1]), *points, iflag=1, eps=eps)
        return jnp.sum(maps.conj() * planes.reshape(*y.shape[:-1], *shape), axis=-1 - ndim)

    points = _radians(problem)
    points = points[0] if len(points) == 1 else np.moveaxis(points[:, :, None], 1, 0)
    return _jax_operations(forward, adjoint, (tuple(points), _scaled_maps(problem)), *_squeezed(problem))


def nufftax(problem: MRIProblem, eps: float, upsampfac: float) -> Operations:
    """All images and coils in one call, axes in its order (kx, ky); ``vmap`` over trajectories."""
    import nufftax as library

    shape, ndim = problem.shape, len(problem.shape)
    type1, type2 = (getattr(library, f"nufft{ndim}d{kind}") for kind in (1, 2))
    options = {"eps": eps, "upsampfac": upsampfac}

    def forward(constants, x):
        points, maps = constants
        planes = (x[..., None, *[slice(None)] * ndim] * maps).reshape(-1, *shape)
        return type2(*points, planes, isign=-1, **options).reshape(*x.shape[:-ndim], len(maps), -1)

    def adjoint(constants, y):
        points, maps = constants
        planes = type1(*points, y.reshape(-1, y.shape[-1]), shape[::-1], isign=1, **options)
        return jnp.sum(maps.conj() * planes.reshape(*y.shape[:-1], *shape), axis=-1 - ndim)

    points = _radians(problem)[:, ::-1]
    if len(points) == 1:
        points = points[0]
    else:
        points = np.moveaxis(points, 1, 0)
        forward, adjoint = (jax.vmap(f, ((0, None), 0)) for f in (forward, adjoint))
    return _jax_operations(forward, adjoint, (tuple(points), _scaled_maps(problem)), *_squeezed(problem))


def _planned_operations(problem, transforms) -> Operations:
    """The operations of ``(type2(images, out), type1(samples, out))`` of every trajectory."""
    _, images, coils, count = problem.samples.shape
    maps, conjugate = _scaled_maps(problem), _scaled_maps(problem).conj()
    planes = np.empty((images, coils, *problem.shape), np.complex64)
    samples = np.empty_like(problem.samples)

    def forward():
        for t, (type2, _) in enumerate(transforms):
            np.multiply(problem.image[t][:, None], maps, out=planes)
            type2(planes.reshape(-1, *problem.shape), samples[t].reshape(-1, count))
        return samples

    def adjoint(values=problem.samples):
        result = np.empty_like(problem.image)
        for t, (_, type1) in enumerate(transforms):
            type1(values[t].reshape(-1, count), planes.reshape(-1, *problem.shape))
            np.multiply(planes, conjugate, out=planes)
            planes.sum(axis=1, out=result[t])
        return result

    return {
        "forward": [Operation(forward)],
        "adjoint": [Operation(adjoint)],
        "gram": [Operation(lambda: adjoint(forward()), route="adjoint of forward")],
    }


def finufft(problem: MRIProblem, eps: float) -> Operations:
    """One plan per trajectory and direction, all images and coils in one call; all threads by default."""
    import finufft as library

    count = math.prod(problem.samples.shape[1:3])

    def transforms(points):
        plans = []
        for kind, sign in ((2, -1), (1, 1)):
            plan = library.Plan(kind, problem.shape, count, eps=eps, isign=sign, dtype="complex64")
            plan.setpts(*(np.ascontiguousarray(p) for p in points))
            plans.append(plan)

        def run(plan, array, out):
            # Plans for one transform want no axis of transforms.
            plan.execute(array[0], out[0]) if count == 1 else plan.execute(array, out)

        return functools.partial(run, plans[0]), functools.partial(run, plans[1])

    return _planned_operations(problem, [transforms(points) for points in _radians(problem)])


def ducc0(problem: MRIProblem, eps: float) -> Operations:
    """One plan per trajectory and direction, with the period of the positions set to one."""
    import ducc0.nufft

    def transforms(points):
        options = {
            "coord": points,
            "grid_shape": problem.shape,
            "epsilon": eps,
            "nthreads": os.cpu_count(),
            "periodicity": 1.0,
            "fft_order": False,
        }
        type2 = ducc0.nufft.plan(nu2u=False, **options)
        type1 = ducc0.nufft.plan(nu2u=True, **options)
        return (
            lambda images, out: type2.u2nu(forward=True, grid=images, out=out),
            lambda samples, out: type1.nu2u(forward=False, points=samples, out=out),
        )

    return _planned_operations(problem, [transforms(points) for points in problem.trajectory])


def sigpy(problem: MRIProblem, oversamp: float = 1.25, width: int = 4) -> Operations:
    """Linops; the normal operator both composed and by the Toeplitz option."""
    import sigpy as library

    images = problem.samples.shape[1]
    linop = library.linop
    if problem.trajectory is None:
        S = linop.Multiply((images, 1, *problem.shape), problem.maps)
        F = linop.FFT(S.oshape, axes=(-2, -1))
        A = [linop.Multiply(F.oshape, problem.mask) * F * S]
        grams = {"adjoint of forward": [a.H * a for a in A]}
    else:
        S = linop.Multiply((images, 1, *problem.shape), problem.maps)
        coords = [(points * np.array(problem.shape, np.float32)) for points in problem.trajectory]
        options = {"oversamp": oversamp, "width": width}
        A = [linop.NUFFT(S.oshape, coord, **options) * S for coord in coords]
        embedded = functools.cache(
            lambda: [S.H * linop.NUFFT(S.oshape, c, toeplitz=True, **options).N * S for c in coords]
        )
        grams = {"adjoint of forward": [a.H * a for a in A], "Toeplitz": embedded}
    adjoints = [a.H for a in A]
    x = problem.image[:, :, None]

    def apply(linops, arrays):
        linops = linops() if callable(linops) else linops
        return [linop(array) for linop, array in zip(linops, arrays, strict=True)]

    return {
        "forward": [Operation(lambda: apply(A, x), np.stack)],
        "adjoint": [Operation(lambda: apply(adjoints, problem.samples), np.stack)],
        "gram": [
            Operation(functools.partial(apply, linops, x), np.stack, route) for route, linops in grams.items()
        ],
    }


def mri_nufft(problem: MRIProblem, eps: float) -> Operations:
    """The finufft backend with all coils in one plan; the gram also as ``data_consistency`` with zeros."""
    import mrinufft

    images, coils = problem.samples.shape[1:3]
    norm = math.sqrt(2 ** len(problem.shape))

    def operator(points):
        with warnings.catch_warnings():
            # It announces that it takes positions for cycles/pixel.
            warnings.simplefilter("ignore")
            return mrinufft.get_operator("finufft")(
                points,
                problem.shape,
                n_coils=coils,
                n_batchs=images,
                n_trans=coils,
                smaps=np.ascontiguousarray(problem.maps * np.float32(norm)),
                eps=eps,
            )

    A = [operator(points) for points in problem.trajectory]
    x, y = problem.image[:, :, None], problem.samples
    nothing = np.zeros_like(y)

    def gram():
        return [a.adj_op(a.op(image)) for a, image in zip(A, x, strict=True)]

    def consistency():
        return [a.data_consistency(image, zero) for a, image, zero in zip(A, x, nothing, strict=True)]

    return {
        "forward": [Operation(lambda: [a.op(image) for a, image in zip(A, x, strict=True)], np.stack)],
        "adjoint": [Operation(lambda: [a.adj_op(v) for a, v in zip(A, y, strict=True)], np.stack)],
        "gram": [
            Operation(gram, np.stack, "adjoint of forward"),
            Operation(consistency, np.stack, "data_consistency"),
        ],
    }


def scipy(problem: MRIProblem) -> Operations:
    """By hand: scipy's FFT of all coils in all threads, shifts as in the definition."""
    import scipy.fft

    maps, conjugate, mask = problem.maps, problem.maps.conj(), problem.mask
    axes, scale = (-2, -1), np.float32(1 / math.sqrt(math.prod(problem.shape)))

    def forward():
        shifted = scipy.fft.ifftshift(maps * problem.image[:, :, None], axes)
        kspace = scipy.fft.fft2(shifted, workers=os.cpu_count(), overwrite_x=True)
        return scipy.fft.fftshift(kspace, axes) * (scale * mask)

    def adjoint(samples=problem.samples):
        shifted = scipy.fft.ifftshift(samples * (mask / scale), axes)
        images = scipy.fft.ifft2(shifted, workers=os.cpu_count(), overwrite_x=True)
        return np.sum(conjugate * scipy.fft.fftshift(images, axes), axis=2)

    return {
        "forward": [Operation(forward)],
        "adjoint": [Operation(adjoint)],
        "gram": [Operation(lambda: adjoint(forward()), route="adjoint of forward")],
    }


def plain_jnp(problem: MRIProblem) -> Operations:
    """By hand: jnp's FFT and shifts, compiled."""
    axes, scale = (-2, -1), 1 / math.sqrt(math.prod(problem.shape))

    def forward(constants, x):
        maps, mask = constants
        kspace = jnp.fft.fft2(jnp.fft.ifftshift(maps * x[..., None, :, :], axes))
        return scale * mask * jnp.fft.fftshift(kspace, axes)

    def adjoint(constants, y):
        maps, mask = constants
        images = jnp.fft.fftshift(jnp.fft.ifft2(jnp.fft.ifftshift(mask / scale * y, axes)), axes)
        return jnp.sum(maps.conj() * images, axis=-3)

    return _jax_operations(forward, adjoint, (problem.maps, problem.mask), *_squeezed(problem))


def _radians(problem):
    """(T, ndim, M) float32: rounded once."""
    return np.ascontiguousarray(
        np.moveaxis(2 * np.pi * problem.trajectory.astype(np.float64), 2, 1), np.float32
    )


def _scaled_maps(problem):
    return (problem.maps / math.sqrt(math.prod(problem.shape))).astype(np.complex64)


def _squeezed(problem):
    """Image and samples without the axes of one trajectory or one image."""
    return (
        problem.image.reshape(*problem.lead, *problem.shape),
        problem.samples.reshape(*problem.lead, *problem.samples.shape[2:]),
    )
