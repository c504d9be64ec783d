"""The adapters of libraries that need environments of their own.

See :mod:`benchmarks.ct.registry`. As in :mod:`benchmarks.ct.peers`, scales and
orientations are brought to those of :class:`~benchmarks.ct.problems.Scan` outside the timing.
"""

import math
import os

import numpy as np

from benchmarks.ct.prepared import PreparedLibrary
from benchmarks.ct.problems import CTProblem, rasterize
from benchmarks.measure import Operation

# Beyond this, libraries that hold a number for every pair of view and pixel take several gigabytes.
_MOST_PAIRS = 10**8


def leap(problem: CTProblem) -> PreparedLibrary:
    """``tomographicModels`` on the CPU: separable footprints, and ``FBP`` with the Ram-Lak filter.

    The rows of its images go upwards, its angles are in degrees. Several images are slices of one volume.
    """
    from leapctype import tomographicModels

    scan = problem.scan
    cone = scan.kind == "cone"
    rows, columns = scan.detectors if cone else (len(problem.image), *scan.detectors)
    nz, ny, nx = scan.image_shape if cone else (rows, *scan.image_shape)
    model = tomographicModels()
    model.set_gpu(-1)
    degrees = np.ascontiguousarray(np.rad2deg(scan.angles.astype(np.float64)), np.float32)
    height = scan.spacing if cone else scan.pixel_size
    beams = [len(degrees), rows, columns, height, scan.spacing, (rows - 1) / 2, (columns - 1) / 2, degrees]
    distances = scan.source_distance, scan.source_distance + scan.detector_distance
    if scan.kind == "parallel":
        model.set_parallelbeam(*beams)
    else:
        (model.set_conebeam if cone else model.set_fanbeam)(*beams, *distances)
    model.set_volume(nx, ny, nz, scan.pixel_size, scan.pixel_size)
    # Otherwise it masks what lies outside of the inscribed circle.
    model.set_diameterFOV(1e6)
    model.set_rampFilter(12)

    def volume(images):
        slices = images[0] if cone else images
        return np.ascontiguousarray(slices[:, ::-1], np.float32)

    def views(sinograms):
        return np.ascontiguousarray(sinograms[0] if cone else np.moveaxis(sinograms, 0, 1), np.float32)

    def images(found):
        return found[:, ::-1]

    def sinograms(found):
        return found if cone else np.moveaxis(found, 1, 0)

    def operation(function, argument, target, result):
        return [Operation(lambda: function(argument, target), lambda _: result(target))]

    x, y, exact = volume(problem.image), views(problem.samples), views(problem.sinogram)
    return PreparedLibrary(
        {
            "forward": operation(lambda f, g: model.project(g, f), x, np.zeros_like(y), sinograms),
            "adjoint": operation(model.backproject, y, np.zeros_like(x), images),
            "fbp": operation(model.FBP, exact, np.zeros_like(x), images),
        }
    )


def scico(problem: CTProblem) -> PreparedLibrary:
    """``XRayTransform2D`` of images one by one, compiled; lengths in widths of an element.

    It projects onto directions that it counts from the axis of the rows, which point downwards.
    """
    import jax
    import jax.numpy as jnp
    from scico.linop.xray import XRayTransform2D

    scan = problem.scan
    _check_pairs(scan.image_shape, len(scan.angles))
    A = XRayTransform2D(
        scan.image_shape,
        jnp.asarray(scan.angles + np.float32(math.pi / 2)),
        dx=scan.pixel_size / scan.spacing,
        det_count=scan.detectors[0],
    )
    images, samples, exact = (
        [jnp.asarray(a) for a in arrays] for arrays in (problem.image, problem.samples, problem.sinogram)
    )
    # It makes its filter and its mask in the first call, which must not be traced.
    A.fbp(exact[0])

    def misfit(x, y):
        return 0.5 * jnp.sum((A.project(x) - y) ** 2)

    def operation(function, *arguments, scale=1.0):
        compiled = jax.jit(function)

        def call():
            return jax.block_until_ready([compiled(*pair) for pair in zip(*arguments, strict=True)])

        return [Operation(call, lambda found: scale * np.stack(found))]

    # A pixel gives its area, in widths of an element, of which a line integral is a mean.
    area = scan.pixel_size**2 / scan.spacing
    made = {
        "forward": operation(A.project, images, scale=area),
        "adjoint": operation(A.back_project, samples, scale=area),
        "fbp": operation(A.fbp, exact, scale=1 / area),
    }
    if area == 1:
        made["gradient"] = operation(jax.grad(misfit), images, samples)
    return PreparedLibrary(made)


def deepinv(problem: CTProblem) -> PreparedLibrary:
    """``Tomography`` with the exact adjoint, which is differentiated, and with its own for ``fbp``.

    Its detector is as wide as its image: it gets the phantom on a grid of its own.
    """
    import torch
    from deepinv.physics import Tomography

    scan = problem.scan
    if scan.spacing != scan.pixel_size:
        raise ValueError("its detector elements are as wide as pixels")
    (n,) = scan.detectors
    _check_pairs((n, n), len(scan.angles))
    degrees = torch.as_tensor(np.rad2deg(scan.angles.astype(np.float64)).astype(np.float32))
    options = {"angles": degrees, "img_width": n, "circle": True, "normalize": False}
    exactly, quickly = (Tomography(**options, adjoint_via_backprop=via) for via in (True, False))
    if problem.phantoms:
        images = np.stack([rasterize(phantom, (n, n), scan.pixel_size) for phantom in problem.phantoms])
    else:
        before = [(n - size) // 2 for size in scan.image_shape]
        after = [n - size - b for size, b in zip(scan.image_shape, before, strict=True)]
        images = np.pad(problem.image, ((0, 0), *zip(before, after, strict=True)))
    x = torch.as_tensor(images[:, None].astype(np.float32))
    y, exact = (
        torch.as_tensor(np.ascontiguousarray(np.swapaxes(a, -1, -2)[:, None], np.float32))
        for a in (problem.samples, problem.sinogram)
    )
    length = scan.pixel_size

    def gradient():
        argument = x.clone().requires_grad_()
        loss = 0.5 * torch.sum((length * exactly.A(argument) - y) ** 2)
        return torch.autograd.grad(loss, argument)[0]

    def without_gradient(function, argument):
        def call():
            with torch.no_grad():
                return function(argument)

        return call

    def operation(call, result):
        return [Operation(call, lambda found: result(found.detach().numpy()[:, 0]))]

    return PreparedLibrary(
        {
            "forward": operation(
                without_gradient(exactly.A, x), lambda found: length * np.swapaxes(found, -1, -2)
            ),
            "adjoint": operation(lambda: exactly.A_adjoint(y), lambda found: length * found),
            "gradient": operation(gradient, np.asarray),
            "fbp": operation(without_gradient(quickly.fbp, exact), lambda found: found / length),
        },
        images,
    )


def _check_pairs(shape, views):
    pairs = math.prod(shape) * views
    if pairs > _MOST_PAIRS:
        raise ValueError(f"it would hold several numbers for each of {pairs:.0e} pairs of view and pixel")


def rtk(problem: CTProblem) -> PreparedLibrary:
    """Joseph's projector and its transpose, and the FDK filter, in all threads.

    Its world has the rotation axis along y and z towards the source of the first view. ITK loads its modules
    when they are first used: that counts as its first call.
    """
    import itk
    from itk import RTK as library

    scan = problem.scan
    geometry = library.ThreeDCircularProjectionGeometry.New()
    for angle in np.rad2deg(scan.angles.astype(np.float64)):
        distance = scan.source_distance
        geometry.AddProjection(distance, distance + scan.detector_distance, float(angle), 0.0, 0.0)
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(os.cpu_count())
    kind = itk.Image[itk.F, 3]

    def centered(array, spacing):
        image = itk.image_from_array(np.ascontiguousarray(array, np.float32))
        steps = [spacing, spacing, 1.0] if array.shape == scan.shape else [spacing] * 3
        image.SetSpacing(steps)
        image.SetOrigin([-(n - 1) / 2 * s for n, s in zip(array.shape[::-1], steps, strict=True)])
        return image

    def volume(array):
        return centered(array.transpose(1, 0, 2), scan.pixel_size)

    def views(array):
        return centered(array, scan.spacing)

    nothing = volume(np.zeros_like(problem.image[0])), views(np.zeros_like(problem.sinogram[0]))

    def operation(filter, target, source, result):
        filter.SetInput(0, target)
        filter.SetInput(1, source)
        filter.SetGeometry(geometry)
        filter.InPlaceOff() if hasattr(filter, "InPlaceOff") else None

        def call():
            filter.Modified()
            filter.Update()
            return filter.GetOutput()

        return [Operation(call, lambda found: result(np.array(itk.array_view_from_image(found))))]

    def upright(array):
        return array.transpose(1, 0, 2)

    x, y, exact = volume(problem.image[0]), views(problem.samples[0]), views(problem.sinogram[0])
    project = library.JosephForwardProjectionImageFilter[kind, kind].New()
    back_project = library.JosephBackProjectionImageFilter[kind, kind].New()
    reconstruct = library.FDKConeBeamReconstructionFilter[kind].New()
    return PreparedLibrary(
        {
            "forward": operation(project, nothing[1], x, np.asarray),
            "adjoint": operation(back_project, nothing[0], y, upright),
            "fbp": operation(reconstruct, nothing[0], exact, upright),
        }
    )
