"""What the rounds of a training will occupy, said before the first one."""

from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from fedrecon.runtime import MemoryEstimate, available_memory, readable_bytes

PyTree = Any


class Demand(NamedTuple):
    """Bytes at the peak of a round, of the host on CPU, else of each device of this process.

    Attributes:
      data: of the clients' examples.
      states: of models and of what clients and server keep.
      working: what a round adds to these while it runs.
      available: what is left for that, once data and states are there; None where nobody says.
    """

    data: int
    states: int
    working: int
    available: int | None = None

    @property
    def total(self) -> int:
        """All three."""
        return self.data + self.states + self.working

    def sentence(self) -> str:
        """Names the parts."""
        parts = f"{readable_bytes(self.data)} data, {readable_bytes(self.states)} models and states"
        running = f"{readable_bytes(self.working)} while it runs"
        return f"memory: about {readable_bytes(self.total)} for a round ({parts}, {running})"

    def warning(self, parallel: str | int) -> str:
        """Says what to reduce where a round does not fit; empty where it does, or nobody knows.

        Args:
          parallel: how clients run on a device, as in `make_round`.
        """
        if self.available is None or self.working <= self.available:
            return ""
        advice = "lower --batch_size or raise --accumulate, or take --remat with an unrolled network"
        if parallel != "scan":
            advice += f", or fewer clients at a time than --parallel={parallel}"
        found = f"{readable_bytes(self.available)} are left for {readable_bytes(self.working)}"
        return f"memory: a round may not fit, {found}: {advice}"


def demand(memory: MemoryEstimate | None, data: PyTree, state: PyTree, mesh: Mesh) -> Demand | None:
    """What rounds on these devices occupy.

    Args:
      memory: of the compiled rounds, on each device; None where that is not known.
      data: what rounds are given, placed on the devices.
      state: before the first round, likewise, with what is kept beside what rounds are given.
      mesh: the devices.

    Returns:
      None without ``memory``.
    """
    if memory is None:
        return None
    devices = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    # CPU devices of a process share the memory of the host.
    shared = devices[0].platform == "cpu"
    parts, copies = (1, len(devices)) if shared else (len(devices), 1)
    return Demand(
        _here(data) // parts, _here(state) // parts, memory.added * copies, available_memory(devices[0])
    )


def _here(tree: PyTree) -> int:
    """Bytes of the parts of arrays that are on devices of this process."""
    return sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(tree)
        if isinstance(leaf, jax.Array)
        for shard in leaf.addressable_shards
    )
