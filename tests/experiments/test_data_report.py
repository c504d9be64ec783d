"""What sites have: sums, quantiles of histograms, and no small number."""

import json

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data_report import table
from experiments.pipeline.data_profile import (
    INTENSITY_EDGES,
    QUANTILES,
    Record,
    acceleration,
    document,
    of_folder,
    profile,
    quantiles,
    signal_to_noise,
)

LEAST = 10


def record(patient, slices, **answers):
    images = np.random.default_rng(slices).uniform(1, 2, (slices, 2, 2))
    return Record(patient, slices, answers, images)


volumes = st.builds(
    record,
    st.sampled_from([f"p{number}" for number in range(20)]),
    st.integers(1, 3),
    vendor=st.sampled_from(["v1", "v2", "v3"]),
    coils=st.sampled_from(["c1", "c2"]),
)


def counts_in(node):
    """Every integer of a document outside of "minimum"."""
    if isinstance(node, dict):
        return [n for name, inside in node.items() if name != "minimum" for n in counts_in(inside)]
    return [node] if isinstance(node, int) else []


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from("abc"), st.lists(volumes, max_size=40), min_size=1))
def test_no_number_below_the_minimum_is_in_a_report_or_follows_from_it(cohort):
    profiles = {name: profile(of) for name, of in cohort.items()}
    found = json.loads(json.dumps(document(profiles, LEAST)))
    assert all(number >= LEAST for number in counts_in(found))
    table(found)
    for name, site in found["sites"].items():
        total = profiles[name].volumes
        for answers in site["counts"].values():
            shown = [number for number in answers.values() if number is not None]
            # Another question may have told the total.
            assert len(shown) == len(answers) or total - sum(shown) >= LEAST or not shown
        if total < LEAST:
            assert not counts_in(site) and site["intensity_quantiles"] is site["snr_db_quartiles"] is None
    for kind in ("volumes", "patients", "slices"):
        shown = [site[kind] for site in found["sites"].values() if site[kind] is not None]
        assert found["all"][kind] == (sum(shown) if shown else None)


@given(st.lists(st.floats(1e-3, 1e3), min_size=20, max_size=200), st.booleans())
def test_quantiles_are_within_a_bin_of_those_of_the_values(values, negative):
    values = np.asarray(values) * (-1 if negative else 1)
    counted = np.histogram(values, INTENSITY_EDGES)[0]
    for part, found in zip(QUANTILES, quantiles(counted, INTENSITY_EDGES, QUANTILES), strict=True):
        low, high = np.quantile(values, part, method="lower"), np.quantile(values, part, method="higher")
        # A bin is an eighth wide, and two digits are a twentieth.
        low, high = sorted([abs(low), abs(high)])
        assert low / 1.2 <= abs(found) <= high * 1.2
    assert quantiles(np.zeros(3, int), np.arange(4.0), (0.5,)) is None


def test_noise_is_found_in_a_smooth_object():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    smooth = np.where(x**2 + y**2 < 0.6, 100.0, 0.0)
    found = signal_to_noise(np.stack([smooth + rng.normal(0, 2, smooth.shape) for _ in range(4)]))
    # Edges count as noise.
    assert -2 < found - 20 * np.log10(50) < 0
    assert np.isnan(signal_to_noise(np.zeros((1, 4, 4))))


def test_undersampling_is_told_to_a_half():
    mask = np.zeros((8, 8))
    mask[:, ::3] = 1
    assert (
        acceleration(mask) == "2.5"
        and acceleration(None) == "1.0"
        and acceleration(mask[:, 1:3]) == "not said"
    )


HEADER = """<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><acquisitionSystemInformation>
<systemVendor>{}</systemVendor><systemFieldStrength_T>{}</systemFieldStrength_T></acquisitionSystemInformation>
<encoding><encodedSpace><matrixSize><x>8</x><y>8</y><z>1</z></matrixSize>
<fieldOfView_mm><x>80</x><y>80</y><z>5</z></fieldOfView_mm></encodedSpace><reconSpace>
<matrixSize><x>8</x><y>8</y><z>1</z></matrixSize><fieldOfView_mm><x>80</x><y>80</y><z>5</z></fieldOfView_mm>
</reconSpace></encoding></ismrmrdHeader>"""


def test_files_of_fastmri_tell_coils_undersampling_and_scanner(tmp_path):
    """A volume with its reference, and one of a test set: a mask and no reference."""
    rng = np.random.default_rng(0)
    for number, vendor in enumerate(("Siemens", "GE")):
        path = tmp_path / "north" / f"{number}.h5"
        path.parent.mkdir(exist_ok=True)
        with h5py.File(path, "w") as file:
            kspace = rng.normal(size=(2, 3, 8, 8)) + 1j * rng.normal(size=(2, 3, 8, 8))
            mask = np.arange(8) % 4 == 0 if number else np.ones(8, bool)
            file["kspace"] = (kspace * mask).astype(np.complex64)
            file["ismrmrd_header"] = HEADER.format(vendor, 2.8936)
            if number:
                file["mask"] = mask
            else:
                file["reconstruction_rss"] = abs(rng.normal(size=(2, 8, 8))).astype(np.float32)
    records = of_folder(tmp_path)["north"]
    answers = [r.answers | {"slices": r.slices} for r in records]
    assert [a["vendor"] for a in answers] == ["Siemens", "GE"]
    told = {(a["field"], a["coils"], a["matrix"], a["slices"]) for a in answers}
    assert told == {("2.9 T", "3", "8 x 8", 2)}
    assert [a["acceleration"] for a in answers] == ["1.0", "4.0"]


def test_without_a_site_nothing_is_reported():
    with pytest.raises(ValueError, match="profiles: expected at least one site"):
        document({}, LEAST)
