"""The shipped interpolation kernels, the grids chosen from them, and what building an operator computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import operators
from operators.fourier import kernel_fit, kernel_table, nufft_kernel


def test_the_table_holds_what_the_fit_gives():
    for key in ((3, 1.25), (6, 2.0)):
        fitted, shipped = kernel_fit.fit_kernel(*key), nufft_kernel.tabulated()[key]
        u = np.linspace(-1, 1, 50)
        np.testing.assert_allclose(kernel_fit.evaluate(shipped, u), kernel_fit.evaluate(fitted, u), atol=1e-9)
        np.testing.assert_allclose([shipped.error, shipped.gain], [fitted.error, fitted.gain], rtol=1e-6)


def test_the_command_writes_a_table_that_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_table, "WIDTHS", (2, 4))
    monkeypatch.setattr(kernel_table, "OVERSAMPLING", (1.5, 2.0))
    monkeypatch.setattr(nufft_kernel, "TABLE", tmp_path / "kernels.npz")
    kernel_table.write_table(str(tmp_path / "kernels.npz"))
    found = nufft_kernel.tabulated.__wrapped__()
    assert set(found) == {(2, 1.5), (4, 1.5), (2, 2.0), (4, 2.0)}
    assert found[4, 2.0].coefficients.shape[1] == 4
    np.testing.assert_allclose(found[4, 2.0].error, nufft_kernel.tabulated()[4, 2.0].error, rtol=1e-6)


def test_every_kernel_errs_as_little_as_it_says():
    # Against the exponential itself, at frequencies and positions that the fit has not seen.
    rng = np.random.default_rng(0)
    assert set(nufft_kernel.tabulated()) == {
        (w, o) for w in nufft_kernel.WIDTHS for o in nufft_kernel.OVERSAMPLING
    }
    for (width, oversampling), kernel in nufft_kernel.tabulated().items():
        frequency = ((np.arange(200) + 0.5) / 200 - 0.5) / oversampling
        x = (np.arange(50) + rng.uniform(size=50)) / 50
        first = np.floor(x - width / 2) + 1
        taps = kernel_fit.evaluate(kernel, 2 * (first - (x - width / 2)) - 1)
        waves = np.exp(-2j * np.pi * frequency[:, None, None] * (first[:, None] + np.arange(width)))
        found = np.sum(taps * waves, axis=2) / np.exp(-2j * np.pi * frequency[:, None] * x)
        scale = np.mean(found.real, axis=1) / np.mean(np.abs(found) ** 2, axis=1)
        error = np.sqrt(np.mean(np.abs(1 - scale[:, None] * found) ** 2))
        assert error < 1.25 * kernel.error + 1e-14, (width, oversampling)


@pytest.mark.parametrize("shape", [(320,), (320, 256), (96, 96, 96), (1, 5)])
def test_grids_are_found_without_trying_many(shape, monkeypatch):
    tried = []
    scale_axis = nufft_kernel.scale_axis.__wrapped__
    monkeypatch.setattr(nufft_kernel, "scale_axis", lambda *key: tried.append(key) or scale_axis(*key))
    monkeypatch.setattr(kernel_fit, "fit_kernel", None)
    for eps in np.geomspace(1e-2, 1e-6, 9):
        tried.clear()
        nufft_kernel.choose_layout.__wrapped__(shape, 40_000, eps, False)
        assert len(tried) <= 8 * len(shape)


def test_the_spectrum_is_made_when_it_is_asked_for():
    points = jnp.asarray(np.random.default_rng(0).uniform(-0.5, 0.5, (40, 1)), jnp.float32)
    x = jnp.asarray(np.random.default_rng(1).normal(size=6), jnp.complex64)
    exact = operators.NUFFT(points, (6,), eps=1e-5, gram_by_toeplitz=False).gram(x)

    def close(found):
        np.testing.assert_allclose(found, exact, atol=1e-4 * np.abs(exact).max())

    def made():
        return operators.NUFFT(points, (6,), eps=1e-5, gram_by_toeplitz=True)

    A = made()
    A(x)
    assert "spectrum" not in vars(A)
    close(A.gram(x))
    assert "spectrum" in vars(A)
    with jax.checking_leaks():
        # First asked for within a compiled function, and within a loop of one.
        A = made()
        close(jax.jit(A.gram)(x))
        B = made()
        close(jax.jit(lambda x: jax.lax.fori_loop(0, 1, lambda _, x: B.gram(x), x))(x))
        C = made()
        close(jax.jit(lambda A, x: A.gram(x))(C, x))
    assert all(isinstance(vars(A)["spectrum"], jax.Array) for A in (A, B, C))
    close(B.gram(x))

    @jax.jit
    def in_a_loop(points, x):
        A = operators.NUFFT(points, (6,), eps=1e-5, gram_by_toeplitz=True)
        return A.gram(jax.lax.fori_loop(0, 1, lambda _, x: A.gram(x), 0 * x) + x)

    close(in_a_loop(points, x))
    with pytest.raises(AttributeError, match="no attribute 'spectra'"):
        _ = A.spectra
