"""Cohorts of raw files off the grid of k-space: what becomes of spokes, echo-planar and twix lines."""

import h5py
import numpy as np
import pytest

from fedrecon.data.folders import survey_cohort
from fedrecon.data.folders.loading import load_volumes
from tests.data.hospital_files import centered_fft
from tests.data.raw_files import SIZE, coil_images, write_epi, write_radial, write_siemens
from tests.data.test_folders import examples

WRITERS = {"epi": write_epi, "radial": write_radial, "twix": write_siemens}
ENDS = {"epi": "h5", "radial": "h5", "twix": "dat"}


def write_hospitals(folder, *sites, patients=3):
    for site in sites or WRITERS:
        (folder / site).mkdir(parents=True)
        for patient in range(patients):
            kind = site.partition(" ")[0]
            WRITERS[kind](folder / site / f"p{patient}.{ENDS[kind]}", coil_images(patient))
    return folder


def error(found, right):
    return np.linalg.norm(found - right) / np.linalg.norm(right)


def test_spokes_and_lines_of_both_directions_become_the_kspace_of_their_images(tmp_path):
    write_hospitals(tmp_path, "epi", "radial", patients=1)
    loaded = load_volumes(tmp_path, "reconstruction")
    (epi,), (radial,) = loaded.volumes["epi"], loaded.volumes["radial"]
    assert (epi.gridded, radial.gridded) == ("EPI", "26 spokes") and not radial.undersampling
    right = centered_fft(coil_images(0))
    assert error(epi.kspace[0], right) < 0.02
    # Spokes see a disc of k-space: its corners are the images' own, and stay empty.
    n = np.arange(SIZE) - SIZE // 2
    disc = np.hypot(n[:, None], n) < SIZE // 2 - 1
    assert error(radial.kspace[0] * disc, right * disc) < 0.01
    assert np.linalg.norm(radial.kspace[0] * ~disc) < 1.1 * np.linalg.norm(right * ~disc)


@pytest.mark.slow
def test_hospitals_of_spokes_and_of_lines_are_one_cohort(tmp_path):
    pytest.importorskip("twixtools")
    write_hospitals(tmp_path)
    survey = survey_cohort(tmp_path, "reconstruction")
    assert survey.tasks == ("reconstruction",) and not survey.faults and not survey.odd
    assert [site.gridded for site in survey.sites] == [{"EPI": 3}, {"26 spokes": 3}, {}]
    assert survey.cohort.image_shape == (SIZE, SIZE)
    assert [site.gridded for site in survey.cohort.sites] == [3, 3, 0]
    for site, bound in (("epi", 0.02), ("radial", 0.12), ("twix", 1e-4)):
        for patient, found in examples(survey.cohort, site).items():
            images = coil_images(int(patient[1:]))
            target = found["target"][0] * found["scale"][0]
            assert error(target, np.sqrt((np.abs(images) ** 2).sum(0))) < bound, (site, patient)
            assert found["mask"].mean() < 0.9


def test_all_images_of_an_echo_planar_file_are_of_its_patient(tmp_path):
    (tmp_path / "epi").mkdir()
    write_epi(tmp_path / "epi" / "p0.h5", coil_images(0, 1), coil_images(3, 1))
    first, second = load_volumes(tmp_path, "reconstruction").volumes["epi"]
    assert first.patient == second.patient == "p0" and first.name != second.name
    for volume, number in ((first, 0), (second, 3)):
        assert error(volume.kspace[0], centered_fft(coil_images(number, 1))) < 0.02


@pytest.mark.slow
def test_too_few_spokes_are_said_where_the_data_are_described(tmp_path):
    write_hospitals(tmp_path, "radial")
    path = write_radial(tmp_path / "radial" / "p1.h5", coil_images(1), spokes=8)
    survey = survey_cohort(tmp_path, "reconstruction")
    # Eight spokes lie within half a cell of each other out to 8 / pi cells from the center, of 8 in all.
    (sentence,) = survey.odd
    assert sentence.startswith("radial/p1.h5: 8 spokes cover ") and "streaks are in the reference" in sentence
    assert 40 < float(sentence.split("cover ")[1].split()[0]) < 75
    assert "radial: 8 spokes cover" in survey.cohort.notes
    with h5py.File(path, "r+") as file:
        file["traj"][...] *= 2 * np.pi
    (fault,) = survey_cohort(tmp_path, "reconstruction").faults
    assert "p1.h5" in str(fault) and "trajectory" in str(fault)
