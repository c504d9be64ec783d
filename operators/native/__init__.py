"""Native CPU kernels: compiled once per machine where there is a C++ compiler, never needed.

The sources beside this file are compiled at first use against the FFI header that JAX ships, into
``$FEDRECON_CACHE`` (default ``~/.cache/fedrecon``), and tried in a process of their own before they are
trusted. Where any of this fails the plain JAX route is used; ``FEDRECON_BACKEND=jax`` asks for that.
``python -m operators.native`` compiles ahead of time and reports.
"""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np

from operators.native import build

_log = logging.getLogger("operators")


def backends() -> dict[str, str]:
    """What computes the non-uniform FFT on CPU in this process, by precision, and why.

    Returns:
      ``{"nufft float32": "native (...)" or "jax (reason)", "nufft float64": ...}``. Compiles on first call.
    """
    return {f"nufft {precision}": _load(precision)[1] for precision in ("float32", "float64")}


def supports(dtype) -> bool:
    """True if native kernels for complex ``dtype`` are at hand."""
    return _load("float64" if dtype == jnp.complex128 else "float32")[0]


def preferred(dtype, backend: str) -> bool:
    """True if this process computes on CPUs and ``backend`` allows the native kernels for ``dtype``."""
    return backend == "auto" and jax.default_backend() == "cpu" and supports(dtype)


@functools.cache
def _load(precision: str) -> tuple[bool, str]:
    try:
        library, path = build.load(precision)
    except build.Unavailable as reason:
        _log.info("NUFFT in %s: plain JAX, %s", precision, reason)
        return False, f"jax ({reason})"
    for kind in ("type2", "type1", "toeplitz"):
        handler = getattr(library, f"fedrecon_nufft_{kind}")
        jax.ffi.register_ffi_target(f"fedrecon_nufft_{kind}_{precision}", jax.ffi.pycapsule(handler), "cpu")
    _log.info("NUFFT in %s: native, %s", precision, path)
    return True, f"native ({path})"


def nufft(kind, points, array, maps, layout, sign, conjugate, shape, out_shape) -> jax.Array:
    """Calls a native transform on canonical operands; see :mod:`operators.nufft_primitive`."""
    real = points.dtype
    if maps is None:
        maps = jnp.zeros((0,), array.dtype)
    kernel = layout.kernel
    return jax.ffi.ffi_call(
        f"fedrecon_nufft_{kind}_{real}",
        jax.ShapeDtypeStruct(out_shape, array.dtype),
    )(
        points,
        array,
        maps.astype(array.dtype),
        jnp.asarray(kernel.coefficients, real),
        jnp.asarray(np.concatenate(layout.scales), real),
        shape=np.asarray(shape, np.int64),
        grid=np.asarray(layout.grid_shape, np.int64),
        width=np.int64(kernel.width),
        sign=np.int32(sign),
        conjugate=bool(conjugate),
    )


def toeplitz(spectrum, images, maps, out_shape) -> jax.Array:
    """Calls the native Toeplitz product on canonical operands; see :func:`operators.toeplitz.gram`."""
    shape, half = images.shape[2:], spectrum.shape[2:]
    waves = [np.exp(-1j * np.pi * (np.arange(n) - n // 2) / h) for n, h in zip(shape, half, strict=True)]
    # Half of the normalisation of both FFTs is applied on the way in and half on the way out.
    scales = [np.full(n, (2 * h) ** -0.5) for n, h in zip(shape, half, strict=True)]
    return jax.ffi.ffi_call(
        f"fedrecon_nufft_toeplitz_{spectrum.dtype}", jax.ShapeDtypeStruct(out_shape, images.dtype)
    )(
        spectrum,
        images,
        jnp.zeros((0,), images.dtype) if maps is None else maps.astype(images.dtype),
        jnp.asarray(np.concatenate(waves), images.dtype),
        jnp.asarray(np.concatenate(scales), spectrum.dtype),
        shape=np.asarray(shape, np.int64),
        half=np.asarray(half, np.int64),
    )
