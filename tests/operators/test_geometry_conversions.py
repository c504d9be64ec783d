"""Conversions of geometries against the other libraries' own formulas."""

from types import SimpleNamespace

import numpy as np
import pytest

from operators import ConeBeam, FanBeam, ParallelBeam, ParallelBeam3D, Radon, VectorGeometry
from operators.ct import (
    as_vectors,
    from_astra,
    from_dicom_ct_pd,
    from_odl,
    from_tigre,
    to_astra,
    to_dicom_ct_pd,
    to_odl,
    to_tigre,
)

ANGLES = np.array([-0.4, 0.0, 1.1, 2.9])
SHIFT = {"detector_offset": 0.3, "axis_offset": -0.7}
GEOMETRIES = {
    "parallel": lambda: ParallelBeam(ANGLES, 9, 0.8),
    "fanflat": lambda: FanBeam(ANGLES, 9, 0.8, 11.0, 5.0),
    "parallel3d": lambda: ParallelBeam3D(ANGLES, (6, 9), (1.2, 0.8)),
    "cone": lambda: ConeBeam(ANGLES, (6, 9), (1.2, 0.8), 11.0, 5.0),
    "parallel_vec": lambda: ParallelBeam(ANGLES, 9, 0.8, **SHIFT),
    "fanflat_vec": lambda: FanBeam(ANGLES, 9, 0.8, 11.0, 5.0, **SHIFT),
    "parallel3d_vec": lambda: ParallelBeam3D(ANGLES, (6, 9), (1.2, 0.8), row_offset=0.4, **SHIFT),
    "cone_vec": lambda: ConeBeam(ANGLES, (6, 9), (1.2, 0.8), 11.0, 5.0, False, 3.0, row_offset=0.4, **SHIFT),
}


def same(a, b):
    """Two geometries place every point on the same element."""
    assert a.shape == b.shape and a.divergent == b.divergent
    points = np.random.default_rng(0).uniform(-2, 2, (5, a.ndim))
    np.testing.assert_allclose(a.detector_coordinates(points), b.detector_coordinates(points), atol=1e-9)


@pytest.mark.parametrize("kind", GEOMETRIES)
def test_astra_there_and_back(x64, kind):
    geometry = GEOMETRIES[kind]()
    converted = to_astra(geometry)
    assert converted["type"] == kind
    back = from_astra(converted)
    same(back, geometry)
    assert type(back) is (VectorGeometry if kind.endswith("_vec") else type(geometry))
    again = to_astra(back)
    assert again["type"] == kind
    for name, value in converted.items():
        np.testing.assert_array_equal(again[name], value)
    same(as_vectors(geometry), geometry)


@pytest.mark.parametrize("kind", ["parallel", "fanflat", "parallel3d", "cone"])
def test_astra_vectors_are_those_of_its_documentation(x64, kind):
    g = as_vectors(GEOMETRIES[kind]())
    sin, cos, zero = np.sin(ANGLES), np.cos(ANGLES), 0 * ANGLES
    source, detector = (11, 5) if g.divergent else (1, 0)
    expected = {
        "source": [sin * source, -cos * source, zero],
        "detector": [-sin * detector, cos * detector, zero],
        "column_axis": [cos * 0.8, sin * 0.8, zero],
        "row_axis": [zero, zero, zero + 1.2],
    }
    for name, columns in expected.items():
        found = getattr(g, name)
        if found is not None:
            np.testing.assert_allclose(found, np.stack(columns, -1)[:, : g.ndim], atol=1e-12)


@pytest.mark.parametrize(
    "scan, centers",
    [
        ({"type": "parallel", "DetectorCount": 14}, [5.0, 6.43301205, 8.9999999, 7.0]),
        (
            {
                "type": "fanflat",
                "DetectorCount": 24,
                "DistanceOriginSource": 20,
                "DistanceOriginDetector": 20,
            },
            [8.53799858, 11.44239976, 16.45076179, 12.76424074],
        ),
    ],
)
def test_a_pixel_lands_where_astra_puts_it(scan, centers):
    """Centers of gravity of ASTRA 2.5.0 itself (projectors "linear" and "line_fanflat" on the CPU).

    A pixel of a magnified fan meets two elements, which the models weigh differently.
    """
    angles = np.deg2rad([0.0, 30.0, 90.0, 200.0])
    image = np.zeros((8, 8), np.float32)
    image[1, 2] = 1
    y = np.asarray(
        Radon(from_astra(scan | {"DetectorWidth": 1.0, "ProjectionAngles": angles}), (8, 8))(image)
    )
    np.testing.assert_allclose(
        y @ np.arange(y.shape[1]) / y.sum(1), centers, atol=0.4 if "fan" in scan["type"] else 0.03
    )


@pytest.mark.parametrize("kind", ["parallel3d", "cone", "parallel3d_vec", "cone_vec"])
def test_a_voxel_of_an_astra_volume_lands_where_its_documentation_says(kind):
    """ASTRA's volumes ascend in y: voxel (k, i, j) is at ``(j - 7.5, i - 5, k - 4)`` in its world."""
    scan = to_astra(GEOMETRIES[kind]())
    scan = scan | {"DetectorRowCount": 41, "DetectorColCount": 51}
    volume = np.zeros((9, 11, 16), np.float32)
    volume[6, 8, 3] = 1
    point = np.array([3 - 7.5, 8 - 5.0, 6 - 4.0])
    y = np.asarray(Radon(from_astra(scan), volume.shape)(volume[:, ::-1]))
    for index, (view, angle) in enumerate(zip(y, ANGLES, strict=True)):
        if kind.endswith("vec"):
            source, detector, u, v = np.split(scan["Vectors"][index], 4)
        else:
            n, u, v = [-np.sin(angle), np.cos(angle), 0], [np.cos(angle), np.sin(angle), 0], [0, 0, 1]
            n, u, v = np.array(n), np.array(u) * 0.8, np.array(v) * 1.2
            source, detector = (-11 * n, 5 * n) if kind == "cone" else (n, 0 * n)
        direction = point - source if kind.startswith("cone") else source
        # point + t direction = detector + a u + b v
        a, b, _ = np.linalg.solve(np.stack([u, v, -direction], 1), point - detector)
        rows, columns = view.sum(1), view.sum(0)
        assert columns @ np.arange(51) / columns.sum() == pytest.approx(a + 25, abs=0.15)
        assert rows @ np.arange(41) / rows.sum() == pytest.approx(b + 20, abs=0.15)


def test_astra_cylinder(x64):
    geometry = ConeBeam(ANGLES, (6, 9), (1.2, 0.8), 11.0, 5.0, True, row_offset=0.4, **SHIFT)
    converted = to_astra(geometry)
    assert converted["type"] == "cyl_cone_vec"
    source, center, u, v, radius = np.split(converted["Vectors"], [3, 6, 9, 12], axis=1)
    np.testing.assert_allclose(radius, 16)
    # Element (i, j): the center turned about the axis through the source, by arc length over radius.
    points, directions = geometry.rays(np.arange(6), np.arange(9))
    radial = (center - source) * [1, 1, 0]
    for i, j in ((0, 0), (5, 3), (2, 8)):
        turn = (j - 4) * np.linalg.norm(u, axis=1, keepdims=True) / radius
        tangent = u / np.linalg.norm(u, axis=1, keepdims=True) * radius
        element = center - radial + np.cos(turn) * radial + np.sin(turn) * tangent + (i - 2.5) * v
        np.testing.assert_allclose((points + directions)[:, i, j], element, atol=1e-12)


def tigre_elements(geo, angles):
    """Source and detector elements (views, rows, columns, 3) as TIGRE's projectors place them."""
    rows, columns = geo["nDetector"]
    step_v, step_u = geo["dDetector"]
    v, u = np.meshgrid(
        np.arange(rows) - (rows - 1) / 2, np.arange(columns) - (columns - 1) / 2, indexing="ij"
    )
    far, near = geo.get("DSD", 0.0), geo.get("DSO", 0.0)
    detector = np.stack(
        [0 * u + near - far, u * step_u + geo["offDetector"][1], v * step_v + geo["offDetector"][0]], axis=-1
    )
    sources, elements = [], []
    for a, origin in zip(angles, np.broadcast_to(geo["offOrigin"], (len(angles), 3)), strict=True):
        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        shift = geo["COR"] * np.array([-np.sin(a), np.cos(a), 0]) - origin[::-1]
        sources.append(turn @ [near, 0, 0] + shift)
        elements.append(detector @ turn.T + shift)
    return np.array(sources), np.array(elements)


@pytest.mark.parametrize("kind", ["cone", "cone_vec", "parallel3d", "fanflat_vec"])
def test_tigre_places_source_and_detector_there(x64, kind):
    geometry = GEOMETRIES[kind]()
    geo = to_tigre(geometry)
    sources, elements = tigre_elements(geo, geo["angles"])
    lift = (slice(None),) * 3 if geometry.ndim == 3 else (slice(None), 0)
    indices = [np.arange(n) for n in geometry.shape[1:]]
    points, directions = geometry.rays(*indices)
    elements = elements[lift][..., : geometry.ndim]
    if geometry.divergent:
        np.testing.assert_allclose(points + directions, elements, atol=1e-12)
        spread = np.reshape(sources[:, : geometry.ndim], (4, *(1,) * len(indices), -1))
        np.testing.assert_allclose(points, np.broadcast_to(spread, points.shape), atol=1e-12)
    else:
        np.testing.assert_allclose(points, elements, atol=1e-12)
    back = from_tigre(SimpleNamespace(**geo), geo["angles"])
    if geometry.ndim == 3:
        same(back, geometry)


def test_tigre_parallel_offsets_become_the_center_of_rotation(x64):
    geometry = ParallelBeam3D(ANGLES, (6, 9), (1.2, 0.8), **SHIFT)
    geo = to_tigre(geometry)
    assert geo["COR"] == pytest.approx(1.0) and not geo["offDetector"].any()
    same(from_tigre(geo, geo["angles"]), geometry)


@pytest.mark.parametrize(
    "kind, curved",
    [
        ("parallel", False),
        ("parallel3d", False),
        ("fan", False),
        ("fan", True),
        ("cone", False),
        ("cone", True),
    ],
)
def test_odl_there_and_back(x64, kind, curved):
    geometry = {
        "parallel": lambda: ParallelBeam(ANGLES, 9, 0.8, 0.3),
        "fan": lambda: FanBeam(ANGLES, 9, 0.8, 11.0, 5.0, curved, 0.3),
        "parallel3d": lambda: ParallelBeam3D(ANGLES, (6, 9), (1.2, 0.8), 0.3, 0.4),
        "cone": lambda: ConeBeam(ANGLES, (6, 9), (1.2, 0.8), 11.0, 5.0, curved, 3.0, 0.3, 0.4, 0.0, -1.0),
    }[kind]()
    fields = to_odl(geometry)
    shape = fields.pop("det_shape")
    low, high = fields.pop("det_min_pt"), fields.pop("det_max_pt")
    # Cells in units of length along the detector: of the angle where it is curved.
    step = (high - low) / shape
    np.testing.assert_allclose(step[0], 0.8 / 16 if curved else 0.8)
    partition = SimpleNamespace(min_pt=low, max_pt=high, shape=shape)
    odl = SimpleNamespace(det_partition=partition, **fields)
    back = from_odl(odl)
    assert type(back) is type(geometry)
    same(back, geometry)
    if kind == "cone":
        # ODL's helix: offset_along_axis + pitch * angle / (2 pi), source opposite to (0, 1, 0) turned.
        source = np.asarray(back.rays(np.zeros(1), np.zeros(1))[0])[:, 0, 0]
        height = odl.offset_along_axis + odl.pitch * ANGLES / (2 * np.pi)
        expected = np.stack([11 * np.sin(ANGLES), -11 * np.cos(ANGLES), height], axis=-1)
        np.testing.assert_allclose(source, expected, atol=1e-12)
    odl.translation = (1.0, 0.0, 0.0)[: geometry.ndim]
    if curved:
        with pytest.raises(ValueError, match="det_curvature_radius: expected a flat detector"):
            from_odl(odl)
    else:
        points = np.random.default_rng(1).uniform(-2, 2, (5, geometry.ndim))
        moved = from_odl(odl).detector_coordinates(points + odl.translation)
        np.testing.assert_allclose(moved, geometry.detector_coordinates(points), atol=1e-9)


ODL_ANGLES = np.array([0.3, 1.1, 2.9])


@pytest.mark.parametrize("ndim", [2, 3])
def test_shifts_and_translations_of_odl_are_its_own(x64, ndim):
    """Positions that ODL 1.0.0 gives: src_position, and det_point_position of (-1.5) or (-1.5, -0.5)."""
    source = [
        [1.941185, -4.412413, -0.956761],
        [4.488431, -2.215983, -0.574789],
        [1.510656, 3.725874, 0.284648],
    ]
    element = [
        [-1.533327, 0.897979, -1.106761],
        [-1.787087, -1.09778, -0.724789],
        [1.944603, -2.663507, 0.134648],
    ]

    def source_shift(angles):
        return np.stack([0.2 + 0 * angles, 0.1 * np.arange(len(angles)), -0.3 + 0 * angles], -1)[:, :ndim]

    partition = SimpleNamespace(
        min_pt=(-2, -1)[: ndim - 1], max_pt=(3, 2)[: ndim - 1], shape=(5, 3)[: ndim - 1]
    )
    odl = SimpleNamespace(
        angles=ODL_ANGLES,
        det_partition=partition,
        src_radius=4,
        det_radius=2,
        pitch=3,
        offset_along_axis=-1,
        src_shift_func=source_shift,
        det_shift_func=lambda angles: [-0.1, 0.25, 0.05][:ndim],
        translation=(0.7, -0.4, 0.2)[:ndim],
    )
    geometry = from_odl(odl)
    points, directions = geometry.rays(*[np.zeros(1)] * (ndim - 1))
    shape = (3, ndim)
    np.testing.assert_allclose(points.reshape(shape), np.array(source)[:, :ndim], atol=2e-6)
    np.testing.assert_allclose((points + directions).reshape(shape), np.array(element)[:, :ndim], atol=2e-6)


def test_a_translated_parallel_beam_of_odl(x64):
    """det_point_position(angles, -1.5) of ODL 1.0.0."""
    partition = SimpleNamespace(min_pt=-2, max_pt=3, shape=5)
    odl = SimpleNamespace(
        angles=ODL_ANGLES, det_partition=partition, translation=(0.7, -0.4), det_pos_init=(0.7, 0.6)
    )
    points, directions = from_odl(odl).rays(np.zeros(1))
    known = np.array([[-1.028525, 0.112056], [-0.871602, -1.283215], [1.917188, -1.729832]])
    normal = np.stack([directions[:, 0, 1], -directions[:, 0, 0]], -1)
    np.testing.assert_allclose(np.sum((points[:, 0] - known) * normal, -1), 0, atol=2e-6)


PHI = np.remainder(0.3 + np.linspace(0, 5 * np.pi, 50), 2 * np.pi)
SCAN = {
    "DetectorFocalCenterAngularPosition": PHI,
    "DetectorFocalCenterAxialPosition": 100 - np.linspace(0, 60, 50),
    "DetectorFocalCenterRadialDistance": np.full(50, 595.0),
    "ConstantRadialDistance": 1085.6,
    "DetectorCentralElement": (369.625, 32.5),
    "NumberofDetectorColumns": 736,
    "NumberofDetectorRows": 64,
    "DetectorElementTransverseSpacing": 1.2858,
    "DetectorElementAxialSpacing": 1.0947,
    "DetectorShape": "CYLINDRICAL",
    "FlyingFocalSpotMode": "FFSNONE",
}


def test_dicom_ct_pd(x64):
    geometry = from_dicom_ct_pd(SCAN)
    assert geometry.shape == (50, 64, 736) and geometry.curved
    assert geometry.pitch == pytest.approx(24.0)
    points, directions = geometry.rays(np.array([31.5]), np.array([368.625, 369.625]))
    mirror = np.array([-1, 1, 1])
    source = np.stack([-595 * np.sin(PHI), 595 * np.cos(PHI), SCAN["DetectorFocalCenterAxialPosition"]], -1)
    np.testing.assert_allclose(points[:, 0, 0] * mirror, source, atol=1e-6)
    # The central element sees the isocenter at the distance of the detector.
    central, next_one = np.asarray(directions[:, 0, 0] * mirror), np.asarray(directions[:, 0, 1] * mirror)
    np.testing.assert_allclose(central, -source * [1, 1, 0] * 1085.6 / 595, atol=1e-6)
    along = np.stack([np.cos(PHI), np.sin(PHI), 0 * PHI], -1)
    np.testing.assert_allclose(((next_one - central) * along).sum(-1), 1.2858, rtol=1e-5)
    circle = from_dicom_ct_pd(SCAN | {"DetectorFocalCenterAxialPosition": 12.0, "DetectorShape": "FLAT"})
    assert circle.pitch == 0 and circle.axial_offset == 12.0 and not circle.curved


def test_dicom_ct_pd_back_and_forth(x64):
    tags = to_dicom_ct_pd(from_dicom_ct_pd(SCAN))
    assert SCAN.keys() <= tags.keys()
    for name, value in SCAN.items():
        if isinstance(value, str):
            assert tags[name] == value
        else:
            period = 2 * np.pi if "Angular" in name else np.inf
            difference = np.asarray(tags[name]) - value
            difference -= np.round(difference / period) * period if np.isfinite(period) else 0
            np.testing.assert_allclose(difference, 0, atol=1e-9)
    helix = {"pitch": -7.0, "row_offset": 0.4, "axial_offset": 3.0, "detector_offset": -0.3}
    for geometry in (
        ConeBeam(0.2 + np.arange(40) * 0.4, (6, 9), (1.2, 0.8), 11.0, 5.0, True, **helix),
        ConeBeam(np.arange(8) * 0.7, (6, 9), (1.2, 0.8), 11.0, 5.0),
    ):
        same(from_dicom_ct_pd(to_dicom_ct_pd(geometry)), geometry)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: from_astra({"type": "sparse_matrix"}), ["type", "sparse_matrix"]),
        (lambda: from_astra({"type": "parallel", "ProjectionAngles": ANGLES}), ["DetectorCount", "missing"]),
        (
            lambda: from_astra({"type": "cone_vec", "Vectors": np.ones((4, 6))}),
            ["Vectors", "(views, 12)", "(4, 6)"],
        ),
        (lambda: to_astra(FanBeam(ANGLES, 9, 0.8, 11.0, 5.0, True)), ["flat", "curved"]),
        (lambda: from_tigre({"DSD": 2.0}, ANGLES), ["nDetector", "missing"]),
        (lambda: from_tigre({"rotDetector": (0, 0, 1)}, ANGLES), ["rotDetector", "zero"]),
        (lambda: to_tigre(ParallelBeam(ANGLES, 9)), ["ConeBeam", "ParallelBeam"]),
        (
            lambda: to_tigre(ParallelBeam3D(ANGLES, (2, 2), (1, 1), row_offset=0.5)),
            ["row_offset", "0.5"],
        ),
        (lambda: to_odl(FanBeam(ANGLES, 9, 0.8, 11.0, 5.0, axis_offset=1.0)), ["axis_offset", "1.0"]),
        (
            lambda: to_dicom_ct_pd(ConeBeam(ANGLES, (2, 2), (1, 1), 11.0, 5.0, axis_offset=0.5)),
            ["axis_offset", "0.5"],
        ),
        (lambda: from_dicom_ct_pd({}), ["DetectorFocalCenterAngularPosition", "missing"]),
        (lambda: from_dicom_ct_pd(SCAN | {"FlyingFocalSpotMode": "FFSZ"}), ["FlyingFocalSpotMode", "FFSZ"]),
        (lambda: from_dicom_ct_pd(SCAN | {"DetectorShape": "SPHERICAL"}), ["DetectorShape", "SPHERICAL"]),
        (
            lambda: from_dicom_ct_pd(SCAN | {"DetectorFocalCenterAxialPosition": np.arange(50.0) ** 2}),
            ["DetectorFocalCenterAxialPosition", "helix"],
        ),
        (
            lambda: from_dicom_ct_pd(SCAN | {"ConstantRadialDistance": np.arange(50.0)}),
            ["ConstantRadialDistance", "same in every view"],
        ),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
