"""Random DICOM series of every kind against an independent reading of them.

The oracle walks through the files with pydicom alone, looks elements up where the standard puts them, and
lists every voxel by the equation of C.7.6.2.1-1, rescaled. Tiles are listed as the writer put them.
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pydicom = pytest.importorskip("pydicom")

from fedrecon.data import DataError, read_dicom_slices  # noqa: E402
from tests.data.dicom_files import group, header, item, mosaic, placed, save  # noqa: E402

KINDS = ("plain", "enhanced", "mosaic", "vframe")


@st.composite
def series(draw):
    """A dict of what a series is like; see `write`."""
    kind = draw(st.sampled_from(KINDS))
    digits = draw(st.sampled_from((1, 2, 4, 6))) if kind in ("plain", "enhanced") else 8
    count = draw(st.integers(1, 7))
    rotation = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 999))).normal(size=(3, 3)))[0]
    step = draw(st.floats(0.6, 6))
    damage = draw(st.sampled_from(("", "", "", "missing", "twice", "beside", "phases")))
    if kind in ("mosaic", "vframe") or count < 5 or step < 1:
        damage = ""
    return {
        "kind": kind,
        "damage": damage,
        "modality": draw(st.sampled_from(("CT", "MR"))) if kind in ("plain", "enhanced") else "MR",
        "digits": digits,
        "count": count,
        "shape": (draw(st.integers(2, 4)), draw(st.integers(2, 5))),
        "orientation": np.round((np.eye(3) if draw(st.booleans()) else rotation)[:2], 8),
        "corner": np.array([draw(st.floats(-300, 300)) for _ in range(3)]),
        "spacing": tuple(round(draw(st.floats(0.2, 4)), 4) for _ in range(2)),
        "step": step,
        "shear": draw(st.sampled_from((0.0, 0.0, 0.4, -1.3))) if kind in ("plain", "enhanced") else 0.0,
        "bits": draw(st.sampled_from((8, 12, 16))),
        "signed": draw(st.booleans()),
        "rescaled": draw(st.booleans()),
        "seed": draw(st.integers(0, 999)),
    }


def write(folder, case):
    """Writes the files, and returns tiles (place, picture) where the standard's rules do not tell them."""
    rng = np.random.default_rng(case["seed"])
    count, bits, (row, column) = case["count"], case["bits"], case["orientation"]
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if case["signed"] else (0, 2**bits)
    pixels = rng.integers(low, high, (count, *case["shape"])).astype(
        np.int16 if case["signed"] else np.uint16
    )
    normal = np.cross(row, column)
    step = case["step"] * normal + case["shear"] * column
    places = np.round(case["corner"] + np.arange(count)[:, None] * step, case["digits"])
    common = {"orientation": case["orientation"].ravel(), "spacing": case["spacing"]}
    rescale = [(round(rng.uniform(0.1, 3), 3), round(rng.uniform(-1000, 0), 1)) for _ in range(count)]
    stated = case["rescaled"] or case["modality"] == "CT"
    if case["kind"] == "mosaic":
        save(mosaic(pixels, places[0], **common, step=case["step"], normal=normal), folder / "m.dcm")
        return [(places[0] + k * case["step"] * normal, pixels[k]) for k in range(count)]
    if case["kind"] == "vframe":
        across = int(np.ceil(np.sqrt(count)))
        page = np.zeros((-(-count // across) * case["shape"][0], across * case["shape"][1]), pixels.dtype)
        for k, tile in enumerate(pixels):
            top, left = k // across * case["shape"][0], k % across * case["shape"][1]
            page[top : top + case["shape"][0], left : left + case["shape"][1]] = tile
        data = placed(page, places[0], **common, modality="MR", RescaleSlope=None, RescaleIntercept=None)
        data.ImageType = ["ORIGINAL", "PRIMARY", "M", "VFRAME"]
        data.add_new(0x00650010, "LO", "Image Private Header")
        data.add_new(0x00651050, "DS", str(count))
        data.add_new(0x00651051, "SQ", [item(ImagePositionPatient=list(place))[0] for place in places])
        save(data, folder / "v.dcm")
        return list(zip(places, pixels, strict=True))
    order = rng.permutation(count).tolist()
    if case["damage"] == "missing":
        order.remove(count // 2)
    if case["damage"] == "beside":
        places[count // 2] += 0.5 * case["step"] * row
    times = {k: 1 for k in order}
    if case["damage"] == "twice":
        order.append(order[0])
    if case["damage"] == "phases":
        order += order
    if case["kind"] == "enhanced":
        data = header(pixels[order], case["modality"], bits=bits, enhanced=True)
        shared = rng.random() < 0.5
        data.SharedFunctionalGroupsSequence = [group(**(common if shared else {}))]
        data.PerFrameFunctionalGroupsSequence = [
            group(places[k], **({} if shared else common), rescale=rescale[k] if stated else None)
            for k in order
        ]
        save(data, folder / "e.dcm")
        return None
    for index, k in enumerate(order):
        slope, intercept = rescale[k] if stated else (None, None)
        text = [f"{x:.{case['digits']}f}" for x in places[k]]
        elements = {"RescaleSlope": slope, "RescaleIntercept": intercept, "modality": case["modality"]}
        elements["AcquisitionNumber"] = 1 + index // max(len(times), 1) if case["damage"] == "phases" else 1
        save(placed(pixels[k], text, **common, **elements, bits=bits, index=index), folder / f"{index}.dcm")
    return None


def voxels(folder):
    """(place, picture) of every frame, after the standard, and the spacing and orientation of the first."""
    result = []
    for path in sorted(folder.iterdir()):
        data = pydicom.dcmread(path)
        stored = np.frombuffer(data.PixelData, np.int16 if data.PixelRepresentation else np.uint16)
        stored = stored.reshape(-1, data.Rows, data.Columns)
        for k, picture in enumerate(stored):
            layers = [data]
            if "PerFrameFunctionalGroupsSequence" in data:
                groups = (data.PerFrameFunctionalGroupsSequence[k], data.SharedFunctionalGroupsSequence[0])
                layers = [entry.value[0] for g in groups for entry in g]
            found = {}
            for key in ("ImagePositionPatient", "RescaleSlope", "RescaleIntercept"):
                found[key] = next((np.array(x[key].value, float) for x in layers if key in x), None)
            slope = 1 if found["RescaleSlope"] is None else found["RescaleSlope"]
            intercept = 0 if found["RescaleIntercept"] is None else found["RescaleIntercept"]
            result.append((found["ImagePositionPatient"], picture * slope + intercept))
    return result


def check(case):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiles = write(folder, case)
        expected = tiles or voxels(folder)
        if case["damage"]:
            with pytest.raises(DataError, match="ImagePositionPatient") as caught:
                read_dicom_slices(folder)
            assert ("AcquisitionNumber" in str(caught.value)) == (
                case["damage"] == "phases" and case["kind"] == "plain"
            )
            return
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = read_dicom_slices(folder)
    row, column = case["orientation"]
    normal = np.cross(row, column)
    expected.sort(key=lambda entry: entry[0] @ normal)
    values = np.stack([picture for _, picture in expected])
    np.testing.assert_allclose(found.values, values, rtol=1e-6, atol=1e-3)
    tolerance = 1.01 * 10.0 ** -case["digits"] + 1e-6
    for k, (place, _) in enumerate(expected):
        for j, i in np.ndindex(case["shape"]):
            there = place + i * case["spacing"][1] * row + j * case["spacing"][0] * column
            assert np.abs((found.affine @ [i, j, k, 1])[:3] - there).max() < tolerance
    if case["count"] > 1:
        assert abs(found.spacing[0] - case["step"]) < 2 * tolerance / (case["count"] - 1)
        sheared = case["shear"] != 0
        displaced = abs(case["shear"]) * (case["count"] - 1)
        if not sheared or displaced > 4 * tolerance:
            assert any("gantry tilt" in str(w.message) for w in said) == sheared
    assert found.spacing[1:] == pytest.approx(case["spacing"]) and found.modality == case["modality"]


OPTIONS = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=40, derandomize=True, **OPTIONS)
@given(series())
def test_random_series(case):
    check(case)


@pytest.mark.slow
@settings(max_examples=300, **OPTIONS)
@given(series())
def test_many_random_series(case):
    check(case)
