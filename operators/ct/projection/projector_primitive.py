"""Line-driven projection of images as two JAX primitives: each the transpose of the other.

A ray crosses the lines of an image, its rows or its columns, whichever it meets more squarely, at positions
linear in the line's number: ``base + slope * (line - (lines - 1) / 2)``, in pixels. With as many knots as
bins, knots are rays and every line is interpolated at them (Joseph's model); with one knot more, they are the
edges of the bins, and the mean of every line between two edges is taken (distance-driven model). The sum over
lines is multiplied by ``|lengths|``, the ray's path per line.

    rays (t, 2, 2, views, knots): for lines that are rows, then columns: base, slope
    lengths (t, views, bins): negative where lines are columns
    shadows (t, views, 8): where rays through pixels meet the detector (operators.ct.projection.lines)
    project: images (t, b, ny, nx) -> sinograms (t, b, views, bins)

An operand whose axis t has length one is shared. The shadows tell plain JAX where to look for the bins of a
pixel; no result depends on them.
"""

import functools

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad

from operators.algebra import vary_together
from operators.ct.projection import projector_jax
from operators.kernels import batch_length, call, native, register, sum_to

project_p = Primitive("project")
back_project_p = Primitive("back_project")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def project(
    backend: str,
    shape: tuple[int, int],
    curved: bool,
    rays: jax.Array,
    lengths: jax.Array,
    shadows: jax.Array,
    images: jax.Array,
) -> jax.Array:
    """Sinograms (t, b, views, bins) of images (t, b, *shape); see the module's docstring."""
    params = {"shape": shape, "curved": curved, "backend": backend}
    return call(project_p, (rays, images, lengths, shadows), params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def back_project(
    backend: str,
    shape: tuple[int, int],
    curved: bool,
    rays: jax.Array,
    lengths: jax.Array,
    shadows: jax.Array,
    sinograms: jax.Array,
) -> jax.Array:
    """The exact adjoint of :func:`project`: (t, b, views, bins) -> (t, b, *shape)."""
    params = {"shape": shape, "curved": curved, "backend": backend}
    return call(back_project_p, (rays, sinograms, lengths, shadows), params)


def _fwd(function, backend, shape, curved, rays, lengths, shadows, array):
    kept = array.value if rays.perturbed or lengths.perturbed else None
    geometry = rays.value, lengths.value, shadows.value
    return function(backend, shape, curved, *geometry, array.value), (geometry, kept)


def _bwd(function, backend, shape, curved, residuals, cotangent):
    geometry, kept = residuals
    other = back_project if function is project else project
    gradients = (None, None)
    if kept is not None:
        images, sinograms = (kept, cotangent) if function is project else (cotangent, kept)
        rays, lengths, images, sinograms = vary_together(*geometry[:2], images, sinograms)
        # Images are constant here, so that plain JAX gathers and does not scatter.
        gradients = jax.vjp(
            lambda rays, lengths: projector_jax.project(rays, images, lengths), rays, lengths
        )[1](sinograms)
    return *gradients, None, other(backend, shape, curved, *geometry, cotangent)


for _function in (project, back_project):
    _function.defvjp(
        functools.partial(_fwd, _function), functools.partial(_bwd, _function), symbolic_zeros=True
    )


# Shapes, native kernels and derivatives in the arrays.


def _out_shape(primitive, rays, array, lengths, shadows, *, shape, **_):
    tail = lengths.shape[1:] if primitive is project_p else shape
    return batch_length(rays, array, lengths), array.shape[1], *tail


def _plain(primitive, *operands, **params):
    function = projector_jax.project if primitive is project_p else projector_jax.back_project
    return function(*operands, **params)


def _on_cpu(primitive, rays, array, lengths, shadows, **params):
    native_wanted = params["backend"] == "force" or (
        params["backend"] == "auto" and native.supports(array.dtype, "projector")
    )
    if not native_wanted:
        return _plain(primitive, rays, array, lengths, shadows, **params)
    kind = "forward" if primitive is project_p else "adjoint"
    out_shape = _out_shape(primitive, rays, array, lengths, shadows, **params)
    return native.projector(kind, rays, array, lengths, out_shape)


def _jvp(primitive, primals, tangents, **params):
    out = call(primitive, primals, params)
    if any(not isinstance(t, ad.Zero) for t in (tangents[0], *tangents[2:])):
        raise NotImplementedError("forward-mode derivatives of a projector in its geometry are not defined")
    if isinstance(tangents[1], ad.Zero):
        return out, ad.Zero.from_primal_value(out)
    return out, call(primitive, (primals[0], tangents[1], *primals[2:]), params)


def _transpose(primitive, cotangent, rays, array, lengths, shadows, **params):
    if isinstance(cotangent, ad.Zero):
        return None, None, None, None
    other = back_project_p if primitive is project_p else project_p
    out = call(other, (rays, cotangent, lengths, shadows), params)
    return None, sum_to(out, array.aval.shape[0]), None, None


register(
    project_p,
    back_project_p,
    out_shape=_out_shape,
    plain=_plain,
    on_cpu=_on_cpu,
    jvp=_jvp,
    transpose=_transpose,
)
