"""The libraries of the MRI benchmark by name, with the settings that non-uniform transforms are tried at."""

import functools

from benchmarks.mri import libraries as adapters
from benchmarks.mri import torch_libraries
from benchmarks.mri.libraries import TOLERANCES, Library

_NO_AUTODIFF = {"gradient": "no automatic differentiation"}

LIBRARIES = {
    "fedrecon": Library(adapters.fedrecon, TOLERANCES, ("fedrecon",), cartesian=None),
    "fedrecon-jax": Library(functools.partial(adapters.fedrecon, backend="jax"), TOLERANCES, ("fedrecon",)),
    "jax-finufft": Library(adapters.jax_finufft, TOLERANCES, ("jax-finufft",), ("jax_finufft",)),
    "finufft": Library(adapters.finufft, TOLERANCES, ("finufft",), ("finufft",), absent=_NO_AUTODIFF),
    "ducc0": Library(adapters.ducc0, TOLERANCES, ("ducc0",), ("ducc0",), absent=_NO_AUTODIFF),
    "pytorch-finufft": Library(
        torch_libraries.pytorch_finufft,
        TOLERANCES,
        ("pytorch-finufft", "torch"),
        ("pytorch_finufft", "torch"),
    ),
    "nufftax": Library(
        adapters.nufftax,
        tuple(
            {"eps": eps, "upsampfac": factor}
            for eps in (2e-3, 1e-3, 1e-4, 1e-5, 1e-6)
            for factor in (1.25, 2.0)
        ),
        ("nufftax",),
        ("nufftax",),
    ),
    "torchkbnufft": Library(
        torch_libraries.torchkbnufft,
        tuple(
            {"numpoints": points, "oversampling": 2.0, "table": table, "sparse": sparse}
            for points, table in ((4, 2**10), (6, 2**10), (6, 2**16), (8, 2**16))
            for sparse in (False, True)
        ),
        ("torchkbnufft", "torch"),
        ("torchkbnufft", "torch"),
    ),
    "sigpy": Library(
        adapters.sigpy,
        tuple(
            {"oversamp": oversamp, "width": width}
            for oversamp, width in ((1.25, 4), (1.5, 4), (1.5, 5), (2.0, 4), (2.0, 5), (2.0, 6), (2.0, 8))
        ),
        ("sigpy",),
        ("sigpy",),
        cartesian=None,
        absent=_NO_AUTODIFF,
    ),
    "mri-nufft": Library(
        adapters.mri_nufft,
        TOLERANCES,
        ("mri-nufft", "finufft"),
        ("mrinufft", "finufft"),
        absent={"gradient": "its automatic differentiation needs deepinv"},
    ),
    "scipy": Library(adapters.scipy, ({},), ("scipy",), ("scipy",), cartesian=True, absent=_NO_AUTODIFF),
    "jnp": Library(adapters.plain_jnp, ({},), ("jax",), cartesian=True),
}
