"""Projectors spread over devices: each holds some of the views, or a slab of the volume."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from operators import ConeBeam, FanBeam, ParallelBeam, Radon

ANGLES = np.linspace(0, 2 * np.pi, 8, endpoint=False, dtype=np.float32)
PLANES = {
    "parallel-fourier": (ParallelBeam(ANGLES, 21), "fourier"),
    "parallel-joseph": (ParallelBeam(ANGLES, 21), "joseph"),
    "fan-distance-driven": (FanBeam(ANGLES, 21, 1.3, 40.0, 20.0), "distance-driven"),
}


@pytest.fixture(scope="module")
def mesh():
    if jax.device_count() < 2:
        pytest.skip("needs two devices")
    return jax.make_mesh((2,), ("parts",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])


def value_and_gradient(project, image, target):
    """The sinogram, and the gradient of half its squared distance to ``target``: one adjoint."""
    sinogram, pull = jax.vjp(project, image)
    return sinogram, pull(sinogram - target)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANES)
def test_views_on_two_devices(mesh, normal, name):
    geometry, model = PLANES[name]
    shape = (13, 12)
    image, target = normal(shape, np.float32), normal(geometry.shape, np.float32)

    def some_views(angles, image, target):
        image = jax.lax.pcast(image, "parts", to="varying")
        A = Radon(dataclasses.replace(geometry, angles=angles), shape, model=model)
        sinogram, gradient = value_and_gradient(A, image, target)
        return sinogram, jax.lax.psum(gradient, "parts")

    spread = jax.shard_map(
        some_views, mesh=mesh, in_specs=(P("parts"), P(), P("parts")), out_specs=(P("parts"), P())
    )
    found = jax.jit(spread)(jnp.asarray(ANGLES), image, target)
    exact = value_and_gradient(Radon(geometry, shape, model=model), image, target)
    for a, b in zip(found, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["joseph", "distance-driven"])
def test_slabs_on_two_devices(mesh, normal, model):
    geometry = ConeBeam(ANGLES, (9, 14), (1.2, 1.1), 40.0, 20.0, pitch=1.5, axial_offset=0.7)
    shape, pixel = (6, 9, 10), 0.9
    slab = (shape[0] // 2, *shape[1:])
    volume, target = normal(shape, np.float32), normal(geometry.shape, np.float32)

    def one_slab(planes, target):
        center = ((jax.lax.axis_index("parts") + 0.5) * slab[0] - shape[0] / 2) * pixel
        A = Radon(
            dataclasses.replace(geometry, axial_offset=geometry.axial_offset - center),
            slab,
            pixel,
            model=model,
        )
        part, pull = jax.vjp(A, planes)
        sinogram = jax.lax.psum(part, "parts")
        return sinogram, pull(jax.lax.pcast(sinogram - target, "parts", to="varying"))[0]

    spread = jax.shard_map(one_slab, mesh=mesh, in_specs=(P("parts"), P()), out_specs=(P(), P("parts")))
    found = jax.jit(spread)(volume, target)
    exact = value_and_gradient(Radon(geometry, shape, pixel, model=model), volume, target)
    for a, b in zip(found, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())
