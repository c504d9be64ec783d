"""Reconstructions against those of tomopy's own test-suite, inside the disc that every view sees."""

import h5py
import numpy as np
import pytest

import operators


@pytest.fixture(scope="module")
def reference(measured_data):
    with h5py.File(measured_data("reference/tomopy_recon.h5")) as file:
        return {
            "angles": file["angles_rad"][:],
            "projections": file["proj"][:].swapaxes(0, 1),
            **{name: file["recon"][name][:] for name in file["recon"]},
        }


def projector(reference):
    # tomopy's axis passes through the middle of the detector here; its images are as wide.
    return operators.Radon(operators.ParallelBeam(reference["angles"], 48), (48, 48))


def in_disc(images):
    y, x = np.mgrid[:48, :48] - 23.5
    return np.asarray(images)[:, np.hypot(y, x) < 23].ravel()


def difference(found, expected):
    found, expected = in_disc(found), in_disc(expected)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("name", "filter", "correlation"),
    # tomopy's windows are those of other formulas; that of von Hann differs most.
    [("ramlak", "ram-lak", 0.97), ("shepp", "shepp-logan", 0.97), ("hann", "hann", 0.88)],
)
def test_gridding_agrees_with_filtered_back_projection(reference, name, filter, correlation):
    A = projector(reference)
    image = operators.fbp(reference["projections"], A.geometry, (48, 48), filter=filter)
    assert np.corrcoef(in_disc(image), in_disc(reference[f"gridrec_{name}"]))[0, 1] > correlation


@pytest.mark.slow
def test_iterations_agree_after_as_many_steps(reference):
    A, y = projector(reference), reference["projections"]
    assert difference(operators.ct.mlem(A, y, iterations=4)[0], reference["mlem"]) < 0.02
    assert difference(operators.ct.sirt(A, y, iterations=4)[0], reference["sirt"]) < 0.035


@pytest.mark.slow
def test_row_action_agrees_with_a_view_at_a_time(reference):
    def one(angles):
        return operators.Radon(operators.ParallelBeam(angles, 48), (48, 48))

    views = operators.ct.view_subsets(one, reference["angles"], reference["projections"], 16)
    x, _ = operators.ct.os_sart(*views, iterations=4)
    assert difference(x, reference["art"]) < 0.1
