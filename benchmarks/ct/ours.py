"""The adapter of fedrecon's own CT operators; see :mod:`benchmarks.ct.registry`."""

import jax
import jax.numpy as jnp

import operators
from benchmarks.ct.prepared import PreparedLibrary
from benchmarks.ct.problems import CTProblem, Scan
from benchmarks.measure import Operation


def geometry_of(scan: Scan):
    """The geometry of a scan."""
    angles, spacing = jnp.asarray(scan.angles), scan.spacing
    if scan.kind == "parallel":
        return operators.ParallelBeam(angles, *scan.detectors, spacing)
    distances = scan.source_distance, scan.detector_distance
    if scan.kind == "fan":
        return operators.FanBeam(angles, *scan.detectors, spacing, *distances)
    return operators.ConeBeam(angles, scan.detectors, (spacing, spacing), *distances)


def models(scan: Scan) -> tuple[str, ...]:
    """The names of the models for a kind of scan."""
    return tuple(operators.ct.radon_models(geometry_of(scan)))


def fedrecon(problem: CTProblem, model: str | None = None) -> PreparedLibrary:
    """``Radon``; with no model named, its fastest for the geometry, and ``fbp`` or ``fdk``."""
    scan = problem.scan
    geometry = geometry_of(scan)
    image, sinogram, samples = map(jnp.asarray, problem.arrays())

    def jitted(function, *arguments):
        compiled = jax.jit(function)
        return [Operation(lambda: jax.block_until_ready(compiled(*arguments)))]

    fastest = "fourier" if scan.kind == "parallel" else "joseph"
    A = operators.Radon(geometry, scan.image_shape, scan.pixel_size, model or fastest)

    def loss(x, A, y):
        return 0.5 * jnp.sum((A(x) - y) ** 2)

    made = {
        "forward": jitted(lambda A, x: A(x), A, image),
        "adjoint": jitted(lambda A, y: A.H(y), A, samples),
        "gradient": jitted(jax.grad(loss), image, A, samples),
    }
    if model is None:
        reconstruct = operators.fdk if scan.kind == "cone" else operators.fbp
        made["fbp"] = jitted(
            lambda y: reconstruct(y, geometry, scan.image_shape, scan.pixel_size, filter="ram-lak"), sinogram
        )
    return PreparedLibrary(made)
