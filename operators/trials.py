"""Self-test of a native library, in a process of its own, before it is used."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operators.ct import ConeBeam, FanBeam, as_vectors
from operators.ct.geometry.image_grid import image_grid
from operators.ct.inversion import back_projector
from operators.ct.projection import planes, projector_primitive, volume_primitive
from operators.ct.projection.lines import MODELS, ray_lines, shadows
from operators.fourier import cartesian_primitive, smooth_size, toeplitz
from operators.fourier.nufft_kernel import choose_layout
from operators.kernels import convolution, native
from operators.kernels.native import build


def try_library(name: str, path: str, precision: str) -> None:
    """Applies the library at ``path`` to random arrays; raises RuntimeError unless the results are right."""
    jax.config.update("jax_enable_x64", precision == "float64")
    build.register(name, path, precision)
    trials = {
        "nufft": _try_nufft,
        "projector": _try_projector,
        "backprojector": _try_back_projector,
        "volume": _try_volume,
        "convolution": _try_convolution,
    }
    trials[name](precision)


def _try_convolution(precision: str) -> None:
    rng = np.random.default_rng(0)
    # Few and many features, whole vectors and not, rows of one block and of several.
    for images, kernel, stride, pads in (
        ((2, 9, 30), (3, 3, 2, 8), 1, ((1, 1), (1, 1))),
        ((1, 7, 13), (5, 4, 9, 39), 1, ((2, 0), (1, 3))),
        ((3, 8, 6), (3, 3, 20, 68), 2, ((0, 1), (1, 1))),
        ((1, 40, 33), (1, 1, 12, 3), 3, ((0, 0), (0, 0))),
        # By tiles, some of them at the border.
        ((3, 22, 19), (3, 3, 24, 40), 1, ((1, 1), (0, 2))),
        ((2, 21, 30), (5, 5, 16, 32), 1, ((2, 2), (2, 2))),
    ):
        x = rng.normal(size=(2, *images, kernel[2])).astype(precision)
        kernels = rng.normal(size=(2, *kernel)).astype(precision)

        def apply(backend, kernels, x, stride=stride, pads=pads):
            def convolve(kernels, x):
                return convolution.convolve(kernels, x, (stride, stride), pads, backend)

            y, gradients = jax.vjp(convolve, kernels, x)
            return y, *gradients(jax.numpy.cos(y))

        found, exact = (jax.jit(apply, static_argnums=0)(backend, kernels, x) for backend in ("force", "jax"))
        names = ("convolution", "gradient of kernels", "gradient of images")
        for what, a, b in zip(names, found, exact, strict=True):
            _compare(a, b, 1e-4, f"{what} of shape {kernel}")


def _try_volume(precision: str) -> None:
    rng = np.random.default_rng(0)
    angles = np.array([0.1, 0.9, 2.0, 4.1], precision)
    # Rows about as close as voxels, of which some see a part of the volume alone, and farther apart.
    for shape, detector, spacing, names in (
        ((40, 5, 8), (33, 9), 1.4, ("joseph", "distance-driven", "vectors")),
        ((7, 9, 5), (5, 6), 4.0, ("distance-driven",)),
    ):
        cone = ConeBeam(angles, detector, (spacing, 1.7), 30.0, 15.0, row_offset=1.0, pitch=2.0)
        for name in names:
            geometry = as_vectors(cone) if name == "vectors" else cone
            model = "diverging" if name == "vectors" else name
            table = planes.ray_planes(geometry, image_grid(shape, 0.9, None, "trial"), model)[None]
            layout = volume_primitive.Layout(model, shape, detector, 0.9)
            volume = rng.normal(size=(1, 2, *shape)).astype(precision)
            sinogram = rng.normal(size=(1, 2, *geometry.shape)).astype(precision)

            def apply(backend, table, volume, sinogram, layout=layout):
                projected = volume_primitive.project(backend, layout, table, volume)
                return projected, volume_primitive.back_project(backend, layout, table, sinogram)

            found, exact = (
                jax.jit(apply, static_argnums=0)(backend, table, volume, sinogram)
                for backend in ("force", "jax")
            )
            for what, a, b in zip(("projection", "back-projection"), found, exact, strict=True):
                _compare(a, b, 1e-4, f"{model} {what} of shape {shape}")


def _try_back_projector(precision: str) -> None:
    rng = np.random.default_rng(0)
    views = 3
    # A short row, and one longer than any vector, at coarse and at fine steps.
    for shape, rows, columns, step in (
        ((1, 9, 21), 1, 12, 0.6),
        ((1, 5, 40), 1, 70, 1.7),
        ((21, 6, 7), 50, 40, 2.1),
    ):
        for curved in (False, True):
            poses = rng.uniform(-0.02, 0.02, (1, views, 7)) + np.array([0.03, 0, 0, 0, 0, 1, 0.4])
            detector = np.array([[step / 0.03, columns / 2 + 0.3, step, rows / 2 - 0.4]])
            weights = rng.uniform(0.5, 1, (1, views, shape[0]))
            operands = [a.astype(precision) for a in (poses, detector, weights)]
            sinogram = rng.normal(size=(1, 2, views, rows, columns)).astype(precision)

            def apply(backend, *arrays, shape=shape, curved=curved):
                *operands, sinogram = arrays

                def gather(y):
                    return back_projector.back_project(*operands, y, shape, curved, backend)

                volume = gather(sinogram)
                return volume, jax.linear_transpose(gather, sinogram)(volume)[0]

            found, exact = (
                jax.jit(apply, static_argnums=0)(backend, *operands, sinogram) for backend in ("force", "jax")
            )
            for what, a, b in zip(("back-projection", "its transpose"), found, exact, strict=True):
                _compare(a, b, 1e-4, f"{what} of shape {shape}")


def _try_projector(precision: str) -> None:
    rng = np.random.default_rng(0)
    # Eighteen images: some side by side, the last two one by one.
    shape, images = (20, 17), 18
    geometry = FanBeam(np.linspace(0.1, 6, 5).astype(precision), 41, 0.9, 20.0, 9.0)
    grid = image_grid(shape, 1.0, None, "trial")
    seen, curved = shadows(geometry, grid)
    for model in MODELS:
        rays, lengths = ray_lines(geometry, grid, model)
        image = rng.normal(size=(1, images, *shape)).astype(precision)
        sinogram = rng.normal(size=(1, images, *geometry.shape)).astype(precision)
        for name, array in (("project", image), ("back_project", sinogram)):
            function = getattr(projector_primitive, name)
            found, exact = (
                jax.jit(functools.partial(function, backend, shape, curved))(
                    rays[None], lengths[None], seen[None], array
                )
                for backend in ("force", "jax")
            )
            _compare(found, exact, 1e-4, f"{name} by the {model} model")


def _try_nufft(precision: str) -> None:
    rng = np.random.default_rng(0)
    for shape, coils in (((9,), 4), ((12, 7), 1), ((12, 7), 9), ((5, 6, 7), 2)):
        points = rng.uniform(-0.5, 0.5, (1, 30, len(shape))).astype(precision)
        layout = choose_layout(shape, 30, 1e-4, precision == "float64")
        kind = np.result_type(precision, np.complex64)
        grid = np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij")
        phases = np.exp(-2j * np.pi * np.tensordot(points[0], np.stack(grid), 1)) / np.prod(shape) ** 0.5
        maps = _random(rng, (1, coils, *shape)).astype(kind)
        image, samples = _random(rng, (1, 1, *shape)), _random(rng, (1, 1, coils, 30))
        axes = len(shape)
        for name, array, exact, out in (
            (
                "type2",
                image,
                np.tensordot(maps[0] * image[0], phases, (range(1, 1 + axes),) * 2),
                samples.shape,
            ),
            ("type1", samples, np.sum(maps[0] * np.tensordot(samples[0, 0], phases, 1), 0), image.shape),
        ):
            function = jax.jit(
                lambda p, a, m, name=name, layout=layout, shape=shape, out=out: native.nufft(
                    name, p, a, m, layout, -1, False, shape, out
                )
            )
            found = np.asarray(function(points, array.astype(kind), maps))
            _compare(found.ravel(), exact.ravel(), 1e-3, f"{name} of shape {shape}")
        _try_toeplitz(rng, image.astype(kind), maps, precision)
        if axes == 2:
            _try_cartesian(rng, shape, coils, precision)


def _try_cartesian(rng: np.random.Generator, shape: tuple[int, ...], coils: int, precision: str) -> None:
    # Sizes without prime factors above five: the others are left to JAX.
    shape = (shape[0], 10)
    kind = np.result_type(precision, np.complex64)
    mask = rng.uniform(size=(1, *shape)).astype(precision)
    maps = _random(rng, (1, coils, *shape)).astype(kind)
    for kinds, array in (("forward", (1, 1, *shape)), ("adjoint", (1, 1, coils, *shape))):
        array = _random(rng, array).astype(kind)
        function = getattr(cartesian_primitive, kinds)
        found, exact = (
            jax.jit(lambda m, a, s, b=backend, f=function: f(m, s, a, backend=b))(mask, array, maps)
            for backend in ("force", "jax")
        )
        _compare(found, exact, 1e-4, f"Cartesian {kinds} of shape {shape}")


def _try_toeplitz(rng: np.random.Generator, image: np.ndarray, maps: np.ndarray, precision: str) -> None:
    shape = image.shape[2:]
    half = tuple(smooth_size(n) for n in shape)
    values = rng.uniform(size=(1, 2 ** len(shape), *half)).astype(precision)
    found = jax.jit(lambda s, u, m: native.toeplitz(s, u, m, image.shape))(values, image, maps)
    exact = toeplitz.gram(jnp.asarray(values), jnp.asarray(image), jnp.asarray(maps), "jax")
    _compare(found, exact, 1e-4, f"Toeplitz product of shape {shape}")


def _random(rng, shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def _compare(found: Any, exact: Any, tolerance: float, what: str) -> None:
    error = np.linalg.norm(np.asarray(found) - np.asarray(exact)) / np.linalg.norm(exact)
    if not error < tolerance:
        raise RuntimeError(f"native {what} is wrong: relative error {error:.1e}")
