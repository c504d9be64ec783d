"""The client dataset: the examples of all sites, padded, masked and stacked."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from fedrecon.errors import ArgumentError

Array = np.ndarray | jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClientData:
    """Examples of several clients in arrays with a leading client axis; a frozen pytree.

    Attributes:
      examples: dict of arrays ``(clients, examples, ...)``; rows that are not valid are zero.
      valid: bool ``(clients, examples)``; False marks padding.
      names: the clients' names, static.
    """

    examples: dict[str, Array]
    valid: Array
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    @property
    def clients(self) -> int:
        """Number of clients."""
        return self.valid.shape[0]

    @property
    def counts(self) -> Array:
        """Number of valid examples of each client, integer ``(clients,)``."""
        return self.valid.sum(axis=1)

    def as_arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """{client: {key: its valid examples}}, on the host."""
        valid = np.asarray(self.valid)
        return {
            name: {key: np.asarray(x[i])[valid[i]] for key, x in self.examples.items()}
            for i, name in enumerate(self.names)
        }


def stack_clients(clients: Sequence[Mapping[str, np.ndarray]], names: Sequence[str]) -> ClientData:
    """Stacks clients with different numbers of examples, padding with zeros.

    Args:
      clients: one dict for each client of host arrays ``(n_i, ...)``: the same keys, trailing shapes and
        dtypes in all clients, and the same ``n_i`` in all arrays of one client. ``n_i`` may be 0.
      names: one distinct name for each client.

    Returns:
      ClientData of numpy arrays ``(clients, max n_i, ...)``.

    Raises:
      ValueError: there is no client or no example, or names, keys, lengths, shapes or dtypes disagree; the
        client and the key are named.
    """
    names = tuple(names)
    if not clients or len(names) != len(clients) or len(set(names)) != len(names):
        raise ArgumentError("names", f"one distinct name for each of {len(clients)} clients", names)
    first = {key: np.asarray(value) for key, value in clients[0].items()}
    if not first:
        raise ArgumentError(f"client {names[0]!r}", "at least one array", "none")
    counts = []
    for name, client in zip(names, clients, strict=True):
        if client.keys() != first.keys():
            raise ArgumentError(f"client {name!r}", f"the keys {sorted(first)}", sorted(client))
        lengths = {key: np.shape(value)[0] if np.ndim(value) else None for key, value in client.items()}
        length, *others = set(lengths.values())
        if length is None or others:
            raise ArgumentError(f"client {name!r}", "one number of examples in all keys", lengths)
        counts.append(length)
        for key, value in client.items():
            found = (np.shape(value)[1:], np.asarray(value).dtype)
            expected = (first[key].shape[1:], first[key].dtype)
            if found != expected:
                raise ArgumentError(
                    f"client {name!r}, key {key!r}",
                    f"example shape and dtype {expected} as in client {names[0]!r}",
                    found,
                )
    if max(counts) == 0:
        raise ArgumentError("clients", "at least one example", "none")
    examples: dict[str, np.ndarray | jax.Array] = {}
    for key, value in first.items():
        stacked = np.zeros((len(clients), max(counts), *value.shape[1:]), value.dtype)
        for index, client in enumerate(clients):
            stacked[index, : counts[index]] = client[key]
        examples[key] = stacked
    valid = np.arange(max(counts)) < np.asarray(counts)[:, None]
    return ClientData(examples, valid, names)


def pool(data: ClientData, name: str = "pooled") -> ClientData:
    """Puts the valid examples of all clients into one client, in client order (centralized training).

    The entry ``"volume"``, where there is one, is renumbered so that volumes of different clients stay
    different. Nothing else changes.
    """
    valid = np.asarray(data.valid)
    examples = {key: np.asarray(value)[valid] for key, value in data.examples.items()}
    if "volume" in examples:
        volumes = np.asarray(data.examples["volume"])
        used = [int(v[m].max()) + 1 if m.any() else 0 for v, m in zip(volumes, valid, strict=True)]
        offsets = np.concatenate([[0], np.cumsum(used)[:-1]])
        examples["volume"] += np.repeat(offsets, valid.sum(axis=1)).astype(examples["volume"].dtype)
    return stack_clients([examples], (name,))


def select_clients(data: ClientData, names: Sequence[str]) -> ClientData:
    """The clients with these names, in this order; padding that no remaining client needs is dropped.

    Raises:
      ValueError: a name is not a client's, or is given twice, or none is given.
    """
    names = tuple(names)
    if not names or len(set(names)) != len(names) or not set(names) <= set(data.names):
        raise ArgumentError("names", f"distinct names among {data.names}", names)
    chosen = np.asarray([data.names.index(name) for name in names])
    used = max(int(np.asarray(data.counts)[chosen].max()), 1)
    return ClientData(
        {key: value[chosen, :used] for key, value in data.examples.items()}, data.valid[chosen, :used], names
    )


def split_counts(count: int, fractions: Sequence[float]) -> tuple[int, ...]:
    """Divides ``count`` by fractions: largest remainder, at least one for every positive fraction.

    Raises:
      ValueError: the fractions are negative or do not sum to one, or ``count`` is too small for one each.
    """
    shares = np.asarray(fractions, float)
    if shares.ndim != 1 or not np.all(shares >= 0) or not np.isclose(shares.sum(), 1.0):
        raise ArgumentError("fractions", "non-negative numbers that sum to 1", tuple(fractions))
    minimum = (shares > 0).astype(int)
    if count < minimum.sum():
        raise ArgumentError(f"fractions={tuple(fractions)}", f"at least {minimum.sum()} to divide", count)
    result = np.maximum(np.floor(shares * count + 1e-9).astype(int), minimum)
    while result.sum() < count:
        result[np.argmax(np.where(shares > 0, shares * count - result, -np.inf))] += 1
    while result.sum() > count:
        result[np.argmax(np.where(result > minimum, result - shares * count, -np.inf))] -= 1
    return tuple(int(n) for n in result)


def split_patients(
    patient_ids: Sequence,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    sites: Sequence | None = None,
) -> tuple[np.ndarray, ...]:
    """Splits examples into parts by patient: no patient is in two parts.

    Each site is split by itself, so every site has a patient in every part of positive fraction. The result
    depends on the set of patients of a site, the fractions and the seed, not on the order of the examples or
    on the other sites.

    Args:
      patient_ids: one identifier for each example.
      fractions: of each site's patients (not of its examples), for each part.
      seed: non-negative integer.
      sites: one site for each example; None for one site.

    Returns:
      For each part the indices of its examples, increasing, int64.

    Raises:
      ValueError: lengths differ, a patient is in two sites, or a site has too few patients.
    """
    patients = np.asarray([str(p) for p in patient_ids])
    site_names = np.asarray(
        ["" if sites is None else str(s) for s in (patient_ids if sites is None else sites)]
    )
    if len(patients) != len(site_names):
        raise ArgumentError("sites", f"{len(patients)} entries, one for each example", len(site_names))
    part = np.zeros(len(patients), int)
    seen: dict[str, str] = {}
    for site in sorted(set(site_names)):
        members = sorted(set(patients[site_names == site]))
        for patient in members:
            if patient in seen:
                raise ArgumentError(
                    f"patient {str(patient)!r}", "one site", f"{seen[patient]!r} and {str(site)!r}"
                )
            seen[patient] = str(site)
        try:
            counts = split_counts(len(members), fractions)
        except ArgumentError as error:
            where = f"patients of site {str(site)!r}: {error.name}"
            raise ArgumentError(where, error.expected, error.found) from error
        order = np.random.default_rng([seed, zlib.crc32(site.encode())]).permutation(len(members))
        parts = dict(zip(np.asarray(members)[order], np.repeat(np.arange(len(counts)), counts), strict=True))
        for index in np.flatnonzero(site_names == site):
            part[index] = parts[patients[index]]
    return tuple(np.flatnonzero(part == index) for index in range(len(tuple(fractions))))
