"""Frozen dataclasses that are JAX pytrees: arrays are leaves, everything marked static is structure."""

import dataclasses
from typing import TYPE_CHECKING, Any, Self, TypeVar, dataclass_transform, overload

import jax
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
    """A dataclass field that is part of the pytree's structure: hashable, never traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


def leaf(*, default: ArrayLike | None) -> Any:
    """A dataclass field of type ``Leaf`` or ``OptionalLeaf`` with a default."""
    return dataclasses.field(default=default)


@dataclass_transform(
    frozen_default=True, eq_default=False, field_specifiers=(static, leaf, dataclasses.field)
)
def frozen_pytree(cls: type[T]) -> type[T]:
    """Makes ``cls`` a frozen dataclass and registers it as a pytree.

    ``__init__`` and ``__post_init__`` run when a person builds the object, never when JAX rebuilds it, so
    that they may validate: inside ``jax.vmap`` and friends leaves may be tracers, or carry extra axes.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
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


def assign(node: Any, **values: Any) -> None:
    """Sets fields of a frozen dataclass from its own ``__post_init__``."""
    for name, value in values.items():
        object.__setattr__(node, name, value)
