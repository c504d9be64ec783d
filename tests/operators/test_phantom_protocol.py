"""Image, sinogram and Fourier transform of a phantom belong together, whatever it is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import operators
from operators.phantoms import Ellipses, Ellipsoids, Phantom, project_phantom, rasterize_phantom

PHANTOMS = {
    2: Ellipses([[0.3, -0.2], [-0.4, 0.1]], [[0.5, 0.2], [0.3, 0.6]], [0.7, -0.4], [1.0, 0.5]),
    3: Ellipsoids(
        [[0.3, -0.2, 0.1], [-0.4, 0.1, -0.3]], [[0.5, 0.2, 0.4], [0.3, 0.6, 0.2]], [0.7, -0.4], [1.0, 0.5]
    ),
}


@pytest.fixture
def frequencies():
    rng = np.random.default_rng(0)
    return {n: np.concatenate([np.zeros((1, n)), rng.normal(size=(20, n)), [[1e-3] * n]]) for n in PHANTOMS}


@pytest.mark.parametrize("ndim", PHANTOMS)
def test_kspace_is_the_transform_of_sections(ndim, frequencies, x64):
    """Sections across k have a known length or area; their transform along k is a quadrature."""
    phantom = jax.tree.map(np.asarray, PHANTOMS[ndim])
    nodes, weights = np.polynomial.legendre.leggauss(300)
    expected = np.zeros(len(frequencies[ndim]), complex)
    for center, axes, angle, value in zip(*jax.tree.leaves(phantom), strict=True):
        turn = np.eye(ndim)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        for i, k in enumerate(frequencies[ndim]):
            size = np.linalg.norm(k)
            along = k / size if size else np.eye(ndim)[0]
            reach = np.linalg.norm(axes * (turn.T @ along))
            # Nodes are sines, which makes the integrand smooth at the ends.
            s, ds = np.sin(np.pi / 2 * nodes), np.pi / 2 * np.cos(np.pi / 2 * nodes) * weights
            section = 2 * (1 - s**2) ** 0.5 if ndim == 2 else np.pi * (1 - s**2)
            phase = np.exp(-2j * np.pi * (k @ center + size * reach * s))
            expected[i] += value * np.prod(axes) * np.sum(ds * section * phase)
    found = PHANTOMS[ndim].kspace(jnp.asarray(frequencies[ndim]))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("ndim", PHANTOMS)
def test_kspace_is_the_transform_of_the_image(ndim, frequencies, x64):
    phantom, n, size = PHANTOMS[ndim], 48, 2.4 / 48
    image = np.asarray(phantom.rasterize((n,) * ndim, size, 2))
    x = (np.arange(n) - (n - 1) / 2) * size
    for k in frequencies[ndim]:
        # Images are (z,) y, x, rows from the top.
        waves = [np.exp(-2j * np.pi * k[0] * x), np.exp(2j * np.pi * k[1] * x)]
        waves += [np.exp(-2j * np.pi * k[2] * x)] if ndim == 3 else []
        total = image
        for wave in waves:
            total = total @ wave
        assert abs(total * size**ndim - phantom.kspace(jnp.asarray(k))) < 4e-3


def test_kspace_on_a_grid_is_that_of_ellipses(x64):
    phantom = operators.shepp_logan()
    ky, kx = np.meshgrid(-(np.arange(9) - 4) / 2, (np.arange(9) - 4) / 2, indexing="ij")
    found = phantom.kspace(jnp.stack([kx, ky], -1)) * 9 / 4
    np.testing.assert_allclose(found, operators.ellipse_kspace(phantom, (9, 9)), atol=1e-12)


def test_projections_are_slices_of_kspace(x64):
    phantom, angle, spacing = PHANTOMS[2], 0.6, 0.01
    geometry = operators.ParallelBeam([angle], 301, spacing)
    profile = np.asarray(phantom.project(geometry, 4))[0]
    positions = (np.arange(301) - 150) * spacing
    for k in (0.0, 0.4, 1.1):
        slice_ = phantom.kspace(k * jnp.array([np.cos(angle), np.sin(angle)]))
        assert abs(np.sum(profile * np.exp(-2j * np.pi * k * positions)) * spacing - slice_) < 1e-3


class Uniform:
    """A phantom of a kind of its own."""

    ndim = 2

    def rasterize(self, image_shape, pixel_size=1.0, supersampling=4):
        return jnp.zeros(image_shape) + supersampling

    def project(self, geometry, bins=1):
        return jnp.zeros(geometry.shape) + bins

    def kspace(self, frequencies):
        return jnp.zeros(frequencies.shape[:-1], complex)


def test_any_phantom_will_do():
    for phantom in (*PHANTOMS.values(), Uniform()):
        assert isinstance(phantom, Phantom)
    assert [phantom.ndim for phantom in PHANTOMS.values()] == list(PHANTOMS)
    assert rasterize_phantom(Uniform(), (2, 3), supersampling=7).tolist() == [[7.0] * 3] * 2
    assert project_phantom(Uniform(), operators.ParallelBeam([0.0], 2), bins=3).tolist() == [[3.0, 3.0]]


def test_frequencies_have_the_dimensions_of_the_phantom():
    with pytest.raises(
        ValueError, match=r"kspace: frequencies: expected shape \(\.\.\., 3\), found \(5, 2\)"
    ):
        PHANTOMS[3].kspace(jnp.zeros((5, 2)))
