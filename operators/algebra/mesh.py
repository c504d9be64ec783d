"""Agreement of arrays inside ``jax.shard_map``."""

import jax


def vary_together(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Marks arrays as varying over every mesh axis that any of them varies over.

    Functions with a custom derivative need it: JAX inserts these marks around single primitives, and sums
    gradients over the axis where they are transposed, but not around such functions. Outside ``shard_map``
    it does nothing.
    """
    axes = [jax.typeof(a).manual_axis_type.varying for a in arrays]
    union = frozenset().union(*axes)

    def mark(array, own):
        missing = tuple(sorted(union - own))
        return jax.lax.pcast(array, missing, to="varying") if missing else array

    return tuple(map(mark, arrays, axes))
