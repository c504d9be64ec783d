"""Partitions of one data set over clients: by site, by skewed labels, by skewed sizes.

A partition is a tuple of index arrays, one for each client: every example belongs to exactly one client, and
where patients are given all examples of a patient belong to the same. Partitions depend on the arguments and
the seed alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedrecon.data.clients.client_data import ClientData, stack_clients
from fedrecon.errors import ArgumentError

Parts = tuple[np.ndarray, ...]


def site_partition(sites: Sequence) -> tuple[Parts, tuple[str, ...]]:
    """The natural partition: one client for each site, in the order in which sites first appear.

    Args:
      sites: one site for each example.

    Returns:
      (parts, names): increasing int64 indices of each client's examples, and the sites as text.

    Raises:
      ValueError: there is no example.
    """
    places = [str(site) for site in _one_axis(sites, "sites")]
    names = tuple(dict.fromkeys(places))
    found = np.asarray(places)
    return tuple(np.flatnonzero(found == name) for name in names), names


def case_type_partition(segmentation: np.ndarray, patients: Sequence) -> tuple[Parts, tuple[str, ...]]:
    """One client for each set of classes that patients have: organs alone, organs with a tumor.

    Args:
      segmentation: (examples, [nz,] ny, nx) whole numbers, 0 of the background.
      patients: one for each example.

    Returns:
      (parts, names): as `site_partition`; names are the classes, "none", "1", "1+2".

    Raises:
      ValueError: there is no example, or another number of patients than of examples.
    """
    names = _one_axis(patients, "patients")
    if len(names) != len(segmentation):
        raise ArgumentError("patients", f"one for each of {len(segmentation)} examples", len(names))
    found: dict[Any, set[int]] = {}
    for name, labels in zip(names, np.asarray(segmentation), strict=True):
        found.setdefault(name, set()).update(np.unique(labels).astype(int).tolist())
    kinds = {name: "+".join(map(str, sorted(classes - {0}))) or "none" for name, classes in found.items()}
    return site_partition([kinds[name] for name in names])


def dirichlet_partition(
    labels: Sequence,
    clients: int,
    concentration: float,
    *,
    balanced: bool = False,
    minimum: int = 1,
    patients: Sequence | None = None,
    seed: int = 0,
) -> Parts:
    """Label skew by Dirichlet draws.

    Each label's examples are divided over the clients in proportions drawn from ``Dir(concentration, ...,
    concentration)`` (Yurochkin et al. 2019; NIID-Bench, Li et al. 2022): clients differ in labels and sizes.
    If ``balanced``, clients are of equal size and each draws its label proportions from ``Dir(concentration
    p)``, p being those of the whole data set (Hsu, Qi and Brown 2019); a client whose labels have run out
    draws anew among those that are left. For both, a large concentration gives every client the proportions
    of the whole; a small one gives each label to one client and, if balanced, nearly one label to each
    client.

    Args:
      labels: one for each example, integers or text.
      clients: number of clients.
      concentration: positive.
      balanced: which of the two.
      minimum: least number of examples per client: a client with fewer gets examples (patients), drawn at
        random, from the largest client.
      patients: one identifier for each example; a patient counts with its most frequent label.
      seed: non-negative integer.

    Returns:
      Increasing int64 indices of each client's examples.

    Raises:
      ValueError: an argument is out of its range, or there are too few examples or patients.
    """
    labels = _one_axis(labels, "labels")
    if not (np.isfinite(concentration) and concentration > 0):
        raise ArgumentError("concentration", "a positive number", repr(concentration))
    units = _Units(len(labels), clients, minimum, patients, np.random.default_rng([checked_seed(seed), 11]))
    kinds = units.most_frequent(labels)
    draw = _balanced_labels if balanced else _divided_labels
    return units.parts(draw(units, kinds, concentration))


def quantity_partition(
    examples: int,
    clients: int,
    *,
    concentration: float | None = None,
    exponent: float | None = None,
    minimum: int = 1,
    patients: Sequence | None = None,
    seed: int = 0,
) -> Parts:
    """Quantity skew: a random division into clients of different sizes.

    Args:
      examples: number of examples.
      clients: number of clients.
      concentration: shares are drawn from ``Dir(concentration, ..., concentration)``; or
      exponent: the share of client k = 1, 2, ... is proportional to ``k ** -exponent``; at least 0, which is
        equal sizes. Exactly one of the two.
      minimum, patients, seed: as in `dirichlet_partition`.

    Returns:
      Increasing int64 indices of each client's examples.

    Raises:
      ValueError: as `dirichlet_partition`.
    """
    if isinstance(examples, bool) or not isinstance(examples, int | np.integer) or examples < 1:
        raise ArgumentError("examples", "an integer of at least 1", repr(examples))
    if (concentration is None) == (exponent is None):
        raise ArgumentError(
            "concentration, exponent",
            "exactly one of them",
            f"concentration={concentration}, exponent={exponent}",
        )
    if concentration is not None and not (np.isfinite(concentration) and concentration > 0):
        raise ArgumentError("concentration", "a positive number", repr(concentration))
    if exponent is not None and not (np.isfinite(exponent) and exponent >= 0):
        raise ArgumentError("exponent", "a number of at least 0", repr(exponent))
    units = _Units(examples, clients, minimum, patients, np.random.default_rng([checked_seed(seed), 12]))
    if exponent is not None:
        shares = np.arange(1, clients + 1, dtype=float) ** -exponent
    else:
        shares = _dirichlet(units.rng, np.full(clients, concentration))
    owner = np.empty(len(units.sizes), int)
    units.divide(np.arange(len(units.sizes)), shares, owner)
    return units.parts(owner)


def shard_partition(
    labels: Sequence,
    clients: int,
    shards_per_client: int = 2,
    *,
    patients: Sequence | None = None,
    seed: int = 0,
) -> Parts:
    """Examples sorted by label, cut into equal shards, of which each client gets some (McMahan et al. 2017).

    Args:
      labels: one for each example, integers or text.
      clients: number of clients.
      shards_per_client: a client has about as many labels, at most.
      patients, seed: as in `dirichlet_partition`; with patients, shards are equal up to one patient.

    Returns:
      Increasing int64 indices of each client's examples.

    Raises:
      ValueError: an argument is out of its range, or there are fewer examples or patients than shards.
    """
    labels = _one_axis(labels, "labels")
    if isinstance(shards_per_client, bool) or not isinstance(shards_per_client, int) or shards_per_client < 1:
        raise ArgumentError("shards_per_client", "an integer of at least 1", repr(shards_per_client))
    units = _Units(len(labels), clients, 1, patients, np.random.default_rng([checked_seed(seed), 13]))
    shards = clients * shards_per_client
    if len(units.sizes) < shards:
        raise ArgumentError(
            "shards_per_client",
            f"at most one shard for each of the {len(units.sizes)} {units.noun}",
            f"{clients} x {shards_per_client}",
        )
    order = units.rng.permutation(len(units.sizes))
    order = order[np.argsort(units.most_frequent(labels)[order], kind="stable")]
    shard = _places(units.sizes[order], np.ones(shards))
    owner = np.empty(len(units.sizes), int)
    owner[order] = (units.rng.permutation(shards) // shards_per_client)[shard]
    return units.parts(owner)


def partition_examples(
    examples: Mapping[str, np.ndarray], parts: Sequence[np.ndarray], names: Sequence[str] | None = None
) -> ClientData:
    """The examples of one data set as clients.

    Args:
      examples: dict of arrays ``(examples, ...)``. The entry ``"volume"``, where there is one, must differ
        between volumes of the whole data set; it is renumbered from 0 within each client.
      parts: indices of each client's examples; some may be left out, as when parts of them are held out.
      names: one for each client; ``client0`` and so on by default.

    Raises:
      ValueError: an index is out of range or in two clients, or as `stack_clients`.
    """
    count = len(next(iter(examples.values()))) if examples else 0
    chosen = (
        np.concatenate([np.asarray(part, np.int64) for part in parts]) if len(parts) else np.empty(0, int)
    )
    if chosen.size and (chosen.min() < 0 or chosen.max() >= count or len(set(chosen.tolist())) < chosen.size):
        raise ArgumentError("parts", f"distinct indices of {count} examples", "others")
    clients = []
    for part in parts:
        client = {key: np.asarray(value)[part] for key, value in examples.items()}
        if "volume" in client:
            numbers = np.unique(client["volume"], return_inverse=True)[1]
            client["volume"] = numbers.reshape(-1).astype(np.asarray(examples["volume"]).dtype)
        clients.append(client)
    if names is None:
        width = len(str(max(len(parts) - 1, 0)))
        names = [f"client{index:0{width}d}" for index in range(len(parts))]
    return stack_clients(clients, names)


def label_counts(labels: Sequence, parts: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[str, ...]]:
    """How many examples of each label each client has.

    Returns:
      (counts, names): int64 (clients, labels), and the labels as text, in increasing order.
    """
    kinds, index = np.unique(_one_axis(labels, "labels"), return_inverse=True)
    counts = [np.bincount(index[np.asarray(part, np.int64)], minlength=len(kinds)) for part in parts]
    return np.stack(counts), tuple(str(kind) for kind in kinds)


class _Units:
    """What is handed out as a whole: examples, or the examples of a patient."""

    def __init__(
        self,
        examples: int,
        clients: int,
        minimum: int,
        patients: Sequence[Any] | None,
        rng: np.random.Generator,
    ) -> None:
        check_clients(clients)
        if isinstance(minimum, bool) or not isinstance(minimum, int | np.integer) or minimum < 0:
            raise ArgumentError("minimum", "an integer of at least 0", repr(minimum))
        if clients * minimum > examples:
            raise ArgumentError(
                "minimum",
                f"at most {examples // clients}, for {examples} examples of {clients} clients",
                minimum,
            )
        if patients is None:
            self.of_example, self.noun = np.arange(examples), "examples"
        else:
            text = np.asarray([str(p) for p in patients])
            if len(text) != examples:
                raise ArgumentError("patients", f"{examples} entries, one for each example", len(text))
            self.of_example, self.noun = np.unique(text, return_inverse=True)[1].reshape(-1), "patients"
        self.sizes = np.bincount(self.of_example)
        self.clients, self.minimum, self.rng = clients, minimum, rng
        if minimum and len(self.sizes) < clients:
            raise ArgumentError("clients", f"at most the number of {self.noun} {len(self.sizes)}", clients)

    def most_frequent(self, labels: np.ndarray) -> np.ndarray:
        """The label of each unit as a number from 0; of equally frequent ones the first."""
        kinds, index = np.unique(labels, return_inverse=True)
        counts = np.zeros((len(self.sizes), len(kinds)), int)
        np.add.at(counts, (self.of_example, index.reshape(-1)), 1)
        return counts.argmax(1)

    def divide(self, members: np.ndarray, shares: np.ndarray, owner: np.ndarray) -> None:
        """Divides units, in random order, over the clients by shares of their examples."""
        order = self.rng.permutation(members)
        owner[order] = _places(self.sizes[order], shares)

    def parts(self, owner: np.ndarray) -> Parts:
        """The examples of each client, after those with too few were given more."""
        held = np.bincount(owner, self.sizes, self.clients)
        members = list(_grouped(owner, self.clients))
        smallest = np.asarray([self.sizes[units].min(initial=self.sizes.sum()) for units in members])
        while held.min() < self.minimum:
            able = smallest <= held - self.minimum
            if not able.any():
                raise ArgumentError(
                    "minimum",
                    f"fewer examples, since patients are too large to give each of {self.clients} clients "
                    "as many",
                    self.minimum,
                )
            richest = held[able].max()
            units = np.sort(np.concatenate([members[c] for c in np.flatnonzero(able & (held == richest))]))
            unit = self.rng.choice(units[self.sizes[units] <= richest - self.minimum])
            giver, poorest = owner[unit], held.argmin()
            members[giver] = members[giver][members[giver] != unit]
            members[poorest] = np.append(members[poorest], unit)
            held[giver] -= self.sizes[unit]
            held[poorest] += self.sizes[unit]
            for client in (giver, poorest):
                smallest[client] = self.sizes[members[client]].min(initial=self.sizes.sum())
            owner[unit] = poorest
        return _grouped(owner[self.of_example], self.clients)


def _grouped(owner: np.ndarray, clients: int) -> Parts:
    """What each client owns, in ascending order."""
    ends = np.cumsum(np.bincount(owner, minlength=clients))
    return tuple(np.split(np.argsort(owner, kind="stable"), ends[:-1]))


def _divided_labels(units: _Units, kinds: np.ndarray, concentration: float) -> np.ndarray:
    owner = np.empty(len(kinds), int)
    for kind in range(kinds.max() + 1):
        shares = _dirichlet(units.rng, np.full(units.clients, concentration))
        units.divide(np.flatnonzero(kinds == kind), shares, owner)
    return owner


def _balanced_labels(units: _Units, kinds: np.ndarray, concentration: float) -> np.ndarray:
    numbers = kinds.max() + 1
    left = [list(units.rng.permutation(np.flatnonzero(kinds == kind))) for kind in range(numbers)]
    weights = np.bincount(kinds, units.sizes, numbers) / units.sizes.sum()
    wanted = np.asarray([_among(units.rng, concentration * weights) for _ in range(units.clients)])
    owner = np.empty(len(kinds), int)
    held = np.zeros(units.clients)
    for draw in units.rng.uniform(size=len(kinds)):
        client = held.argmin()
        stock = np.asarray([bool(members) for members in left])
        if not (wanted[client] * stock).sum() > 1e-300:
            wanted[client] = _among(units.rng, np.where(stock, concentration * weights, 0))
        edges = np.cumsum(wanted[client] * stock)
        # The first edge above; rounding must not lead beyond the last.
        unit = left[np.searchsorted(edges, min(draw * edges[-1], np.nextafter(edges[-1], 0)), "right")].pop()
        owner[unit] = client
        held[client] += units.sizes[unit]
    return owner


def _among(rng: np.random.Generator, parameters: np.ndarray) -> np.ndarray:
    """A Dirichlet draw with zeros where the parameters are zero."""
    shares = np.zeros(len(parameters))
    shares[parameters > 0] = _dirichlet(rng, parameters[parameters > 0])
    return shares


def _dirichlet(rng: np.random.Generator, parameters: np.ndarray) -> np.ndarray:
    """A Dirichlet draw that stays a distribution for very small parameters."""
    # Gamma(a) is Gamma(a + 1) U^(1/a), whose logarithm does not underflow.
    logs = np.log(rng.gamma(parameters + 1)) + np.log1p(-rng.uniform(size=parameters.shape)) / parameters
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def _places(sizes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Which of the intervals of lengths in proportion to ``shares`` the middle of each item lies in."""
    edges = np.cumsum(shares)[:-1] / shares.sum()
    middle = (np.cumsum(sizes) - sizes / 2) / max(sizes.sum(), 1)
    return np.searchsorted(edges, middle, side="right")


def _one_axis(values: Sequence, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or len(values) == 0 or values.dtype.kind not in "iubUSO":
        raise ArgumentError(name, "one integer or text for each example", f"{values.dtype} {values.shape}")
    return values


def check_clients(clients: Any) -> None:
    """Raises ValueError unless ``clients`` is a positive integer."""
    if isinstance(clients, bool) or not isinstance(clients, int | np.integer) or clients < 1:
        raise ArgumentError("clients", "an integer of at least 1", repr(clients))


def checked_seed(seed: Any) -> int:
    """``seed`` as a non-negative integer; raises ValueError otherwise."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ArgumentError("seed", "a non-negative integer", repr(seed))
    return int(seed)
