"""Frozen dataclasses that are JAX pytrees: arrays are leaves, everything marked static is structure."""

import dataclasses
from typing import TYPE_CHECKING, Any, Self, TypeVar, dataclass_transform, overload

import jax
import numpy as np
from jax.typing import ArrayLike

T = TypeVar("T")


if TYPE_CHECKING:

    class Leaf:
        """A field that is given as a number or an array of any kind, and read as an array."""

        @overload
        def __get__(self, node: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, node: object, owner: Any) -> jax.Array: ...
        def __get__(self, node: Any, owner: Any) -> Any: ...
        def __set__(self, node: Any, value: ArrayLike) -> None: ...

    class OptionalLeaf:
        """The same, or None."""

        @overload
        def __get__(self, node: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, node: object, owner: Any) -> jax.Array | None: ...
        def __get__(self, node: Any, owner: Any) -> Any: ...
        def __set__(self, node: Any, value: ArrayLike | None) -> None: ...

else:
    Leaf, OptionalLeaf = jax.Array, jax.Array | None


def static(**kwargs: Any) -> Any:
    """A field of :func:`frozen_pytree` that is part of the structure: hashable, never traced.

    Args:
      **kwargs: of ``dataclasses.field``, such as ``default``.

    Example:
      >>> @operators.frozen_pytree
      ... class Window:
      ...     weights: jax.Array
      ...     name: str = operators.static(default="box")
      >>> jax.tree.leaves(Window(1.0))
      [1.0]
    """
    return dataclasses.field(metadata={"static": True}, **kwargs)


def leaf(*, default: ArrayLike | None) -> Any:
    """A dataclass field of type ``Leaf`` or ``OptionalLeaf`` with a default."""
    return dataclasses.field(default=default)


@dataclass_transform(
    frozen_default=True, eq_default=False, field_specifiers=(static, leaf, dataclasses.field)
)
def frozen_pytree(cls: type[T]) -> type[T]:
    """Makes ``cls`` a frozen dataclass and registers it as a pytree: what every operator class needs.

    Fields are leaves (arrays, numbers, other pytrees) unless they are marked by :func:`static`. Printed,
    objects show dtypes and shapes in place of arrays.

    ``__init__`` and ``__post_init__`` run when a person builds the object, never when JAX rebuilds it, so
    that they may validate: inside ``jax.vmap`` and friends leaves may be tracers, or carry extra axes.

    Example:
      >>> @operators.frozen_pytree
      ... class Flip(operators.LinearOperator):
      ...     signs: jax.Array
      ...     shape: tuple[int, ...] = operators.static()
      ...     in_shape = out_shape = property(lambda self: self.shape)
      ...     in_dtype = out_dtype = property(lambda self: self.signs.dtype)
      ...
      ...     def _forward(self, x):
      ...         return self.signs * x[..., ::-1]
      ...
      ...     def _adjoint(self, y):
      ...         return (self.signs * y)[..., ::-1]
      >>> Flip(jnp.array([1.0, -1.0]), (2,))
      Flip(signs=float32[2], shape=(2,))
    """
    cls = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    cls.__repr__ = _repr  # type: ignore[method-assign]
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # the decorator's stub forgets what it made
    data = tuple(f.name for f in fields if not f.metadata.get("static"))
    meta = tuple(f.name for f in fields if f.metadata.get("static"))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in data)

    def flatten(node):
        return tuple(getattr(node, name) for name in data), tuple(getattr(node, name) for name in meta)

    def flatten_with_keys(node):
        children, structure = flatten(node)
        return tuple(zip(keys, children, strict=True)), structure

    def unflatten(structure, children):
        node = object.__new__(cls)
        for name, value in zip(data + meta, tuple(children) + structure, strict=True):
            object.__setattr__(node, name, value)
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def _repr(node: Any) -> str:
    fields = [f"{f.name}={_short(vars(node).get(f.name))}" for f in dataclasses.fields(node)]
    return f"{type(node).__name__}({', '.join(fields)})"


def _short(value: Any) -> str:
    """``value`` as text: shapes of arrays; long sequences and other structures by their types alone."""
    if isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if type(value) is tuple and any(not isinstance(part, int | float | str) for part in value):
        return f"({', '.join(map(_short, value))}{',' * (len(value) == 1)})"
    text = f"{value}" if isinstance(value, np.dtype) else repr(value)
    return (
        text if len(text) <= 60 or hasattr(value, "__dataclass_fields__") else f"{type(value).__name__}(...)"
    )


def assign(node: Any, **values: Any) -> None:
    """Sets fields of a frozen dataclass from its own ``__post_init__``."""
    for name, value in values.items():
        object.__setattr__(node, name, value)
