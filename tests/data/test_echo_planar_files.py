"""Echo-planar files: lines of both directions, their delay from a reference, samples of the ramps."""

import h5py
import numpy as np
import pytest

from fedrecon.data import DataError, read_ismrmrd, read_measurement

SIZE, DELAY, PHASE = 20, 0.4, 0.3
X = np.arange(SIZE) - SIZE // 2


def head(seed=0):
    """Image (readout, phase encoding) that is not symmetric."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(X + 1.2, X - 0.8, indexing="ij")
    inside = (y / 6) ** 2 + (x / 7) ** 2 < 1
    return inside * (1 + 0.3 * (y > 1) + 0.1 * rng.normal(size=inside.shape)) * np.exp(0.05j * x)


IMAGE = head()
KSPACE = (
    np.exp(-2j * np.pi * np.outer(X, X) / SIZE) @ IMAGE @ np.exp(-2j * np.pi * np.outer(X, X) / SIZE) / SIZE
)


def line(k, column, sign=1):
    """A readout at the positions ``k`` (cycles/pixel), at one phase encoding; None: without one."""
    encode = np.exp(-2j * np.pi * np.outer(k, X)) / np.sqrt(SIZE)
    phase = np.exp(-2j * np.pi * (0 if column is None else X[column]) * X / SIZE) / np.sqrt(SIZE)
    return encode @ (IMAGE @ phase) * (np.exp(1j * PHASE) if sign < 0 else 1)


def uniform(sign, delay):
    # Opposite to each other in time: a falling line passes the same positions backward.
    k = X / SIZE
    return k - delay / SIZE if sign > 0 else k[::-1] + delay / SIZE


def write_mrd(path, lines, trajectory="epi", samples=SIZE, **timing):
    ismrmrd = pytest.importorskip("ismrmrd")
    space = f"<matrixSize><x>{SIZE}</x><y>{SIZE}</y><z>1</z></matrixSize>"
    space += "<fieldOfView_mm><x>200</x><y>200</y><z>5</z></fieldOfView_mm>"
    times = "".join(
        f"<userParameterDouble><name>{k}</name><value>{v}</value></userParameterDouble>"
        for k, v in timing.items()
    )
    times = (
        f"<trajectoryDescription><identifier>e</identifier>{times}</trajectoryDescription>" if times else ""
    )
    xml = (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><experimentalConditions>'
        "<H1resonanceFrequency_Hz>1</H1resonanceFrequency_Hz></experimentalConditions><encoding>"
        f"<encodedSpace>{space}</encodedSpace><reconSpace>{space}</reconSpace><encodingLimits/>"
        f"<trajectory>{trajectory}</trajectory>{times}</encoding></ismrmrdHeader>"
    )
    with ismrmrd.Dataset(str(path), "dataset", mode="w") as file:
        file.write_xml_header(xml.encode())
        for step, data, flags in lines:
            one = ismrmrd.Acquisition.from_array(data[None].astype(np.complex64), center_sample=samples // 2)
            one.idx.kspace_encode_step_1 = step
            for flag in flags:
                one.set_flag(flag)
            file.append_acquisition(one)
    return path


def scan(delay, reference=True, positions=uniform):
    lines = []
    for i in range(3 if reference else 0):
        sign = -1 if i % 2 else 1
        lines.append((SIZE // 2, line(positions(sign, delay), None, sign), (24, 22) if sign < 0 else (24,)))
    for column in range(SIZE):
        sign = -1 if column % 2 else 1
        lines.append((column, line(positions(sign, delay), column, sign), (22,) if sign < 0 else ()))
    return lines


def test_delay_and_phase_come_from_the_lines_without_phase_encoding(tmp_path):
    path = write_mrd(tmp_path / "e.mrd", scan(DELAY))
    read = read_ismrmrd(path)
    right = np.abs(KSPACE).max()
    np.testing.assert_allclose(read.kspace[0, 0], KSPACE, atol=0.02 * right)
    assert float(read.notes[0].split("delay of ")[1].split()[0]) == pytest.approx(DELAY, abs=0.02)
    without = read_measurement(write_mrd(tmp_path / "e.mrd", scan(DELAY, reference=False)))
    assert "without reference" in without.notes[0]
    assert np.abs(without.kspace[0, 0] - KSPACE).max() > 0.2 * right


@pytest.mark.parametrize("marked", [True, False])
def test_lines_already_on_the_grid_are_turned_or_left(tmp_path, marked):
    lines = []
    for column in range(SIZE):
        back = marked and column % 2
        data = KSPACE[:, column]
        lines.append((column, data[::-1] if back else data, (22,) if back else ()))
    read = read_ismrmrd(write_mrd(tmp_path / "e.mrd", lines))
    np.testing.assert_allclose(read.kspace[0, 0], KSPACE, atol=1e-5)
    assert bool(read.notes) == marked


def test_samples_of_the_ramps_go_to_a_uniform_grid(tmp_path):
    """A trapezoid of 100 + 200 + 100 us, sampled every 8 us: positions by summing its gradient."""
    up, top, dwell, start, count = 100.0, 200.0, 8.0, 12.0, 47
    fine = np.linspace(0, 400, 400001)
    gradient = np.interp(fine, [0, up, up + top, 400], [0, 1, 1, 0])
    moment = np.concatenate([[0], np.cumsum((gradient[1:] + gradient[:-1]) / 2)])
    at = np.interp(start + dwell * (np.arange(count) + 0.5), fine, moment) - moment[-1] / 2
    ends = np.interp([start, start + dwell * count], fine, moment)
    nominal = at / np.ptp(ends)

    def positions(sign, delay):
        # Samples lag behind by this fraction of a dwell time.
        later = np.interp(start + dwell * (np.arange(count) + 0.5 - delay), fine, moment) - moment[-1] / 2
        return sign * later / np.ptp(ends)

    np.testing.assert_allclose(positions(1, 0), nominal)
    timing = dict(rampUpTime=up, flatTopTime=top, rampDownTime=up, acqDelayTime=start, dwellTime=dwell)
    path = write_mrd(tmp_path / "e.mrd", scan(DELAY, positions=positions), samples=count, **timing)
    read = read_ismrmrd(path)
    np.testing.assert_allclose(read.kspace[0, 0], KSPACE, atol=0.03 * np.abs(KSPACE).max())
    assert len(read.notes) == 2 and "ramps" in read.notes[0]
    assert float(read.notes[1].split("delay of ")[1].split()[0]) == pytest.approx(DELAY, abs=0.03)
    longer = timing | {"dwellTime": 9.0}
    with pytest.raises(DataError, match=r"47 samples of 9\.0 us"):
        read_ismrmrd(write_mrd(tmp_path / "e.mrd", scan(0, positions=positions), samples=count, **longer))


def write_group(path, name="image", **changes):
    """The small layout: lines as acquired with their positions."""
    sign = np.where(np.arange(SIZE) % 2, -1, 1)
    k = np.stack([uniform(s, 0) for s in sign])
    entries = dict(
        kspace=np.stack([line(uniform(s, DELAY), c, s) for c, s in enumerate(sign)])[:, :, None],
        traj=np.stack([k, np.broadcast_to((X / SIZE)[:, None], k.shape)], -1),
        polarity=sign,
    )
    entries["kspace"] = entries["kspace"].astype(np.complex64)
    attributes = dict(matrix=SIZE, fov_mm=200.0, slice_thickness_mm=4.0, calibration=False)
    for key, value in changes.items():
        (entries if key in entries else attributes)[key] = value
    with h5py.File(path, "a") as file:
        for key, value in entries.items():
            file[f"{name}/{key}"] = value
        file[name].attrs.update(attributes)
    return path


def test_a_group_of_lines_is_read_with_the_delay_of_its_calibration(tmp_path):
    path = tmp_path / "e.h5"
    write_group(path, "image", calibration_group="blind")
    blind = np.stack(
        [line(uniform(-1 if i % 2 else 1, DELAY), None, -1 if i % 2 else 1) for i in range(SIZE)]
    )
    write_group(path, "blind", kspace=blind[:, :, None].astype(np.complex64), calibration=True)
    read = read_measurement(path)
    assert read.format == "EPI" and read.pixel_size == (4.0, 10.0, 10.0) and read.mask.all()
    np.testing.assert_allclose(read.kspace[0, 0], KSPACE, atol=0.02 * np.abs(KSPACE).max())
    write_group(path, "other")
    with pytest.raises(DataError, match=r"selected \(group\), found \['image', 'other'\]"):
        read_measurement(path)
    np.testing.assert_array_equal(read_measurement(path, group="image").kspace, read.kspace)
    with pytest.raises(DataError, match="absent"):
        read_measurement(path, group="absent")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"polarity": np.zeros(SIZE, int)}, "image/polarity"),
        ({"matrix": 0}, "image/@matrix"),
        ({"traj": np.zeros((SIZE, SIZE, 2))}, "image/traj"),
        ({"traj": np.zeros((SIZE, SIZE))}, "image/traj"),
    ],
)
def test_wrong_groups_are_refused(tmp_path, changes, key):
    with pytest.raises(DataError) as caught:
        read_measurement(write_group(tmp_path / "e.h5", **changes))
    assert caught.value.key == key


@pytest.mark.parametrize(
    "name",
    ["02_01_ro_dur_1200_pe_plus", "02_11_ro_dur_240_pe_minus", "04_03_ramp_sampling_epi_96x96_pe_plus"],
)
def test_the_ghost_of_a_measured_phantom_disappears(measured_data, name):
    """Half a field of view away it was 23, 90 and 79 % of the object; 3 to 6 % are left."""
    read = read_measurement(measured_data("mri/epi_trio.h5"), group=name)
    image = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(read.kspace[0, 0]))))
    bright = image > 0.3 * image.max()
    ghost = np.roll(bright, image.shape[1] // 2, 1) & ~bright
    assert ghost.sum() > 50
    assert image[ghost].mean() < 0.07 * image[bright].mean()
