"""The fastMRI reader and writer: what is written comes back, and every damaged file is a DataError."""

import os

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrecon.data import DataError, FastMRIVolume, read_fastmri, write_fastmri
from fedrecon.data.formats import parse_ismrmrd_header

HEADER = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>12</x><y>10</y><z>1</z></matrixSize>
<fieldOfView_mm><x>440.0</x><y>220</y><z>4.5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>6</x><y>10</y><z>1</z></matrixSize>
<fieldOfView_mm><x>0</x><y>0</y><z>0</z></fieldOfView_mm></reconSpace></encoding></ismrmrdHeader>"""

in_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def volume(shape=(2, 3, 6, 5), seed=0, **changes):
    rng = np.random.default_rng(seed)
    slices, _, ny, nx = shape
    content = {
        "kspace": (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64),
        "mask": np.arange(nx) % 2 == 0,
        "reconstruction_rss": rng.random((slices, ny, nx)).astype(np.float32),
        "segmentation": (rng.random((slices, ny, nx)) < 0.5).astype(np.uint8),
        "header_xml": HEADER,
        "attributes": {"patient_id": "p1", "acquisition": "T2"},
    }
    return FastMRIVolume(**(content | changes))


@in_folder
@given(st.tuples(*[st.integers(1, 6)] * 4), st.booleans(), st.booleans(), st.booleans())
def test_what_is_written_is_read(tmp_path, shape, plane_mask, reference, header):
    written = volume(
        shape,
        mask=np.ones(shape[2:], bool) if plane_mask else None,
        reconstruction_rss=np.ones((shape[0], 2, 3), np.float32) if reference else None,
        header_xml=HEADER if header else None,
    )
    write_fastmri(tmp_path / "v.h5", written)
    read = read_fastmri(tmp_path / "v.h5")
    for name in ("kspace", "mask", "reconstruction_rss", "segmentation"):
        a, b = getattr(written, name), getattr(read, name)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    assert read.header_xml == written.header_xml
    assert read.attributes["patient_id"] == "p1"
    assert ("max" in read.attributes) == reference
    assert os.listdir(tmp_path) == ["v.h5"]


def test_header_holds_matrix_and_field_of_view():
    header = volume().header
    assert header.encoded.matrix == (12, 10, 1)
    assert header.encoded.field_of_view == (440.0, 220.0, 4.5)
    assert header.recon.matrix == (6, 10, 1)
    assert header.recon.field_of_view is None
    assert volume(header_xml=None).header is None


def test_missing_header_is_an_error_only_when_asked_for(tmp_path):
    write_fastmri(tmp_path / "v.h5", volume(header_xml=None))
    assert read_fastmri(tmp_path / "v.h5").header is None
    with pytest.raises(DataError, match="ismrmrd_header"):
        read_fastmri(tmp_path / "v.h5", require_header=True)


@pytest.mark.parametrize(
    ("xml", "found"),
    [
        (HEADER.replace("?>", '?><!DOCTYPE a [<!ENTITY e "x">]>', 1), "document type"),
        (HEADER.replace("?>", '?><!DOCTYPE a SYSTEM "file:///etc/passwd">', 1), "document type"),
        (HEADER[:-5], "well-formed"),
        ("", "well-formed"),
        (HEADER.replace('"1.0"', '"1.0" encoding="utf-16"', 1), "well-formed"),
        ("<a/>", "encoding"),
        (HEADER.replace("<x>12</x>", "<x>twelve</x>"), "encodedSpace/matrixSize/x"),
        (HEADER.replace("<x>12</x>", ""), "encodedSpace/matrixSize/x"),
        (HEADER.replace("<x>12</x>", "<x>0</x>"), "encodedSpace/matrixSize/x"),
        (HEADER.replace("<y>220</y>", "<y>nan</y>"), "encodedSpace/fieldOfView_mm/y"),
        (HEADER.replace("<y>220</y>", "<y>-1</y>"), "encodedSpace/fieldOfView_mm/y"),
    ],
)
def test_malformed_headers_are_refused(tmp_path, xml, found):
    with pytest.raises(DataError, match=found):
        parse_ismrmrd_header(xml)
    write_fastmri(tmp_path / "v.h5", volume())
    with h5py.File(tmp_path / "v.h5", "a") as file:
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = xml
    with pytest.raises(DataError, match=found) as caught:
        read_fastmri(tmp_path / "v.h5")
    assert caught.value.path == str(tmp_path / "v.h5") and caught.value.key == "ismrmrd_header"


KSPACE = volume().kspace
MASK = np.ones(5, np.uint8)
REFERENCE = np.ones((2, 6, 5), np.float32)
BAD_ENTRIES = {
    "kspace": [
        None,
        KSPACE.real,
        KSPACE.real.astype(np.int16),
        KSPACE[0],
        KSPACE[None],
        KSPACE[:0],
        np.complex64(1),
        np.where(KSPACE[1, 2, 3, 4] == KSPACE, np.nan, KSPACE),
        np.where(KSPACE[0, 0, 0, 0] == KSPACE, np.inf, KSPACE),
        np.full(KSPACE.shape, 1e300, np.complex128),
        "a text",
        np.array([["text"] * 2] * 2, h5py.string_dtype()),
        np.zeros(3, [("re", "f4"), ("im", "f4")]),
        h5py.Empty("c8"),
        {},
    ],
    "mask": [MASK[:4], MASK[None], MASK * 2, MASK * np.nan, MASK[:0], "a text", np.ones((6, 5), "c8"), {}],
    "reconstruction_rss": [
        REFERENCE[:1],
        REFERENCE[0],
        REFERENCE * np.nan,
        REFERENCE.astype(np.complex64),
        REFERENCE[:, :0],
        b"bytes",
        {},
    ],
    "segmentation": [REFERENCE, REFERENCE[:1].astype(np.uint8), np.full((2, 6, 5), 2, np.uint8), {}],
    "ismrmrd_header": [np.float32(1), np.array([HEADER] * 2, h5py.string_dtype()), b"\xff\xfe\xfa", {}],
}
CASES = [(key, index) for key, entries in BAD_ENTRIES.items() for index in range(len(entries))]


@pytest.mark.parametrize(("key", "index"), CASES)
def test_wrong_entries_are_refused_by_file_and_key(tmp_path, key, index):
    path, entry = tmp_path / "v.h5", BAD_ENTRIES[key][index]
    write_fastmri(path, volume())
    with h5py.File(path, "a") as file:
        del file[key]
        if isinstance(entry, dict):
            file.create_group(key)
        elif entry is not None:
            file[key] = entry
    with pytest.raises(DataError) as caught:
        read_fastmri(path)
    assert caught.value.path == str(path) and caught.value.key == key
    for word in (str(path), key, "expected", "found"):
        assert word in str(caught.value)


def test_values_kept_in_other_files_are_refused(tmp_path):
    write_fastmri(tmp_path / "other.h5", volume())
    shape = KSPACE.shape
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["kspace"] = h5py.ExternalLink("other.h5", "/kspace")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(shape, "c8")
        layout[:] = h5py.VirtualSource("other.h5", "kspace", shape)
        file.create_virtual_dataset("kspace", layout)
    (tmp_path / "raw.bin").write_bytes(bytes(KSPACE.nbytes))
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("kspace", shape, "c8", external=[(str(tmp_path / "raw.bin"), 0, KSPACE.nbytes)])
    with h5py.File(tmp_path / "claimed.h5", "w") as file:
        file.create_dataset("kspace", (10**6, 10**6, 10**3, 10**3), "c8", chunks=(1, 1, 8, 8))
    with h5py.File(tmp_path / "dangling.h5", "w") as file:
        file["kspace"] = h5py.SoftLink("/nowhere")
    for name in ("link", "virtual", "external", "claimed", "dangling"):
        with pytest.raises(DataError, match="kspace"):
            read_fastmri(tmp_path / f"{name}.h5")


def test_what_is_not_an_hdf5_file_is_refused(tmp_path):
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "text.h5").write_text("not a file of this kind\n" * 100)
    (tmp_path / "folder.h5").mkdir()
    os.mkfifo(tmp_path / "pipe.h5")
    for name in ("empty", "text", "folder", "pipe", "absent"):
        with pytest.raises(DataError, match=f"{name}.h5: expected an HDF5 file, found"):
            read_fastmri(tmp_path / f"{name}.h5")


@in_folder
@given(st.data())
def test_truncated_files_are_refused(tmp_path, data):
    write_fastmri(tmp_path / "whole.h5", volume())
    content = (tmp_path / "whole.h5").read_bytes()
    length = data.draw(st.integers(0, len(content) - 1))
    (tmp_path / "cut.h5").write_bytes(content[:length])
    with pytest.raises(DataError, match=r"cut\.h5"):
        read_fastmri(tmp_path / "cut.h5")


@settings(parent=in_folder, max_examples=150)
@given(st.integers(0, 2**32), st.integers(1, 40), st.booleans())
def test_altered_bytes_give_a_whole_valid_volume_or_an_error(tmp_path, seed, changes, overhead):
    """Bytes of the values may change unnoticed; shapes, types, finiteness and 0/1 masks hold in any case."""
    write_fastmri(tmp_path / "whole.h5", volume())
    content = bytearray((tmp_path / "whole.h5").read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, 2048 if overhead else len(content), changes):
        content[place] = rng.integers(256)
    (tmp_path / "altered.h5").write_bytes(content)
    try:
        read = read_fastmri(tmp_path / "altered.h5")
    except DataError as error:
        assert "altered.h5" in str(error)
    else:
        assert read.kspace.dtype == np.complex64 and read.kspace.ndim == 4 and read.kspace.size
        assert np.isfinite(read.kspace).all()
        assert read.mask is None or read.mask.shape in (read.kspace.shape[2:], read.kspace.shape[3:])
        assert read.reconstruction_rss is None or len(read.reconstruction_rss) == len(read.kspace)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"kspace": KSPACE.real}, "kspace"),
        ({"kspace": KSPACE.astype(np.complex128)}, "kspace"),
        ({"kspace": KSPACE * np.nan}, "kspace"),
        ({"kspace": KSPACE[:0]}, "kspace"),
        ({"mask": np.ones(4, bool)}, "mask"),
        ({"mask": np.ones(5, np.uint8)}, "mask"),
        ({"reconstruction_rss": REFERENCE[:1]}, "reconstruction_rss"),
        ({"segmentation": np.full((2, 6, 5), 3, np.uint8)}, "segmentation"),
        ({"segmentation": np.zeros((2, 6, 4), np.uint8)}, "segmentation"),
        ({"header_xml": "<a>"}, "ismrmrd_header"),
    ],
)
def test_volumes_that_could_not_be_read_are_not_written(tmp_path, changes, key):
    with pytest.raises(DataError, match=key):
        write_fastmri(tmp_path / "v.h5", volume(**changes))
    assert not os.listdir(tmp_path)


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_fastmri(tmp_path / "v.h5", volume())
    before = (tmp_path / "v.h5").read_bytes()
    with pytest.raises(TypeError):
        write_fastmri(tmp_path / "v.h5", volume(seed=1, attributes={"patient_id": object()}))
    assert os.listdir(tmp_path) == ["v.h5"]
    assert (tmp_path / "v.h5").read_bytes() == before
    with pytest.raises(OSError):
        write_fastmri(tmp_path / "absent" / "v.h5", volume())


def test_single_coil_files_need_the_caller_to_say_so(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["kspace"] = KSPACE[:, 0]
    with pytest.raises(DataError, match="4 axes"):
        read_fastmri(tmp_path / "v.h5")
    np.testing.assert_array_equal(read_fastmri(tmp_path / "v.h5", single_coil=True).kspace, KSPACE[:, :1])


def test_attributes_that_are_not_understood_make_no_file_unsound(tmp_path):
    write_fastmri(tmp_path / "v.h5", volume())
    with h5py.File(tmp_path / "v.h5", "a") as file:
        file.attrs["reference"] = file["kspace"].ref
        file.attrs["empty"] = h5py.Empty("S1")
        file.attrs["compound"] = np.array((1.0, 2.0), [("x", "f4"), ("y", "f4")])
        file.attrs["references"] = np.array([file["kspace"].ref] * 2, h5py.ref_dtype)
        file.attrs["coils"] = ["HE1", "HE2"]
        file.attrs["bytes"] = np.array([b"HE1", b"HE2"])
        file.attrs["matrix"] = np.eye(2)
        file.attrs["flag"] = True
    read = read_fastmri(tmp_path / "v.h5")
    np.testing.assert_array_equal(read.kspace, volume().kspace)
    assert read.attributes["coils"] == read.attributes["bytes"] == ["HE1", "HE2"]
    assert read.attributes["flag"] is True
    np.testing.assert_array_equal(read.attributes["matrix"], np.eye(2))
    assert not {"reference", "references", "empty", "compound"} & set(read.attributes)


@pytest.mark.parametrize(
    ("names", "part"),
    [(("real", "imag"), "f4"), (("r", "i"), "i2"), (("re", "im"), "f8"), (("Real", "Imag"), "i4")],
)
def test_pairs_of_numbers_are_complex(tmp_path, names, part):
    """As MATLAB and converters of integer samples write them."""
    stored = np.round(KSPACE * 100)
    pairs = np.empty(stored.shape, [(name, part) for name in names])
    pairs[names[0]], pairs[names[1]] = stored.real, stored.imag
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["kspace"] = pairs
    np.testing.assert_array_equal(read_fastmri(tmp_path / "v.h5").kspace, stored)
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["kspace"] = pairs.astype([("x", part), ("y", part)])
    with pytest.raises(DataError, match=r"kspace.*complex"):
        read_fastmri(tmp_path / "v.h5")
