"""One vocabulary of keywords, earlier names of them, and what reconstructions return."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import operators
from operators.algebra import renamed

GONE = {"l2", "beta", "max_iterations", "supersample", "volume_shape", "key_or_seed", "weight"}
PACKAGES = (
    operators,
    operators.algebra,
    operators.ct,
    operators.fourier,
    operators.mri,
    operators.phantoms,
    operators.solvers,
)


@pytest.fixture(scope="module")
def problem():
    """A SENSE operator of two coils and three measurements of an image."""
    mask = np.array([1, 0, 1, 1, 1, 0, 1, 0], np.float32)
    maps = np.stack([np.ones((8, 8)), np.linspace(0, 1j, 64).reshape(8, 8)])
    A = operators.SENSE(operators.CartesianFourier((8, 8), mask), maps)
    return A, A(jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8)), jnp.complex64))


def test_public_functions_share_one_vocabulary():
    for package in PACKAGES:
        for name in package.__all__:
            function = getattr(package, name)
            if inspect.isfunction(function):
                assert not GONE & set(inspect.signature(function).parameters), name


def test_earlier_keywords_are_handed_on(problem):
    A, y = problem
    matrix = jnp.diag(jnp.array([1.0, 2.0, 4.0]))
    phantom = operators.shepp_logan()
    angles = jnp.linspace(0, 2 * jnp.pi, 8, endpoint=False)
    geometry = operators.ConeBeam(angles, (2, 6), (1.0, 1.0), 20.0, 10.0)
    data, image = jnp.ones(geometry.shape), operators.rasterize(phantom, (8, 8), supersampling=2)
    calls = [
        (
            operators.cg,
            (lambda v: matrix @ v, jnp.ones(3)),
            {"l2": 0.5, "max_iterations": 2},
            {"regularization": 0.5, "iterations": 2},
        ),
        (
            operators.cg_sense,
            (A, y),
            {"l2": 0.1, "max_iterations": 2},
            {"regularization": 0.1, "iterations": 2},
        ),
        (
            operators.l1_wavelet,
            (A, y[0]),
            {"weight": 0.1, "iterations": 2},
            {"regularization": 0.1, "iterations": 2},
        ),
        (
            operators.total_variation,
            (A, y[0]),
            {"weight": 0.1, "iterations": 2},
            {"regularization": 0.1, "iterations": 2},
        ),
        (
            operators.rasterize,
            (phantom,),
            {"shape": (8, 8), "supersample": 2},
            {"image_shape": (8, 8), "supersampling": 2},
        ),
        (operators.fdk, (data, geometry), {"volume_shape": (2, 4, 4)}, {"image_shape": (2, 4, 4)}),
        (
            operators.poisson_disc_mask,
            (),
            {"key_or_seed": 3, "shape": (8, 8), "acceleration": 2.0},
            {"key": 3, "shape": (8, 8), "acceleration": 2.0},
        ),
    ]
    assert image.shape == (8, 8)
    for function, arguments, earlier, current in calls:
        with pytest.warns(DeprecationWarning, match=f"{function.__name__}: .* is now called") as seen:
            found = function(*arguments, **earlier)
        assert {w.filename for w in seen if w.category is DeprecationWarning} == {__file__}
        jax.tree.map(np.testing.assert_array_equal, found, function(*arguments, **current))


def test_renamed_keeps_the_signature_and_refuses_both_names():
    @renamed(old="new")
    def scaled(x, new=2):
        """Doubles."""
        return new * x

    assert list(inspect.signature(scaled).parameters) == ["x", "new"]
    assert scaled.__doc__ == "Doubles."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scaled(3) == 6 and scaled(3, new=5) == 15
    with pytest.raises(TypeError, match="scaled: new: expected it once, found old, too"):
        scaled(3, old=1, new=2)
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError, match="new"):
        scaled(3, 4, old=1)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [(), (3,)])
def test_reconstructions_report_how_they_ended(problem, batch):
    A, y = problem
    y = y if batch else y[0]
    runs = {
        "cg_sense": lambda **o: operators.cg_sense(A, y, iterations=2, tolerance=0.0, **o),
        "l1_wavelet": lambda **o: operators.l1_wavelet(A, y, 0.1, iterations=2, **o),
        "total_variation": lambda **o: operators.total_variation(A, y, 0.1, iterations=2, **o),
        "tgv": lambda **o: operators.solvers.total_generalized_variation(A, y, 0.1, iterations=2, **o),
        "spirit": lambda **o: operators.mri.spirit(
            y, np.ones(8), y, kernel_shape=(3, 3), iterations=2, tolerance=0.0, **o
        ),
    }
    for name, run in runs.items():
        x, info = run(return_info=True)
        np.testing.assert_array_equal(x, run())
        # Conjugate gradients solve a batch as one system, apart from SPIRiT.
        assert info.iterations.shape == (() if name == "cg_sense" else batch), name
        assert np.all(np.asarray(info.iterations) == 2) or name == "spirit"
