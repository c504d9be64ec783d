"""Whether a network looks at its examples one by one, as differential privacy presumes (deepee's snooper)."""

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.types import Batch, PyTree, Task, Variables

# Of a loss that is a sum over examples rounding leaves less than this part.
_TOLERANCE = 2e-3


def mixing(task: Task, variables: Variables, batch: Batch, key: jax.Array) -> float:
    """By how much the gradient that one example adds to a batch's depends on another example.

    With the examples (a, b) and changed ones (a', b'), the gradients of a sum over examples obey
    ``g(a, b) - g(a', b) - g(a, b') + g(a', b') = 0``, also with dropout and random views, whose draws depend
    on the key alone. Batch normalization, contrasts within the batch and the like break it.

    Args:
      task: any.
      variables: of the model.
      batch: two examples; what is no floating-point number stays as it is.
      key: of the changes, and of the loss.

    Returns:
      The norm of that sum over the mean norm of ``g(a', b) - g(a, b)`` and ``g(a, b') - g(a, b)``; NaN where
      the gradients do not change or are not finite.
    """
    batch = {name: jnp.asarray(x) for name, x in batch.items()} | {"valid": jnp.ones(2, bool)}
    changed = {name: _changed(x, jax.random.fold_in(key, i)) for i, (name, x) in enumerate(batch.items())}

    @jax.jit
    def gradient(batch):
        def loss(params):
            return task.loss(params, variables.stats, batch, key)[0]

        return jax.grad(loss)(variables.params)

    def at(first: bool, second: bool) -> PyTree:
        flags = jnp.array([first, second])
        rows = {
            name: jnp.where(flags.reshape(2, *(1,) * (x.ndim - 1)), changed[name], x)
            for name, x in batch.items()
        }
        return jax.tree.map(lambda x: np.asarray(x, np.complex128), gradient(rows))

    plain, first, second, both = at(False, False), at(True, False), at(False, True), at(True, True)
    away = jax.tree.map(lambda a, b, c, d: a - b - c + d, plain, first, second, both)
    size = (_norm(_minus(first, plain)) + _norm(_minus(second, plain))) / 2
    return float(_norm(away) / size) if size > 0 and np.isfinite(size) else float("nan")


def check_examples_apart(task: Task, variables: Variables, batch: Batch, key: jax.Array) -> None:
    """Refuses a model that mixes the examples of a batch: a guarantee for single examples would be void.

    Args:
      task, variables, batch, key: as in `mixing`.

    Raises:
      ValueError: the model has running statistics, or the gradient of one example depends on another's.
    """
    advice = "fedrecon.tasks.without_batch_normalization replaces batch normalization"
    if found := jax.tree_util.tree_leaves_with_path(variables.stats):
        where = jax.tree_util.keystr(found[0][0])
        raise ArgumentError("task", f"none with running statistics, which mix examples ({advice})", where)
    if (found := mixing(task, variables, batch, key)) > _TOLERANCE:
        expected = f"a model that looks at examples one by one ({advice})"
        raise ArgumentError("task", expected, f"gradients that mix examples by {100 * found:.2g} %")


def _changed(x: jax.Array, key: jax.Array) -> jax.Array:
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    spread = jnp.maximum(jnp.std(x), 1e-3).astype(jnp.float32)
    return x + (0.5 * spread * jax.random.normal(key, x.shape, x.dtype)).astype(x.dtype)


def _minus(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: x - y, a, b)


def _norm(tree: PyTree) -> float:
    return float(np.sqrt(sum(np.sum(np.abs(x) ** 2) for x in jax.tree.leaves(tree))))
