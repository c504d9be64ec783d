"""The data sets of a node, by tags."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrecon.errors import ArgumentError


class Dataset(NamedTuple):
    """A data set of a node; it never leaves it.

    Attributes:
      name: unique at the node.
      tags: what it is found by.
      examples: arrays (examples, ...).
    """

    name: str
    tags: frozenset[str]
    examples: Mapping[str, np.ndarray]

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(next(iter(self.examples.values())))

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a batch of one example."""
        return {k: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for k, x in self.examples.items()}


class Found(NamedTuple):
    """What a search tells of a data set: not how many examples it has."""

    name: str
    tags: frozenset[str]
    shapes: Mapping[str, jax.ShapeDtypeStruct]


class Registry:
    """Data sets that a node has registered."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}

    def add(self, name: str, tags: Iterable[str], examples: Mapping[str, Any]) -> None:
        """Registers a data set.

        Raises:
          ValueError: the name is taken, there are no tags, or arrays differ in their numbers of examples.
        """
        tags, arrays = frozenset(tags), {key: np.asarray(x) for key, x in examples.items()}
        if name in self._datasets or not tags:
            expected = "tags" if not tags else "a name that is not registered"
            raise ArgumentError("tags" if not tags else "name", expected, repr(name))
        counts = {x.shape[:1] for x in arrays.values()}
        if len(counts) != 1 or counts == {()}:
            raise ArgumentError("examples", "arrays of as many examples each", sorted(counts))
        self._datasets[name] = Dataset(name, tags, arrays)

    def search(self, tags: Iterable[str]) -> tuple[Found, ...]:
        """What is known of the data sets that have all these tags, in the order of their names."""
        return tuple(Found(d.name, d.tags, d.shapes) for d in self.matching(tags))

    def matching(self, tags: Iterable[str]) -> tuple[Dataset, ...]:
        """The data sets that have all these tags, for the node itself."""
        wanted = frozenset(tags)
        return tuple(d for _, d in sorted(self._datasets.items()) if wanted <= d.tags)
