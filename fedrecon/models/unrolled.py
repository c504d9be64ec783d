"""The core of unrolled networks: one loop over cascades, for any operator, state and step."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models.operator_scale import squared_norms
from operators import LinearOperator

PyTree = Any


@flax.struct.dataclass
class CascadeInputs:
    """What every cascade of a network sees of a batch, built by ``cascade_inputs``.

    Attributes:
      operators: an operator stacked leaf by leaf: every array leaf has a leading batch axis.
      measurements: y, (batch, *out_shape).
      back_projection: A^H y, (batch, *in_shape).
      valid: (batch,) bool, False at padding; None for all valid.
      norms: (batch,) |A|^2 that steps of gradients are divided by, of `squared_norms`; None for 1.
      train: whether batch normalization uses and updates batch statistics; static.
    """

    operators: LinearOperator
    measurements: jax.Array
    back_projection: jax.Array
    valid: jax.Array | None = None
    norms: jax.Array | None = None
    train: bool = flax.struct.field(pytree_node=False, default=False)

    def forward(self, x: jax.Array) -> jax.Array:
        """A x: (batch, *in_shape) -> (batch, *out_shape)."""
        return jax.vmap(lambda A, x: A(x))(self.operators, x)

    def adjoint(self, y: jax.Array) -> jax.Array:
        """A^H y: (batch, *out_shape) -> (batch, *in_shape)."""
        return jax.vmap(lambda A, y: A.H(y))(self.operators, y)

    def gram(self, x: jax.Array) -> jax.Array:
        """A^H A x: (batch, *in_shape) -> (batch, *in_shape)."""
        return jax.vmap(lambda A, x: A.gram(x))(self.operators, x)

    def gradient(self, x: jax.Array) -> jax.Array:
        """(A^H A x - A^H y) over the norms: (batch, *in_shape) -> (batch, *in_shape)."""
        found = self.gram(x) - self.back_projection
        return found if self.norms is None else found / self.norms.reshape(-1, *(1,) * (x.ndim - 1))


# step(cascade, state, inputs) -> state, of the same structure and shapes. Parameters and submodules belong to
# ``cascade``, the module that runs the step: ``cascade.param("step", ...)``.
Step = Callable[[nn.Module, PyTree, CascadeInputs], PyTree]


def _kind(leaf: jax.Array) -> str:
    return f"{'complex' if jnp.iscomplexobj(leaf) else 'real'} {leaf.shape}"


class Cascade(nn.Module):
    """A step in the form that ``nn.scan`` takes; keeps the dtypes of the state."""

    step: Step

    @nn.compact
    def __call__(self, state: PyTree, inputs: CascadeInputs) -> tuple[PyTree, None]:
        new = self.step(self, state, inputs)
        expected, found = jax.tree.map(_kind, state), jax.tree.map(_kind, new)
        if expected != found:
            raise ArgumentError("step", f"a state {expected}", found)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), new, state), None


def cascade_inputs(
    operators: LinearOperator,
    measurements: jax.Array,
    train: bool = False,
    valid: jax.Array | None = None,
    *,
    normalized: bool = False,
) -> CascadeInputs:
    """The inputs of all cascades, with the back-projection.

    Args:
      operators, measurements, train, valid: as in ``CascadeInputs``.
      normalized: finds ``norms`` by `squared_norms`; else they are None.
    """
    # Leaves may be numpy arrays, which the loop over cascades cannot hold.
    operators, measurements = jax.tree.map(jnp.asarray, (operators, measurements))
    back_projection = jax.vmap(lambda A, y: A.H(y))(operators, measurements)
    norms = squared_norms(operators) if normalized else None
    return CascadeInputs(operators, measurements, back_projection, valid, norms, train)


def start_image(inputs: CascadeInputs, initial: jax.Array | None) -> jax.Array:
    """The state of networks that carry an image: ``initial``, or A^H y where it is None.

    Raises:
      ValueError: ``initial`` has another shape than A^H y.
    """
    if initial is None:
        return inputs.back_projection
    if initial.shape != inputs.back_projection.shape:
        raise ArgumentError("initial", f"shape {inputs.back_projection.shape}", initial.shape)
    return initial.astype(inputs.back_projection.dtype)


def first_leaf(state: PyTree) -> jax.Array:
    """The image of a state: its first leaf."""
    return jax.tree.leaves(state)[0]


def unroll(
    step: Step,
    state: PyTree,
    inputs: CascadeInputs,
    cascades: int,
    *,
    shared: bool = False,
    remat: bool = False,
) -> PyTree:
    """Applies ``step`` ``cascades`` times in one ``lax.scan``; to be called in ``nn.compact``.

    Variables are those of a submodule "cascades" of the calling module; "intermediates" that modules inside
    sow, or that are captured, have a leading axis of cascades.

    Args:
      step: maps a state to the next one. Inside ``jax.shard_map`` every leaf of the state must vary over the
        mesh axes of the data: build it from ``inputs``.
      state: pytree of arrays to start from: an image, or images, dual variables, k-space, multipliers.
      inputs: of all cascades.
      cascades: number of steps.
      shared: uses one set of parameters in all cascades; else each has its own, stacked on a leading axis.
        Batch statistics are stacked in both cases.
      remat: recomputes each cascade in the backward pass, which stores one state per cascade only.

    Returns:
      The last state, of the structure, shapes and dtypes of ``state``.

    Raises:
      ValueError: ``step`` returns other shapes, another structure, or complex arrays in place of real ones.
    """
    separate: dict[Any, Any] = {} if shared else {"params": 0}
    scanned = nn.scan(
        nn.remat(Cascade, prevent_cse=False) if remat else Cascade,
        variable_axes={"batch_stats": 0, "intermediates": 0, **separate},
        variable_broadcast="params" if shared else False,
        split_rngs={"params": not shared},
        in_axes=nn.broadcast,
        length=cascades,
    )
    return scanned(step, name="cascades")(state, inputs)[0]


class Unrolled(nn.Module):
    """Any step unrolled, such as ``regularized(proximal_step(), UNetRegularizer(16, 2))``.

    Attributes:
      step: one cascade; see ``unroll``.
      cascades: number of unrolled steps.
      start: ``start(inputs, initial) -> state``.
      finish: ``finish(state) -> image``.
      shared: uses one set of parameters in all cascades.
      remat: recomputes each cascade in the backward pass, which stores one state per cascade only.
    """

    step: Step
    cascades: int
    start: Callable[[CascadeInputs, jax.Array | None], PyTree] = start_image
    finish: Callable[[PyTree], jax.Array] = first_leaf
    shared: bool = False
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        operators: LinearOperator,
        measurements: jax.Array,
        initial: jax.Array | None = None,
        train: bool = False,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Reconstructs a batch of images or volumes; arguments as in ``VarNet``."""
        inputs = cascade_inputs(operators, measurements, train, valid)
        state = self.start(inputs, initial)
        return self.finish(
            unroll(self.step, state, inputs, self.cascades, shared=self.shared, remat=self.remat)
        )
