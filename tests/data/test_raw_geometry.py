"""What was measured and how large its pixels are: random ISMRMRD scans against the standard's rules."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrecon.data import read_ismrmrd, read_measurement
from fedrecon.data.formats import EncodingSpace
from fedrecon.data.formats.geometry import image_geometry, slice_order

ismrmrd = pytest.importorskip("ismrmrd")

NOISE = 19
OTHERS = (NOISE, NOISE, 23, 24, 26, 27, 28, 29, 30, 31)
in_folder = dict(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, database=None)


def xml(scan):
    def triple(name, values):
        return (
            f"<{name}>"
            + "".join(f"<{a}>{v}</{a}>" for a, v in zip("xyz", values, strict=True))
            + f"</{name}>"
        )

    def space(name, matrix, view):
        return f"<{name}>{triple('matrixSize', matrix)}{triple('fieldOfView_mm', view)}</{name}>"

    limits = "".join(
        f"<kspace_encoding_step_{i}><minimum>0</minimum><maximum>{n - 1}</maximum><center>{c}</center>"
        f"</kspace_encoding_step_{i}>"
        for i, n, c in (
            (1, scan["matrix"][1], scan["centers"][0]),
            (2, scan["matrix"][2], scan["centers"][1]),
        )
    )
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><experimentalConditions>'
        "<H1resonanceFrequency_Hz>1</H1resonanceFrequency_Hz></experimentalConditions><encoding>"
        + space("encodedSpace", scan["matrix"], scan["view"])
        + space("reconSpace", scan["recon_matrix"], scan["recon_view"])
        + f"<encodingLimits>{limits}</encodingLimits><trajectory>cartesian</trajectory>"
        + "<parallelImaging><accelerationFactor><kspace_encoding_step_1>1</kspace_encoding_step_1>"
        + "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
        + f"<calibrationMode>{scan['mode']}</calibrationMode></parallelImaging></encoding></ismrmrdHeader>"
    )


@st.composite
def scans(draw):
    """A scan by its header and its lines: image, (slice, kz, ky) relative to DC, first sample, flags.

    Lines of several contrasts and repetitions are mixed with each other and with those of other purposes.
    """
    volume = draw(st.booleans())
    recon = [draw(st.integers(2, 7)), draw(st.integers(2, 8)), draw(st.integers(2, 5)) if volume else 1]
    pixel = [draw(st.sampled_from([0.75, 1.0, 2.5])) for _ in range(3)]
    over = [draw(st.sampled_from(f)) for f in ((1, 2), (1, 1.25, 1.5), (1, 1.5) if volume else (1,))]
    matrix = [int(np.ceil(n * o)) for n, o in zip(recon, over, strict=True)]
    view = [m * p for m, p in zip(matrix, pixel, strict=True)]
    recon_view = [n * p for n, p in zip(recon, pixel, strict=True)]
    interpolated = [n * draw(st.sampled_from([1, 2])) for n in recon[:2]] + recon[2:]
    if not volume and draw(st.booleans()):
        # The encoded extent along slices is not their distance, and may be stated as a slab of two.
        matrix[2], view[2] = draw(st.sampled_from([(1, 7.5), (2, 2 * view[2])]))
    centers = [draw(st.integers(0, n)) for n in matrix[1:]]
    count = 1 if volume else draw(st.integers(1, 3))
    gap = draw(st.sampled_from([0.0, 0.5, 3.0]))
    samples = matrix[0]
    cut = draw(st.integers(0, samples // 2 - 1)) if samples > 3 and draw(st.booleans()) else 0
    lines = []
    every = draw(st.sampled_from([1, 2, 3]))
    # Partial Fourier: the first lines were not measured.
    skipped = draw(st.integers(0, matrix[1] // 2 - 1)) if matrix[1] > 3 and draw(st.booleans()) else 0
    images = [(c, r) for c in range(draw(st.integers(1, 2))) for r in range(draw(st.sampled_from([1, 1, 3])))]
    # A scan is a volume only where it was measured as one.
    depths = range(-(matrix[2] // 2), matrix[2] - matrix[2] // 2) if volume else [0]
    for image, s in itertools.product(images, range(count)):
        for kz in depths:
            for ky in range(skipped - matrix[1] // 2, matrix[1] - matrix[1] // 2):
                extra = abs(ky) < 1
                if ky % every and not extra:
                    continue
                flags = draw(st.sampled_from([(), (), (), (22,)]))
                if extra and every > 1:
                    flags += ((20,) if ky % every else (21,)) if draw(st.booleans()) else ()
                for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
                    lines.append(dict(image=image, slice=s, kz=kz, ky=ky, first=cut, flags=flags))
    # Noise, navigators, phase correction, feedback and dummy scans, of other lengths.
    lines += [dict(other=flag) for flag in draw(st.lists(st.sampled_from(OTHERS), max_size=4))]
    order = draw(st.permutations(range(len(lines))))
    # Steps are counters: DC has that of the header's center.
    low = [min(x) for x in zip(*[(ln["ky"], ln["kz"]) for ln in lines if "ky" in ln], strict=True)]
    centers = [max(c, -m) for c, m in zip(centers, low, strict=True)]
    return dict(
        matrix=matrix,
        view=view,
        recon_matrix=interpolated,
        recon_view=recon_view,
        centers=centers,
        slices=draw(st.permutations(range(count))),
        distance=recon_view[2] + gap,
        mode=draw(st.sampled_from(["embedded", "interleaved", "separate"])),
        lines=[lines[i] for i in order],
        images=images,
        image=draw(st.sampled_from(images)),
        volume=volume,
        discard=draw(st.booleans()),
        normal=draw(st.sampled_from([(0, 0, 1), (0.6, 0, 0.8), (-0.48, 0.6, 0.64)])),
    )


def write(path, scan):
    """The file and the values of its lines (2, samples), those of an image in the order of rising k."""
    rng = np.random.default_rng(0)
    normal = np.array(scan["normal"])
    written = []
    with ismrmrd.Dataset(str(path), "dataset", mode="w") as file:
        file.write_xml_header(xml(scan).encode())
        for line in scan["lines"]:
            if "other" in line:
                values = rng.normal(size=(2, 5)).astype(np.complex64)
                one = ismrmrd.Acquisition.from_array(values, center_sample=2)
                # Their counters mean nothing.
                one.idx.kspace_encode_step_1 = one.idx.contrast = one.idx.slice = 99
                one.set_flag(line["other"])
                file.append_acquisition(one)
                written.append(values)
                continue
            samples, first = scan["matrix"][0], line["first"]
            # Samples before those of a partial echo may be there, marked as not to be used.
            start = 0 if scan["discard"] else first
            shape = (2, samples - start)
            stored = rng.normal(size=shape) + 1j * rng.normal(size=shape)
            written.append(stored[:, first - start :].astype(np.complex64))
            backward = 22 in line["flags"]
            center = samples // 2 - start
            acquired = stored[:, ::-1] if backward else stored
            one = ismrmrd.Acquisition.from_array(
                np.ascontiguousarray(acquired, np.complex64),
                center_sample=samples - start - 1 - center if backward else center,
            )
            setattr(one, "discard_post" if backward else "discard_pre", first - start)
            one.idx.kspace_encode_step_1 = line["ky"] + scan["centers"][0]
            one.idx.kspace_encode_step_2 = line["kz"] + scan["centers"][1]
            one.idx.contrast, one.idx.repetition = line["image"]
            one.idx.slice = scan["slices"].index(line["slice"])
            one.position[:] = normal * scan["distance"] * line["slice"] + (10, -20, 30)
            one.slice_dir[:] = normal
            for flag in line["flags"]:
                one.set_flag(flag)
            file.append_acquisition(one)
    return written


def expected(scan, written):
    """K-space and number of measurements (slices, nz, coils, nx, ny) of the encoded grid, line by line."""
    nx, ny, nz = scan["matrix"] if scan["volume"] else (*scan["matrix"][:2], 1)
    slices = len(scan["slices"])
    kinds = {}
    for line, values in zip(scan["lines"], written, strict=True):
        if line.get("image") != scan["image"]:
            continue
        image = 20 not in line["flags"]
        place = (line["slice"], line["kz"] + nz // 2, line["ky"] + ny // 2)
        kinds.setdefault((place, image), []).append((line["first"], values))
    total = np.zeros((slices, nz, 2, nx, ny), complex)
    count = np.zeros((slices, nz, nx, ny), int)
    for image in (True, False):
        if not image and scan["mode"] == "separate":
            continue
        for (place, kind), found in kinds.items():
            s, z, y = place
            if kind == image and not count[s, z, :, y].any():
                for first, values in found:
                    total[s, z, :, first:, y] += values
                    count[s, z, first:, y] += 1
    return total / np.maximum(count, 1)[:, :, None], count > 0


def check(folder, scan):
    written = write(folder / "scan.mrd", scan)
    kspace, mask = expected(scan, written)
    several = len(scan["images"]) > 1
    if several:
        with pytest.raises(ValueError, match="or one selected"):
            read_measurement(folder / "scan.mrd")
    select = dict(zip(("contrast", "repetition"), scan["image"], strict=True)) if several else {}
    whole = read_ismrmrd(folder / "scan.mrd", remove_oversampling=False, select=select)
    noise = [v for ln, v in zip(scan["lines"], written, strict=True) if ln.get("other") == NOISE]
    assert (whole.noise is None) == (not noise)
    if noise:
        np.testing.assert_array_equal(whole.noise, np.concatenate(noise, 1))
    found = whole.kspace.swapaxes(1, 2) if scan["volume"] else whole.kspace[:, None]
    # Slices by position: up or down, as the counters go when they follow the stack.
    ranks = np.array(scan["slices"])
    down = len(ranks) > 1 and (np.diff(ranks) < 0).all()
    order = slice(None, None, -1) if down else slice(None)
    np.testing.assert_allclose(found, kspace[order], atol=1e-6)
    np.testing.assert_array_equal(whole.mask if scan["volume"] else whole.mask[:, None], mask[order])
    read = read_measurement(folder / "scan.mrd", select=select)
    voxel = [v / m for v, m in zip(scan["view"], scan["matrix"], strict=True)]
    if not scan["volume"]:
        voxel[2] = scan["distance"] if len(ranks) > 1 else scan["recon_view"][2]
    x, y, z = voxel
    pixel, views = (
        ((x, y, z), scan["recon_view"][1:]) if scan["volume"] else ((z, x, y), scan["recon_view"][:2])
    )
    np.testing.assert_allclose(read.pixel_size, pixel, rtol=1e-6)
    # What is shown is the prescribed field of view, to the pixel.
    shown = np.multiply(read.crop_shape, read.pixel_size[1:])
    assert (np.abs(shown - views) <= np.array(pixel[1:]) / 2 + 1e-6).all()
    if scan["volume"]:
        assert len(read.kspace) * x == pytest.approx(scan["recon_view"][0], abs=x / 2 + 1e-6)
        assert read.mask.mean() == pytest.approx(mask.any(2).mean())
    elif not any(line.get("first") for line in scan["lines"]):
        # Removing the oversampling changes nothing but the extent.
        assert read.mask[0].any(0).sum() == mask[0, 0].any(0).sum()
        assert read.image_shape[0] * x == pytest.approx(scan["recon_view"][0], abs=x / 2 + 1e-6)


@settings(**in_folder, max_examples=12)
@given(scans())
def test_random_scans_are_read_as_the_standard_says(tmp_path, scan):
    check(tmp_path, scan)


@pytest.mark.slow
@settings(**in_folder, max_examples=100)
@given(scans())
def test_many_random_scans_are_read_as_the_standard_says(tmp_path, scan):
    check(tmp_path, scan)


def test_a_scan_of_several_encodings_is_read_one_at_a_time(tmp_path):
    """A header with two encodings: an image of 4 x 3, and a reference of 2 x 2, each with its own lines."""
    scan = dict(matrix=(4, 3, 1), view=(40, 30, 5), recon_matrix=(4, 3, 1), recon_view=(40, 30, 5))
    first = xml(scan | dict(centers=(1, 0), mode="other"))
    small = dict(matrix=(2, 2, 1), view=(40, 40, 5), recon_matrix=(2, 2, 1), recon_view=(40, 40, 5))
    second = xml(small | dict(centers=(1, 0), mode="other"))
    encoding = second[second.index("<encoding>") : second.index("</ismrmrdHeader>")]
    data = np.arange(1, 5, dtype=np.complex64)[None]
    with ismrmrd.Dataset(str(tmp_path / "a"), "dataset", mode="w") as file:
        file.write_xml_header(first.replace("</ismrmrdHeader>", encoding + "</ismrmrdHeader>").encode())
        for step, line, number in ((0, data, 0), (1, 2 * data, 0), (1, data[:, :2], 1)):
            one = ismrmrd.Acquisition.from_array(line, center_sample=line.shape[1] // 2)
            one.idx.kspace_encode_step_1, one.encoding_space_ref = step, number
            file.append_acquisition(one)
    read = read_ismrmrd(tmp_path / "a", select={"encoding": 0})
    np.testing.assert_array_equal(read.kspace[0, 0].T, [data[0], 2 * data[0], 0 * data[0]])
    read = read_ismrmrd(tmp_path / "a", select={"encoding": 1})
    np.testing.assert_array_equal(read.kspace[0, 0].T, [[0, 0], data[0, :2]])
    with pytest.raises(ValueError, match="a single encoding, or one selected"):
        read_ismrmrd(tmp_path / "a")


def test_slices_are_stacked_by_their_positions():
    up = np.array([0, 0, 1.0])
    for along, order, distance in (
        ([0, 6.5, 13], [0, 1, 2], 6.5),
        ([13, 6.5, 0], [0, 1, 2], 6.5),
        ([0, 13, 6.5], [0, 2, 1], 6.5),
        ([4, 4, 4], [0, 1, 2], None),
        ([4], [0], None),
    ):
        along = np.array(along)
        found, gap = slice_order(along[:, None] * up, np.repeat([up], len(along), 0))
        assert found.tolist() == order and gap == distance
    # Without normals the line through the positions is theirs; in-plane offsets do not count with them.
    oblique = np.array([[0, 0, 0], [3, 0, 4], [6, 0, 8.0]])
    assert slice_order(oblique, np.zeros((3, 3)))[1] == 5
    assert slice_order(oblique, np.repeat([up], 3, 0))[1] == 4
    # A radial stack: no common normal, no distance.
    turned = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    assert slice_order(oblique, turned)[1] is None


def test_a_readout_that_was_cropped_before_covers_the_prescribed_extent():
    """As in fastMRI files whose readout is already that of the images."""
    encoded, recon = (
        EncodingSpace((64, 40, 1), (400.0, 250.0, 5.0)),
        EncodingSpace((32, 32, 1), (200.0, 200.0, 5.0)),
    )
    assert image_geometry(encoded, recon) == ((32, 32, 1), (6.25, 6.25, 5.0))
    assert image_geometry(encoded, recon, (32, 40, 1)) == ((32, 32, 1), (6.25, 6.25, 5.0))
    # Zeros around k-space make pixels smaller.
    assert image_geometry(encoded, recon, (64, 80, 1)) == ((32, 64, 1), (6.25, 3.125, 5.0))
    unknown = EncodingSpace((32, 32, 1), None)
    assert image_geometry(EncodingSpace((64, 40, 1), None), unknown) == ((32, 32, 1), None)
