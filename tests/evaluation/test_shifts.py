"""One axis of a site is changed: its probe moves, the others do not."""

import dataclasses
import functools

import numpy as np
import pytest

from fedrecon.data import simulate_mri_patient
from fedrecon.data.simulation import MRISite
from fedrecon.evaluation import acquisition_probes, site_shifts

SITE = MRISite("a", "head", 220.0, 3.0, 2500.0, 80.0, coils=6, acceleration=3.0, snr=40.0)
CHANGED = {
    "noise": {"snr": 12.0},
    "sampling": {"acceleration": 5.0},
    "contrast": {"echo_time": 55.0},
    "coils": {"coils": 12},
    "prevalence": {"prevalence": 1.0},
}
PATIENTS = 24


@functools.cache
def patients(axis, name):
    site = dataclasses.replace(SITE, name=name, **CHANGED.get(axis, {}))
    found = []
    for patient in range(PATIENTS):
        lesions = patient < round(site.prevalence * PATIENTS) if axis == "prevalence" else patient % 2 == 0
        volume = simulate_mri_patient(site, patient, lesions, (48, 48), 2, 7)
        found.append(
            acquisition_probes(volume.kspace, volume.mask, volume.reconstruction_rss, volume.segmentation)
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("axis", CHANGED)
def test_with_one_axis_shifted_only_its_probe_moves(axis):
    shifts = site_shifts(patients(axis, "b"), patients("", "a"))
    moved = {name for name, shift in shifts.items() if shift.p_value < 0.01}
    assert moved == {axis}, shifts


@pytest.mark.slow
def test_sites_that_are_alike_do_not_differ():
    shifts = site_shifts(patients("", "c"), patients("", "a"))
    assert min(shift.p_value for shift in shifts.values()) > 0.05


def test_probes_by_hand():
    """Two coils that see the same constant, but for a sign and noise."""
    rng = np.random.default_rng(0)
    kspace = np.zeros((4, 3, 32, 32), complex)
    kspace[:, :2, 16, 16] = [320, -320]
    kspace[:, :2] += 0.5 * (rng.normal(size=(4, 2, 32, 32, 2)) @ [1, 1j])
    mask = np.zeros((32, 32))
    mask[:, ::2] = 1
    image = np.full((4, 32, 32), 10 * np.sqrt(2))
    image[:, :4] = 0
    found = acquisition_probes(kspace * mask, mask, image)
    assert set(found) == {"sampling", "noise", "contrast", "coils"}
    assert found["sampling"] == 0.5
    np.testing.assert_allclose(found["noise"], 0.5 / 10, rtol=0.1)
    np.testing.assert_allclose(found["coils"], 1, rtol=1e-3)
    assert found["contrast"] < 1e-6
    image[:, ::2] *= np.e
    np.testing.assert_allclose(acquisition_probes(kspace * mask, mask, image)["contrast"], 0.5, rtol=0.1)


def test_shifts_are_in_deviations_and_equal_values_differ_or_not():
    own = [{"x": v, "y": 1.0, "z": 2.0} for v in (1.0, 2.0, 3.0)]
    others = [{"x": v, "y": 1.0, "z": 3.0} for v in (4.0, 5.0, 6.0)]
    found = site_shifts(own, others)
    assert found["x"].difference == pytest.approx(-3)
    # One of twenty orders at either end; z, which has less, is corrected first.
    assert found["x"].p_value == pytest.approx(0.2)
    assert found["y"] == (0.0, 1.0)
    assert found["z"].difference == -np.inf and found["z"].p_value < 0.2


def test_wrong_shapes_and_too_few_patients_are_named():
    kspace, image = np.ones((1, 1, 4, 4), complex), np.ones((1, 4, 4))
    with pytest.raises(ValueError, match=r"mask: expected \(1, 4, 4\)"):
        acquisition_probes(kspace, np.ones((2, 4, 4)), image)
    with pytest.raises(ValueError, match=r"image: expected \(1, 4, 4\), found \(4, 4\)"):
        acquisition_probes(kspace, np.ones((4, 4)), image[0])
    with pytest.raises(ValueError, match="kspace: expected a signal"):
        acquisition_probes(0 * kspace, np.ones((4, 4)), image)
    with pytest.raises(ValueError, match="mask: expected at least 2 samples of high frequencies, found 0"):
        acquisition_probes(kspace, np.zeros((4, 4)), image)
    with pytest.raises(ValueError, match="kspace: expected finite values"):
        acquisition_probes(kspace * np.nan, np.ones((4, 4)), image)
    with pytest.raises(ValueError, match=r"others\['x'\]: expected finite probes"):
        site_shifts([{"x": 1.0}] * 3, [{"x": np.nan}] * 3)
    with pytest.raises(ValueError, match="own: expected at least 3 patients, found 1"):
        site_shifts([{"x": 1.0}], [{"x": 1.0}] * 3)
