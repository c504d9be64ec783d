"""Projection of volumes as two JAX primitives: each the transpose of the other.

A ray crosses the planes of voxels that it meets most squarely, one after the other; every plane is
interpolated there, or averaged over the detector's element, and the sum over planes times the path from one
to the next is the projection. Planes are numbered from the middle of the volume.

    tables (t, COLUMN_ENTRIES, views, columns) or (t, views, 4, 3): see :mod:`operators.ct.projection.planes`
    project: volumes (t, b, nz, ny, nx) -> sinograms (t, b, views, rows, columns)

An operand whose axis t has length one is shared.
"""

import functools
from typing import NamedTuple

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad

from operators.algebra import vary_together
from operators.ct.projection import volume_jax
from operators.kernels import batch_length, call, native, over_trajectories, register, sum_to


class Layout(NamedTuple):
    """What is fixed of a projection.

    Attributes:
      model: "joseph" or "distance-driven" for tables of columns; "diverging" or "parallel" rays for tables
        of poses, which are interpolated in their planes as Joseph does.
      shape: (nz, ny, nx).
      detector: (rows, columns).
      pixel_size: height of the voxels, in which paths are counted.
    """

    model: str
    shape: tuple[int, ...]
    detector: tuple[int, ...]
    pixel_size: float


project_p = Primitive("project_volume")
back_project_p = Primitive("back_project_volume")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def project(backend: str, layout: Layout, tables: jax.Array, volumes: jax.Array) -> jax.Array:
    """Sinograms (t, b, views, rows, columns) of volumes (t, b, nz, ny, nx)."""
    return call(project_p, (tables, volumes), {"layout": layout, "backend": backend})


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def back_project(backend: str, layout: Layout, tables: jax.Array, sinograms: jax.Array) -> jax.Array:
    """The exact adjoint of :func:`project`."""
    return call(back_project_p, (tables, sinograms), {"layout": layout, "backend": backend})


def _fwd(function, backend, layout, tables, array):
    kept = array.value if tables.perturbed else None
    return function(backend, layout, tables.value, array.value), (tables.value, kept)


def _bwd(function, backend, layout, residuals, cotangent):
    tables, kept = residuals
    gradient = None
    if kept is not None:
        volumes, sinograms = (kept, cotangent) if function is project else (cotangent, kept)
        gradient = _table_gradient(layout, *vary_together(tables, volumes, sinograms))
    other = back_project if function is project else project
    return gradient, other(backend, layout, tables, cotangent)


def _table_gradient(layout, tables, volumes, sinograms):
    # Volumes are constant here, so that plain JAX gathers and does not scatter.
    forward = functools.partial(volume_jax.project, layout, separate=True)
    return jax.vjp(lambda t: over_trajectories(forward, (t, volumes)), tables)[1](sinograms)[0]


for _function in (project, back_project):
    _function.defvjp(
        functools.partial(_fwd, _function), functools.partial(_bwd, _function), symbolic_zeros=True
    )


def _plain(primitive, tables, array, *, layout, backend):
    function = volume_jax.project if primitive is project_p else volume_jax.back_project
    return over_trajectories(functools.partial(function, layout), (tables, array))


# Shapes, native kernels and derivatives in the arrays.


def _out_shape(primitive, tables, array, *, layout, **_):
    views = tables.shape[1 if volume_jax.by_pose(layout) else 2]
    tail = (views, *layout.detector) if primitive is project_p else layout.shape
    return batch_length(tables, array), array.shape[1], *tail


def _on_cpu(primitive, tables, array, *, layout, backend):
    forward = primitive is project_p
    if backend != "force" and not (backend == "auto" and native.supports(array.dtype, "volume")):
        return _plain(primitive, tables, array, layout=layout, backend=backend)
    kind = ("rays_" if volume_jax.by_pose(layout) else "") + ("forward" if forward else "adjoint")
    return native.volume(kind, tables, array, layout, _out_shape(primitive, tables, array, layout=layout))


def _jvp(primitive, primals, tangents, **params):
    out = call(primitive, primals, params)
    if not isinstance(tangents[0], ad.Zero):
        raise NotImplementedError("forward-mode derivatives of a projector in its geometry are not defined")
    if isinstance(tangents[1], ad.Zero):
        return out, ad.Zero.from_primal_value(out)
    return out, call(primitive, (primals[0], tangents[1]), params)


def _transpose(primitive, cotangent, tables, array, **params):
    if isinstance(cotangent, ad.Zero):
        return None, None
    other = back_project_p if primitive is project_p else project_p
    return None, sum_to(call(other, (tables, cotangent), params), array.aval.shape[0])


register(
    project_p,
    back_project_p,
    out_shape=_out_shape,
    plain=_plain,
    on_cpu=_on_cpu,
    jvp=_jvp,
    transpose=_transpose,
)
