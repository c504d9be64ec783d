"""Rounds that are compiled before they are needed."""

import time
from collections.abc import Callable

import jax

from fedrecon.runtime import release_memory
from fedrecon.training.spending import fresh_key


class CompiledRounds:
    """``dispatch(count)`` for `fedrecon.runtime.train`: each number of rounds is compiled once.

    With ``fresh`` every dispatch has a key of its own from the operating system.

    Attributes:
      seconds: spent compiling.
    """

    def __init__(
        self, compile: Callable[[int, jax.Array], Callable], key: jax.Array, *, fresh: bool = False
    ) -> None:
        self._compile, self._key, self._fresh = compile, key, fresh
        self._compiled: dict[int, Callable] = {}
        self.seconds = 0.0

    def __call__(self, count: int) -> Callable:
        if count not in self._compiled:
            start = time.perf_counter()
            # What was compiled before leaves memory that this compilation would add to.
            release_memory()
            self._compiled[count] = self._compile(count, self._key)
            release_memory()
            self.seconds += time.perf_counter() - start
        run = self._compiled[count]
        return (lambda state, data, key: run(state, data, fresh_key())) if self._fresh else run
