"""Frozen dataclasses that are JAX pytrees: arrays are leaves, everything marked static is structure."""

import dataclasses
from typing import TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(**kwargs) -> dataclasses.Field:
    """A dataclass field that is part of the pytree's structure: hashable, never traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static, dataclasses.field))
def frozen_pytree(cls: type[T]) -> type[T]:
    """Makes ``cls`` a frozen dataclass and registers it as a pytree.

    ``__init__`` and ``__post_init__`` run when a person builds the object, never when JAX rebuilds it, so
    that they may validate: inside ``jax.vmap`` and friends leaves may be tracers, or carry extra axes.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cls)
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


def assign(node, **values) -> None:
    """Sets fields of a frozen dataclass from its own ``__post_init__``."""
    for name, value in values.items():
        object.__setattr__(node, name, value)
