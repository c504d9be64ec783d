"""The adapters of other libraries; see :mod:`benchmarks.ct.registry`.

Scales and orientations are brought to those of :class:`~benchmarks.ct.problems.Scan` outside the
timing. Libraries that take one image at a time loop over them.
"""

import functools
import math

import numpy as np

from benchmarks.ct.prepared import PreparedLibrary
from benchmarks.ct.problems import CTProblem, rasterize
from benchmarks.measure import Operation

# A matrix with more elements than this is not made: it would take several gigabytes.
_MOST_ELEMENTS = 10**8


def astra(problem: CTProblem, model: str) -> PreparedLibrary:
    """The native algorithms FP, BP and FBP on arrays of ours, linked and not copied."""
    import astra as library

    projector, projections, volume = _astra_projector(problem.scan, model)
    kinds = {"forward": ("FP", problem.image), "adjoint": ("BP", problem.samples)}
    # Its native FBP takes parallel beams only.
    if problem.scan.kind == "parallel":
        kinds["fbp"] = ("FBP", problem.sinogram)

    def algorithm(kind, array):
        backward = kind != "FP"
        shape = problem.scan.image_shape if backward else problem.scan.shape
        out = np.zeros(shape, np.float32)
        image, sinogram = (out, array) if backward else (array, out)
        config = library.astra_dict(kind)
        config["ProjectorId"] = projector
        config["ProjectionDataId"] = library.data2d.link("-sino", projections, np.ascontiguousarray(sinogram))
        config["ReconstructionDataId" if backward else "VolumeDataId"] = library.data2d.link(
            "-vol", volume, np.ascontiguousarray(image)
        )
        if kind == "FBP":
            config["FilterType"] = "Ram-Lak"
        return library.algorithm.create(config), out

    def operation(kind, arrays):
        planned = [algorithm(kind, array) for array in arrays]

        def call():
            for number, _ in planned:
                library.algorithm.run(number)

        return [Operation(call, lambda _: np.stack([out for _, out in planned]))]

    return PreparedLibrary({name: operation(*kind) for name, kind in kinds.items()})


def astra_matrix(problem: CTProblem) -> PreparedLibrary:
    """The projector's matrix, exported once, as scipy's sparse products; by rows and by columns."""
    import astra as library

    scan = problem.scan
    elements = 2 * math.prod(scan.shape) * max(scan.image_shape)
    if elements > _MOST_ELEMENTS:
        raise ValueError(f"the matrix would have up to {elements:.0e} elements")
    projector, *_ = _astra_projector(scan, "linear" if scan.kind == "parallel" else "line")
    number = library.projector.matrix(projector)
    A = library.matrix.get(number).tocsr().astype(np.float32)
    library.matrix.delete(number)
    transposed = functools.cache(lambda: A.T.tocsr())
    # With images side by side as columns each element of the matrix is read once.
    x, y = (
        np.ascontiguousarray(a.reshape(len(a), -1).T) if len(a) > 1 else a.ravel()
        for a in (problem.image, problem.samples)
    )
    return PreparedLibrary(
        {
            "forward": [Operation(lambda: A @ x, np.transpose)],
            "adjoint": [
                Operation(lambda: A.T @ y, np.transpose, "by columns"),
                Operation(lambda: transposed() @ y, np.transpose, "by rows of the transpose"),
            ],
        }
    )


def _astra_projector(scan, model):
    import astra as library

    (columns,), (ny, nx) = scan.detectors, scan.image_shape
    right, top = nx * scan.pixel_size / 2, ny * scan.pixel_size / 2
    volume = library.create_vol_geom(ny, nx, -right, right, -top, top)
    angles = scan.angles.astype(np.float64)
    if scan.kind == "parallel":
        projections = library.create_proj_geom("parallel", scan.spacing, columns, angles)
    else:
        projections = library.create_proj_geom(
            "fanflat", scan.spacing, columns, angles, scan.source_distance, scan.detector_distance
        )
        model = f"{model}_fanflat"
    return library.create_projector(model, projections, volume), projections, volume


def odl(problem: CTProblem) -> PreparedLibrary:
    """``RayTransform`` by native ASTRA, ``fbp_op``, and the adjoint, freed of the weights of its spaces."""
    import odl as library

    scan = problem.scan
    (columns,), (ny, nx) = scan.detectors, scan.image_shape
    right, top = nx * scan.pixel_size / 2, ny * scan.pixel_size / 2
    space = library.uniform_discr([-right, -top], [right, top], [nx, ny], dtype="float32")
    arc = (math.pi if scan.kind == "parallel" else 2 * math.pi) / len(scan.angles)
    views = library.uniform_partition(-arc / 2, (len(scan.angles) - 0.5) * arc, len(scan.angles))
    edge = columns * scan.spacing / 2
    detector = library.uniform_partition(-edge, edge, columns)
    tomo = library.applications.tomo if hasattr(library, "applications") else library.tomo
    if scan.kind == "parallel":
        geometry = tomo.Parallel2dGeometry(views, detector)
    else:
        geometry = tomo.FanBeamGeometry(views, detector, scan.source_distance, scan.detector_distance)
    A = tomo.RayTransform(space, geometry, impl="astra_cpu")
    # Its images are indexed (x, y), y upwards.
    images = [space.element(np.ascontiguousarray(image[::-1].T)) for image in problem.image]
    weight = float(A.domain.weighting.const / A.range.weighting.const)
    reconstruct = tomo.fbp_op(A, filter_type="Ram-Lak")

    def operation(operator, elements, result):
        def call():
            return [operator(element) for element in elements]

        return [Operation(call, lambda found: np.stack([result(e.asarray()) for e in found]))]

    def upright(array):
        return array.T[::-1]

    samples, sinograms = (
        [A.range.element(array) for array in arrays] for arrays in (problem.samples, problem.sinogram)
    )
    return PreparedLibrary(
        {
            "forward": operation(A, images, np.asarray),
            "adjoint": operation(A.adjoint, samples, lambda array: weight * upright(array)),
            "fbp": operation(reconstruct, sinograms, upright),
        }
    )


def scikit_image(problem: CTProblem) -> PreparedLibrary:
    """``radon`` and ``iradon``, which is an approximate adjoint where it does not filter.

    It turns images about a pixel: it gets the phantom on a grid of its own, as wide as the detector, with an
    odd number of pixels.
    """
    from skimage.transform import iradon, radon

    scan = problem.scan
    if scan.spacing != scan.pixel_size:
        raise ValueError("its detector elements are as wide as pixels")
    (n,) = scan.detectors
    degrees = np.rad2deg(scan.angles.astype(np.float64))
    if problem.phantoms:
        images = np.stack([rasterize(phantom, (n, n), scan.pixel_size) for phantom in problem.phantoms])
    else:
        before = [(n - size) // 2 for size in scan.image_shape]
        after = [n - size - b for size, b in zip(scan.image_shape, before, strict=True)]
        images = np.pad(problem.image, ((0, 0), *zip(before, after, strict=True)))
    arrays = (scan.pixel_size * images).astype(np.float32)
    samples, sinograms = (
        [np.ascontiguousarray(array.T) for array in arrays] for arrays in (problem.samples, problem.sinogram)
    )
    options = {"theta": degrees, "output_size": n, "circle": True}

    def operation(function, arrays, result):
        def call():
            return [function(array) for array in arrays]

        return [Operation(call, lambda found: np.stack([result(array) for array in found]))]

    factor = 2 * len(degrees) / math.pi * scan.pixel_size
    return PreparedLibrary(
        {
            "forward": operation(lambda image: radon(image, degrees, circle=True), arrays, np.transpose),
            "adjoint": operation(
                lambda s: iradon(s, filter_name=None, **options), samples, lambda found: factor * found
            ),
            "fbp": operation(
                lambda s: iradon(s, filter_name="ramp", **options),
                sinograms,
                lambda found: found / scan.pixel_size,
            ),
        },
        images,
    )


def mbirjax(problem: CTProblem) -> PreparedLibrary:
    """``ParallelBeamModel``, whose slices are the images, or ``ConeBeamModel``."""
    import jax
    import jax.numpy as jnp
    import mbirjax as library

    scan = problem.scan
    angles = jnp.asarray(scan.angles)
    if scan.kind == "parallel":
        shape = len(scan.angles), len(problem.image), *scan.detectors
        model = library.ParallelBeamModel(shape, angles)
        slices, (ny, nx) = len(problem.image), scan.image_shape
    else:
        model = library.ConeBeamModel(
            scan.shape, angles, scan.source_distance + scan.detector_distance, scan.source_distance
        )
        slices, ny, nx = scan.image_shape
    model.set_params(
        no_warning=True,
        delta_det_channel=scan.spacing,
        delta_voxel=scan.pixel_size,
        recon_shape=(ny, nx, slices),
        verbose=0,
    )
    if scan.kind == "cone":
        model.set_params(no_warning=True, delta_det_row=scan.spacing)

    def volume(images):
        return jnp.asarray(np.moveaxis(np.squeeze(images, 0) if scan.kind == "cone" else images, 0, -1))

    def views(sinograms):
        return jnp.asarray(sinograms[0] if scan.kind == "cone" else np.moveaxis(sinograms, 0, 1))

    def images(found):
        return np.moveaxis(np.asarray(found), -1, 0)

    def sinograms(found):
        return np.asarray(found) if scan.kind == "cone" else np.moveaxis(np.asarray(found), 1, 0)

    x, y, exact = volume(problem.image), views(problem.samples), views(problem.sinogram)

    def operation(function, argument, result):
        return [Operation(lambda: jax.block_until_ready(function(argument)), result)]

    return PreparedLibrary(
        {
            "forward": operation(model.forward_project, x, sinograms),
            "adjoint": operation(model.back_project, y, images),
            "fbp": operation(functools.partial(model.direct_recon, filter_name="ramp"), exact, images),
        }
    )
