"""Networks of coordinates fitted to one measurement, of every kind of operator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.priors import implicit_representation
from fedrecon.priors.implicit import _cells, _interpolated, _interpolation, _scale, _variation
from operators import (
    NUFFT,
    SENSE,
    CartesianFourier,
    Diagonal,
    ParallelBeam,
    Radon,
    cg_sense,
    radial_trajectory,
)

N = 24
SMALL = {"coarsest": 4, "width": 16, "steps": 300, "every": 100}


def objects():
    """(places, a body with three parts in it, coil maps of sum |S|^2 = 1)."""
    y, x = np.mgrid[-1 : 1 : N * 1j, -1 : 1 : N * 1j]
    image = np.zeros((N, N), np.float32)
    for cy, cx, a, b, value in ((0, 0, 0.8, 0.7, 1), (-0.2, 0.3, 0.2, 0.3, -0.5), (0.4, -0.2, 0.2, 0.2, 0.6)):
        image += value * (((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1)
    maps = np.stack([np.exp(-((y - a) ** 2) + 1j * a * x) for a in (-1, 0, 1)])
    return (y, x), image, (maps / np.linalg.norm(maps, axis=0)).astype(np.complex64)


def cartesian():
    (y, x), image, maps = objects()
    mask = (np.random.default_rng(0).random((N, N)) < 0.25) | (np.hypot(y, x) < 0.25)
    image = (image * np.exp(1j * (x + y**2))).astype(np.complex64)
    return SENSE(CartesianFourier((N, N), jnp.asarray(mask, jnp.float32)), jnp.asarray(maps)), image, (N, N)


def radial():
    (_, x), image, maps = objects()
    places = radial_trajectory(9, 2 * N).reshape(-1, 2)
    image = (image * np.exp(1j * x)).astype(np.complex64)
    return SENSE(NUFFT(places, (N, N)), jnp.asarray(maps)), image, (len(places),)


def tomography():
    angles = jnp.linspace(0, np.pi, 9, endpoint=False)
    return Radon(ParallelBeam(angles, N + 10), (N, N)), objects()[1], (9, N + 10)


@pytest.mark.slow
@pytest.mark.parametrize("make", [cartesian, radial, tomography])
def test_images_are_nearer_than_those_of_least_squares(make):
    """By a third of the error of the best Tikhonov weight, with noise; the same key gives the same image."""
    operator, image, shape = make()
    rng = np.random.default_rng(1)
    y = np.asarray(operator(jnp.asarray(image)))
    size = 0.02 * np.sqrt((abs(y) ** 2).mean())
    noise = rng.normal(size=y.shape) + (1j * rng.normal(size=y.shape) if np.iscomplexobj(y) else 0)
    y = jnp.asarray((y + size * noise * (y != 0)).astype(y.dtype))
    held = rng.random(shape) < 0.1
    found = implicit_representation(operator, y, held, jax.random.key(0), **SMALL)
    assert found.image.dtype == operator.in_dtype and found.steps == [100, 200, 300]
    assert found.errors[found.best] == min(found.errors) < 0.5

    def error(x):
        return np.linalg.norm(np.asarray(x) - image) / np.linalg.norm(image)

    top = float(abs(operator.gram(jnp.asarray(image))).max())
    tikhonov = min(error(cg_sense(operator, y, regularization=top * w)) for w in (1e-4, 1e-3, 1e-2, 1e-1))
    assert error(found.image) < 0.7 * tikhonov
    again = implicit_representation(operator, y, held, jax.random.key(0), **SMALL)
    np.testing.assert_array_equal(found.image, again.image)


@pytest.mark.slow
def test_held_out_samples_choose_and_do_not_teach():
    """Where they are all a, |x - a|^2 is a parabola of a if x is the same; the last image knows them."""
    operator, y = Diagonal(jnp.ones((8, 8))), jnp.asarray(objects()[1][::3, ::3])
    held = np.zeros((8, 8), bool)
    held[2] = True
    options = {**SMALL, "steps": 40, "every": 20, "total_variation": 0.0}
    found = [
        implicit_representation(operator, jnp.where(held, a, y), held, jax.random.key(0), **options)
        for a in (1.0, 2.0, 3.0)
    ]
    for look in range(2):
        squares = [8 * (a * fit.errors[look]) ** 2 for a, fit in zip((1, 2, 3), found, strict=True)]
        assert abs(squares[0] - 2 * squares[1] + squares[2] - 16) < 0.01
    assert abs(found[0].image - found[2].image)[2].mean() > 0.5


def test_parts_of_the_fit():
    x = jnp.zeros((4, 5)).at[1, 2].set(3.0)
    # The pixel itself, twice, and those before it.
    assert float(_variation(x)) == pytest.approx((3 * 2**0.5 + 3 + 3) / 20, rel=1e-2)
    operator = Diagonal(jnp.array([1.0, 2.0]))
    assert float(_scale(operator, operator(jnp.array([2.0, 2.0])))) == pytest.approx(
        0.5 * 8 * (2 * 2 + 4 * 16) / (2**2 + 16**2)
    )
    # Linear functions are interpolated exactly, whatever the cells; the finest grid is that of the pixels.
    assert _cells((12, 20), 4) == [(2, 4), (5, 8), (10, 16), (12, 20)]
    nodes = np.linspace(0, 1, 6)[:, None] + 2 * np.linspace(0, 1, 4)
    got = _interpolated(jnp.asarray(nodes[..., None]), [_interpolation(8, 5), _interpolation(9, 3)])
    np.testing.assert_allclose(
        got[..., 0], np.arange(8)[:, None] / 8 + 2 * np.arange(9) / 9, rtol=1e-5, atol=1e-6
    )


REFUSED = {
    "cells": ({"coarsest": 5}, "coarsest: expected 1 to 4 cells, found 5"),
    "rate": ({"learning_rate": -1.0}, "learning_rate: expected a positive number"),
    "every": ({"steps": 10, "every": 3}, "every: expected a divisor of steps, 10, found 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    options, message = REFUSED[case]
    operator, held = Diagonal(jnp.ones((4, 4))), jnp.eye(4, dtype=bool)
    with pytest.raises(ValueError, match=message):
        implicit_representation(
            operator, jnp.ones((4, 4)), held, jax.random.key(0), **{"coarsest": 2, **options}
        )


@pytest.mark.parametrize(("value", "held"), [(1.0, False), (1.0, True), (0.0, False)])
def test_samples_are_needed_on_both_sides(value, held):
    operator = Diagonal(jnp.ones((4, 4)))
    with pytest.raises(ValueError, match=r"held_out: expected some of the samples that are not zero"):
        implicit_representation(
            operator, jnp.full((4, 4), value), jnp.asarray(held), jax.random.key(0), coarsest=2
        )
