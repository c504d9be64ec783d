"""Hospitals that scan brains, and the one that takes no part."""

import numpy as np
import pytest

from fedrecon.data.simulation import (
    HOSPITAL_FRACTIONS,
    abdominal_hospitals,
    brain_hospitals,
    plan_patients,
    simulate_mri_test_site,
)


def test_hospitals_differ_and_the_unseen_one_is_none_of_them():
    hospitals, unseen = brain_hospitals(10, acceleration=8.0)
    names = [site.name for site in hospitals]
    assert len(set(names)) == 10 and unseen.name not in names
    protocols = {(s.repetition_time, s.echo_time, s.field_strength, s.mask) for s in hospitals[:8]}
    assert len(protocols) == 8
    assert (unseen.repetition_time, unseen.echo_time, unseen.field_strength, unseen.mask) not in protocols
    # Twice the usual acceleration on average.
    assert np.mean([s.acceleration for s in hospitals[:8]]) == pytest.approx(2 * 4.375)
    assert hospitals[8].snr < hospitals[0].snr


def test_every_hospital_trains_on_few_patients_and_the_unseen_one_on_none():
    hospitals, unseen = brain_hospitals()
    for site in hospitals:
        plan = plan_patients(site.name, site.patients, site.prevalence, 0, HOSPITAL_FRACTIONS)
        assert [len(members) for members in plan.values()] == [1, 1, 2]
        assert any(p.lesions for p in plan["train"]) and any(p.lesions for p in plan["test"])
    plan = plan_patients(unseen.name, unseen.patients, unseen.prevalence, 0, (0.0, 0.0, 1.0))
    assert [len(members) for members in plan.values()] == [0, 0, unseen.patients]
    data = simulate_mri_test_site(unseen, 2, (24, 24), coils=6)
    assert data.names == (unseen.name,) and int(data.counts[0]) == 2 * unseen.patients
    kspace = np.asarray(data.examples["kspace"][0])
    assert kspace.shape[1] == 6 and np.all(kspace[:, unseen.coils :] == 0)


def test_too_little_acceleration_is_refused():
    with pytest.raises(ValueError, match="acceleration: expected at least 4/3"):
        brain_hospitals(acceleration=1.0)


def test_no_scanner_or_patient_of_the_starting_network_is_in_the_hospitals():
    """Patients are drawn by the names of their sites, which are all different."""
    hospitals, unseen = brain_hospitals(16)
    others = abdominal_hospitals(16)
    assert not {site.name for site in others} & {site.name for site in (*hospitals, unseen)}
    assert {site.anatomy for site in others} == {"abdomen"}
    protocols = [{(s.field_strength, s.repetition_time, s.echo_time, s.inversion_time) for s in group}
                 for group in (others, (*hospitals, unseen))]  # fmt: skip
    assert not protocols[0] & protocols[1]
