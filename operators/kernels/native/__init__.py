"""Native CPU kernels: compiled once per machine where there is a C++ compiler, never needed.

The sources next to this file are compiled at first use against the FFI header that JAX ships, into
``$FEDRECON_CACHE`` (default ``~/.cache/fedrecon``), and tried in a process of their own before they are
trusted. Where any of this fails the plain JAX route is used; ``FEDRECON_BACKEND=jax`` asks for that.
``FEDRECON_CXXFLAGS`` holds further flags for the compiler, such as ``-march=x86-64-v3`` for AVX2 alone.
``python -m operators.native`` compiles ahead of time.
"""

import contextlib
import contextvars
import logging
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from operators.kernels.native import build

_log = logging.getLogger("operators")
_NAMES = ("nufft", "projector", "backprojector", "volume", "convolution")
_LIBRARIES = [(name, precision) for name in _NAMES for precision in ("float32", "float64")]
_LOCKS = {library: threading.Lock() for library in _LIBRARIES}
_loaded: dict[tuple[str, str], str] = {}
_portable: contextvars.ContextVar[bool] = contextvars.ContextVar("portable", default=False)


def backends() -> dict[str, str]:
    """What computes on CPU in this process, by library and precision, and why; loads and compiles nothing.

    Returns:
      For "nufft" (non-uniform and Cartesian Fourier transforms), "projector", "backprojector" and "volume"
      (tomography), and "convolution", each with " float32" or " float64", one of ``"native (FILE)"``: in
      use; ``"cached (FILE)"``: compiled, and loaded at first use; ``"missing (...)"``: compiled at first
      use, or by ``python -m operators.native``; ``"jax (REASON)"``: plain JAX computes.

    Example:
      >>> operators.backends()["nufft float32"]  # doctest: +SKIP
      'jax (no C++ compiler found)'
    """
    return {f"{name} {precision}": _state(name, precision) for name, precision in _LIBRARIES}


def load(name: str, precision: str) -> str:
    """Loads a library, compiling it if it is missing; returns its entry of :func:`backends`.

    Args:
      name: of :func:`backends`, such as "nufft".
      precision: "float32" or "float64".
    """
    with _LOCKS[name, precision]:
        if (name, precision) not in _loaded:
            _loaded[name, precision] = _load(name, precision)
        return _loaded[name, precision]


def prepare(*names: str, precision: str = "float32") -> None:
    """Starts compiling libraries side by side, in the background; a caller waits only for the one it needs.

    Does nothing for libraries that are compiled, or in a process that does not compute on CPUs.

    Args:
      names: of :func:`backends`, such as "nufft".
      precision: "float32" or "float64".
    """
    if jax.default_backend() == "cpu":
        for name in names:
            # A thread that ends with the process: compiling is left to the next process that needs it.
            threading.Thread(target=load, args=(name, precision), daemon=True).start()


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Programs that are traced and lowered in the block call no native kernels: they run on other machines.

    What was compiled before is not affected.
    """
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def supports(dtype: DTypeLike, name: str = "nufft") -> bool:
    """True if native kernels for ``dtype``, real or complex, are at hand, and not within `portable`."""
    if _portable.get():
        return False
    precision = "float64" if dtype in (jnp.complex128, jnp.float64) else "float32"
    return load(name, precision).startswith("native")


def preferred(dtype: DTypeLike, backend: str, name: str = "nufft") -> bool:
    """True if this process computes on CPUs and ``backend`` allows the native kernels for ``dtype``."""
    return backend == "auto" and jax.default_backend() == "cpu" and supports(dtype, name)


def _state(name: str, precision: str) -> str:
    if (name, precision) in _loaded:
        return _loaded[name, precision]
    try:
        path = build.find(name, precision)
    except build.UnavailableError as reason:
        return f"jax ({reason})"
    if path.exists():
        return f"cached ({path})"
    return "missing (compiled at first use, or by python -m operators.native)"


def _load(name: str, precision: str) -> str:
    try:
        path = build.load(name, precision)
    except build.UnavailableError as reason:
        _log.info("%s in %s: plain JAX, %s", name, precision, reason)
        return f"jax ({reason})"
    _log.info("%s in %s: native, %s", name, precision, path)
    return f"native ({path})"


def nufft(
    kind: str,
    points: jax.Array,
    array: jax.Array,
    maps: jax.Array | None,
    layout: Any,
    sign: int,
    conjugate: bool,
    shape: tuple[int, ...],
    out_shape: tuple[int, ...],
) -> jax.Array:
    """Calls a native transform: operands as in operators/fourier/nufft_primitive.py."""
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


def toeplitz(
    spectrum: jax.Array, images: jax.Array, maps: jax.Array | None, out_shape: tuple[int, ...]
) -> jax.Array:
    """Calls the native Toeplitz product: operands as in operators/fourier/toeplitz.py."""
    shape, half = images.shape[2:], spectrum.shape[2:]
    waves = [np.exp(-1j * np.pi * (np.arange(n) - n // 2) / h) for n, h in zip(shape, half, strict=True)]
    # Half of the normalization of both FFTs is applied on the way in and half on the way out.
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


def cartesian(
    kind: str,
    mask: jax.Array,
    array: jax.Array,
    maps: jax.Array | None,
    sign: int,
    conjugate: bool,
    out_shape: tuple[int, ...],
) -> jax.Array:
    """Calls a native Cartesian transform: operands as in operators/fourier/cartesian_primitive.py."""
    scales = np.concatenate([np.full(n, n**-0.5) for n in mask.shape[1:]])
    return jax.ffi.ffi_call(
        f"fedrecon_nufft_{kind}_{mask.dtype}", jax.ShapeDtypeStruct(out_shape, array.dtype)
    )(
        mask,
        array,
        jnp.zeros((0,), array.dtype) if maps is None else maps.astype(array.dtype),
        jnp.asarray(scales, mask.dtype),
        sign=np.int32(sign),
        conjugate=bool(conjugate),
    )


def projector(
    kind: str, rays: jax.Array, array: jax.Array, lengths: jax.Array, out_shape: tuple[int, ...]
) -> jax.Array:
    """Calls a native projector: operands as in operators/ct/projection/projector_primitive.py."""
    name = f"fedrecon_projector_{kind}_{array.dtype}"
    return jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(out_shape, array.dtype))(rays, array, lengths)


def back_projector(
    kind: str,
    poses: jax.Array,
    array: jax.Array,
    detector: jax.Array,
    weights: jax.Array,
    curved: bool,
    out_shape: tuple[int, ...],
) -> jax.Array:
    """Calls a native back-projector: operands as in operators/ct/inversion/back_projector.py."""
    name = f"fedrecon_backprojector_{kind}_{array.dtype}"
    call = jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(out_shape, array.dtype))
    return call(poses, array, detector, weights, curved=bool(curved))


def volume(
    kind: str, table: jax.Array, array: jax.Array, layout: Any, out_shape: tuple[int, ...]
) -> jax.Array:
    """Calls a native projector of volumes: operands as in operators/ct/projection/volume_primitive.py."""
    name = f"fedrecon_volume_{kind}_{array.dtype}"
    call = jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(out_shape, array.dtype))
    variant = layout.model in ("distance-driven", "diverging")
    return call(table, array, pixel_size=np.float64(layout.pixel_size), variant=variant)


def convolution(
    kind: str,
    first: jax.Array,
    second: jax.Array,
    strides: tuple[int, int],
    pads: tuple[tuple[int, int], ...],
    out_shape: tuple[int, ...],
) -> jax.Array:
    """Calls a native convolution: operands as in operators/kernels/convolution.py."""
    name = f"fedrecon_convolution_{kind}_{second.dtype}"
    call = jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(out_shape, second.dtype))
    low = [pair[0] for pair in pads]
    return call(first, second, strides=np.asarray(strides, np.int64), pads=np.asarray(low, np.int64))
