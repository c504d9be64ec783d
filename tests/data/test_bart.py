"""BART arrays: what is written comes back, damaged pairs are refused, and axes are those of `operators`."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrecon.data import DataError
from fedrecon.data.formats import (
    from_bart,
    read_cfl,
    read_cfl_header,
    to_bart,
    trajectory_from_bart,
    trajectory_to_bart,
    write_cfl,
)
from fedrecon.data.formats.bart import DIMENSIONS
from operators import fft2c

in_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = st.lists(st.sampled_from(DIMENSIONS), min_size=1, max_size=6, unique=True)


def values(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def by_hand(folder, header, numbers, name="a"):
    """The pair as its format is described: text, and interleaved little-endian floats, first axis fastest."""
    (folder / f"{name}.hdr").write_text(header)
    (folder / f"{name}.cfl").write_bytes(struct.pack(f"<{len(numbers)}f", *numbers))


@in_folder
@given(st.lists(st.integers(1, 4), min_size=1, max_size=16).filter(lambda s: np.prod(s) <= 4096))
def test_what_is_written_is_read(tmp_path, shape):
    array = values(shape)
    write_cfl(tmp_path / "a", array, {"Command": "made\nin two lines", "Creator": "fedrecon"})
    read = read_cfl(tmp_path / "a")
    assert read.shape == (*shape, *[1] * (16 - len(shape))) and read.dtype == np.complex64
    np.testing.assert_array_equal(read.reshape(shape, order="F"), array)
    assert read_cfl_header(tmp_path / "a").sections == {
        "Command": "made\nin two lines",
        "Creator": "fedrecon",
    }
    assert sorted(os.listdir(tmp_path)) == ["a.cfl", "a.hdr"]


@pytest.mark.parametrize("name", ["a", "a.cfl", "a.hdr"])
def test_bytes_are_column_major_and_every_name_of_the_pair_works(tmp_path, name):
    header = "# Dimensions\n2 3" + " 1" * 14 + " \n# Command\nphantom a \n# Files\n >a\n# Creator\nBART\n"
    by_hand(tmp_path, header, range(12))
    read = read_cfl(tmp_path / name)
    expected = [[0 + 1j, 4 + 5j, 8 + 9j], [2 + 3j, 6 + 7j, 10 + 11j]]
    np.testing.assert_array_equal(read[(..., *[0] * 14)], expected)
    assert isinstance(read, np.memmap) and not read.flags.writeable
    sections = {"Command": "phantom a", "Files": ">a", "Creator": "BART"}
    assert read_cfl_header(tmp_path / name).sections == sections
    write_cfl(tmp_path / "written", np.array(expected))
    assert (tmp_path / "written.cfl").read_bytes() == (tmp_path / "a.cfl").read_bytes()


def test_short_headers_and_names_with_points_are_read(tmp_path):
    by_hand(tmp_path, "made by hand\n# Dimensions\n2\n", range(4), "scan.v2")
    assert read_cfl(tmp_path / "scan.v2").shape == (2, *[1] * 15)
    by_hand(tmp_path, "# Dimensions\n" + "1 " * 15 + "2 1 1", range(4))
    assert read_cfl(tmp_path / "a").shape == (*[1] * 15, 2)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", "0 among"),
        ("Dimensions\n2 3\n", "0 among"),
        ("# Dimensions\n2 3\n# Dimensions\n2 3\n", "2 among"),
        ("# Dimensions\n\n", "positive integers, found ''"),
        ("# Dimensions\n2 three\n", "integers, found '2 three'"),
        ("# Dimensions\n2 3.0\n", "found '2 3.0'"),
        ("# Dimensions\n2 3 0\n", "positive integers, found '2 3 0'"),
        ("# Dimensions\n-2 -3\n", "positive integers, found '-2 -3'"),
        ("# Dimensions\n" + "1 " * 16 + "6\n", "at most 16"),
        ("# Dimensions\n2 4\n", r"64 bytes \(2 x 4 complex64\), found 48 bytes"),
        ("# Dimensions\n2 2\n", r"32 bytes \(2 x 2 complex64\), found 48 bytes"),
        ("# Dimensions\n99999999999 99999999999\n", "found 48 bytes"),
    ],
)
def test_malformed_pairs_are_refused_by_file(tmp_path, header, found):
    by_hand(tmp_path, header, range(12))
    with pytest.raises(DataError, match=found) as caught:
        read_cfl(tmp_path / "a")
    assert str(tmp_path / "a") in str(caught.value) and "expected" in str(caught.value)


def test_missing_and_unreadable_files_are_refused_by_file(tmp_path):
    with pytest.raises(DataError, match=r"absent\.hdr: expected .* found No such file"):
        read_cfl(tmp_path / "absent")
    write_cfl(tmp_path / "a", np.ones(1))
    (tmp_path / "a.cfl").unlink()
    with pytest.raises(DataError, match=r"a\.cfl: expected .* found No such file"):
        read_cfl(tmp_path / "a")
    (tmp_path / "a.cfl").mkdir()
    with pytest.raises(DataError, match=r"a\.cfl: expected"):
        read_cfl(tmp_path / "a")
    (tmp_path / "b.hdr").mkdir()
    with pytest.raises(DataError, match=r"b\.hdr: expected"):
        read_cfl(tmp_path / "b")


@in_folder
@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_header_gives_an_array_of_the_file_or_an_error(tmp_path, tail, size):
    (tmp_path / "a.hdr").write_bytes(b"# Dimensions\n" + tail)
    (tmp_path / "a.cfl").write_bytes(bytes(size))
    try:
        read = read_cfl(tmp_path / "a")
    except DataError as error:
        assert str(tmp_path / "a") in str(error)
    else:
        assert read.ndim == 16 and read.nbytes == size


@pytest.mark.parametrize(
    ("array", "sections"),
    [
        (np.ones((2, 0)), {}),
        (np.ones([1] * 17), {}),
        (np.array("text"), {}),
        (np.array([1e300]), {}),
        (np.ones(2), {"Dimensions": "3"}),
        (np.ones(2), {"two words": "a"}),
        (np.ones(2), {"Command": "a\n# Dimensions\n3"}),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, array, sections):
    write_cfl(tmp_path / "a", np.arange(3))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match=str(tmp_path / "a")):
        write_cfl(tmp_path / "a", array, sections)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_an_interrupted_write_never_leaves_values_under_another_header(tmp_path, monkeypatch):
    """Whichever rename fails, the pair is the old one, the new one, or refused."""
    old, new = values((2, 3)), values((3, 2), 1)
    replace = Path.replace
    for failing in (".cfl", ".hdr"):

        def fail(self, target, failing=failing):
            if self.suffix == failing:
                raise OSError("no space left")
            return replace(self, target)

        write_cfl(tmp_path / "a", old)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", fail)
            with pytest.raises(OSError, match="no space"):
                write_cfl(tmp_path / "a", new)
        assert set(os.listdir(tmp_path)) <= {"a.cfl", "a.hdr"}
        try:
            left = read_cfl(tmp_path / "a")
        except DataError as error:
            assert "a.hdr" in str(error)
        else:
            array = next(x for x in (old, new) if left.shape[:2] == x.shape)
            np.testing.assert_array_equal(left.reshape(array.shape, order="F"), array)


@given(NAMES, st.data())
def test_axes_go_to_their_places_and_back(names, data):
    shape = tuple(data.draw(st.integers(1, 3)) for _ in names)
    array = values(shape)
    placed = to_bart(array, names)
    assert placed.ndim == 16
    assert [placed.shape[DIMENSIONS.index(name)] for name in names] == list(shape)
    index = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    place = [0] * 16
    for name, i in zip(names, index, strict=True):
        place[DIMENSIONS.index(name)] = i
    assert placed[tuple(place)] == array[index]
    back = from_bart(placed, names)
    assert back.shape == shape
    np.testing.assert_array_equal(back, array)


def test_axes_that_would_be_lost_are_refused_by_name():
    with pytest.raises(ValueError, match=r"5 \(TE\): expected length 1, found 2"):
        from_bart(np.ones((3, 3, 1, 1, 1, 2)), ("READ", "PHS1"))
    with pytest.raises(ValueError, match="16 axes"):
        from_bart(np.ones([1] * 17), ("READ",))
    for names in (("READ", "READ"), ("READ", "readout")):
        with pytest.raises(ValueError, match="distinct names"):
            from_bart(np.ones((3, 3)), names)
        with pytest.raises(ValueError, match="distinct names"):
            to_bart(np.ones((3, 3)), names)
    with pytest.raises(ValueError, match="2 axes"):
        to_bart(np.ones((3, 3)), ("READ",))


@given(st.tuples(*[st.integers(1, 5)] * 2), st.sampled_from([(8, 12), (6, 8, 10)]))
def test_trajectories_in_cycles_per_field_of_view_become_cycles_per_pixel(shape, image_shape):
    rng = np.random.default_rng(3)
    trajectory = rng.uniform(-0.5, 0.5, (*shape, len(image_shape))).astype(np.float32)
    written = trajectory_to_bart(trajectory, image_shape)
    assert written.shape == (3, shape[1], shape[0]) and written.dtype == np.complex64
    np.testing.assert_allclose(trajectory_from_bart(written, image_shape), trajectory, rtol=1e-6)
    # The edge of k-space, N / 2 cycles per field of view of N pixels, is half a cycle per pixel.
    columns = {"READ": -2, "PHS1": -1} | ({"PHS2": -3} if len(image_shape) == 3 else {})
    for component, name in enumerate(("READ", "PHS1", "PHS2")):
        if name in columns:
            edge = np.zeros((3, 1, 1))
            edge[component] = image_shape[columns[name]] / 2
            expected = np.zeros(len(image_shape))
            expected[columns[name]] = 0.5
            np.testing.assert_array_equal(trajectory_from_bart(edge, image_shape)[0, 0], expected)


@pytest.mark.parametrize(
    ("trajectory", "image_shape", "found"),
    [
        (np.zeros((2, 4, 4)), (8, 8), r"\(3, samples, spokes\), found \(2, 4, 4\)"),
        (np.zeros((3, 4, 4, 2)), (8, 8), "COIL"),
        (np.full((3, 4, 4), np.nan), (8, 8), "finite"),
        (np.full((3, 4, 4), 1j), (8, 8), "real"),
        (np.ones((3, 4, 4)), (8, 8), "PHS2: expected zero"),
        (np.zeros((3, 4, 4)), (8,), "image_shape"),
        (np.zeros((3, 4, 4)), (8, 0), "image_shape"),
    ],
)
def test_other_trajectories_are_refused(trajectory, image_shape, found):
    with pytest.raises(ValueError, match=found):
        trajectory_from_bart(trajectory, image_shape)


def test_trajectories_of_other_shapes_are_not_converted():
    for shape in ((4, 4, 3), (4, 2)):
        with pytest.raises(ValueError, match=r"\(spokes, samples, 2\)"):
            trajectory_to_bart(np.zeros(shape), (8, 8))


def test_a_trajectory_on_the_grid_measures_the_cartesian_transform():
    """Rows along READ and columns along PHS1 hold for both."""
    shape = (6, 8)
    image = values(shape)
    kspace = to_bart(np.asarray(fft2c(image)), ("READ", "PHS1"))
    grid = np.zeros((3, *shape))
    grid[0] = np.arange(6)[:, None] - 3
    grid[1] = np.arange(8) - 4
    # Samples along PHS1 and spokes along PHS2: here readouts of 6 samples, 8 of them.
    k = trajectory_from_bart(grid, shape).astype(float)
    rows, columns = (
        np.exp(-2j * np.pi * k[..., axis, None] * (np.arange(n) - n // 2)) for axis, n in enumerate(shape)
    )
    measured = np.einsum("smi,ij,smj->sm", rows, image, columns) / np.sqrt(image.size)
    np.testing.assert_allclose(measured.T, from_bart(kspace, ("READ", "PHS1")), atol=1e-5)
