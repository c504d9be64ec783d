"""What a native library must compute rightly, in a process of its own, before it is trusted."""

import jax
import numpy as np

from operators import cartesian_primitive, native, projector_primitive, toeplitz
from operators.native import build
from operators.nufft_kernel import choose_layout, smooth_size


def try_library(name: str, path: str, precision: str) -> None:
    """Applies the library at ``path`` to random arrays; raises RuntimeError unless the results are right."""
    jax.config.update("jax_enable_x64", precision == "float64")
    build.register(name, path, precision)
    (_try_nufft if name == "nufft" else _try_projector)(precision)


def _try_projector(precision: str) -> None:
    rng = np.random.default_rng(0)
    views, bins, shape = 4, 12, (9, 7)
    lengths = rng.uniform(1, 1.4, (1, views, 1)) * np.array([1, -1, 1, -1])[:, None]
    lengths = np.broadcast_to(lengths, (1, views, bins)).astype(precision)
    for knots in (bins, bins + 1):
        base = rng.normal(size=(1, 2, 1, views, 1)) + 0.8 * np.arange(knots)
        slope = rng.uniform(-1, 1, base[..., :1].shape) + 0.01 * np.arange(knots)
        rays = np.concatenate([base, slope], 2).astype(precision)
        image = rng.normal(size=(1, 2, *shape)).astype(precision)
        sinogram = rng.normal(size=(1, 2, views, bins)).astype(precision)
        for function, array in (
            (projector_primitive.project, image),
            (projector_primitive.back_project, sinogram),
        ):
            found, exact = (
                jax.jit(lambda r, a, b=backend, f=function: f(b, shape, r, lengths, a))(rays, array)
                for backend in ("force", "jax")
            )
            _compare(found, exact, 1e-4, f"{function.__name__} with {knots} knots for {bins} bins")


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


def _try_cartesian(rng, shape, coils, precision) -> None:
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


def _try_toeplitz(rng, image, maps, precision) -> None:
    shape = image.shape[2:]
    half = tuple(smooth_size(n) for n in shape)
    values = rng.uniform(size=(1, 2 ** len(shape), *half)).astype(precision)
    found = jax.jit(lambda s, u, m: native.toeplitz(s, u, m, image.shape))(values, image, maps)
    exact = toeplitz.gram(values, image, maps, "jax")
    _compare(found, exact, 1e-4, f"Toeplitz product of shape {shape}")


def _random(rng, shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def _compare(found, exact, tolerance, what) -> None:
    error = np.linalg.norm(np.asarray(found) - np.asarray(exact)) / np.linalg.norm(exact)
    if not error < tolerance:
        raise RuntimeError(f"native {what} is wrong: relative error {error:.1e}")
