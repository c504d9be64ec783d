"""What sites tell of their data before a training, and data of the same shapes that hold none of it."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedrecon.data import ClientData
from fedrecon.errors import ArgumentError


class Facts(NamedTuple):
    """What a site tells of its training data: what weights and batches of all sites follow from.

    Attributes:
      name: of the site, as in logs and ledgers.
      examples: their number.
      length: of its arrays, with padding.
      patients: number of patients; 0 where the data do not tell them apart.
      images: most examples of one patient; 0 without patients.
      schema: name of an array -> [dtype, shape of one example].
    """

    name: str
    examples: int
    length: int
    patients: int
    images: int
    schema: dict[str, list[Any]]

    @property
    def digest(self) -> str:
        """SHA-256 of the schema, hexadecimal."""
        return hashlib.sha256(json.dumps(self.schema, sort_keys=True).encode()).hexdigest()

    @classmethod
    def of(cls, data: ClientData) -> "Facts":
        """The facts of the data of one client.

        Raises:
          ArgumentError: there are several clients.
        """
        if data.clients != 1:
            raise ArgumentError("data", "those of one client", f"those of {data.clients}")
        valid = np.asarray(data.valid[0])
        patients = images = 0
        if "volume" in data.examples:
            owned = np.unique(np.asarray(data.examples["volume"][0])[valid], return_counts=True)[1]
            patients, images = len(owned), int(owned.max(initial=0))
        schema = {k: [np.dtype(x.dtype).name, list(x.shape[2:])] for k, x in data.examples.items()}
        return cls(data.names[0], int(valid.sum()), len(valid), patients, images, schema)


def read_facts(value: Any) -> Facts:
    """Facts from their JSON object.

    Raises:
      ArgumentError: a field is missing, or of another kind.
    """
    kinds = {"name": str, "examples": int, "length": int, "patients": int, "images": int, "schema": dict}
    if not isinstance(value, dict) or value.keys() != kinds.keys():
        raise ArgumentError("facts", f"an object with {', '.join(kinds)}", repr(value)[:80])
    for name, kind in kinds.items():
        if type(value[name]) is not kind or (kind is int and value[name] < 0):
            raise ArgumentError(f"facts: {name}", kind.__name__, repr(value[name])[:80])
    facts = Facts(**value)
    if not facts.patients <= facts.examples <= facts.length:
        raise ArgumentError("facts: examples", "patients <= examples <= length", facts.examples)
    if facts.patients and not facts.images <= facts.examples <= facts.patients * facts.images:
        raise ArgumentError("facts: images", f"such of {facts.examples} examples", facts.images)
    return facts


def check_schemas(roster: Sequence[Facts]) -> None:
    """Refuses sites whose data have other arrays, shapes or dtypes than those of the first.

    Raises:
      ArgumentError: names the site and the array.
    """
    first = roster[0]
    for facts in roster[1:]:
        for name in sorted(first.schema.keys() | facts.schema.keys()):
            mine, theirs = facts.schema.get(name, "nothing"), first.schema.get(name, "nothing")
            if mine != theirs:
                raise ArgumentError(f"data of {facts.name}: {name}", f"{theirs} as at {first.name}", mine)
    names = [facts.name for facts in roster]
    if len(set(names)) < len(names):
        raise ArgumentError("sites", "a name for each", ", ".join(names))


def stand_in(roster: Sequence[Facts]) -> ClientData:
    """Client data of these facts, all examples zero: what algorithms are built from where there are no data.

    Patients have as many examples as they can have together: the most first.
    """
    check_schemas(roster)
    length = max(facts.length for facts in roster)
    lead = (len(roster), length)
    examples: dict[str, Any] = {
        name: np.broadcast_to(np.zeros((), dtype), (*lead, *shape))
        for name, (dtype, shape) in roster[0].schema.items()
    }
    valid = np.arange(length) < np.asarray([[facts.examples] for facts in roster])
    if "volume" in examples:
        examples["volume"] = np.stack([_patients(facts, length) for facts in roster]).astype(
            examples["volume"].dtype
        )
    return ClientData(examples, valid, tuple(facts.name for facts in roster))


def padded(data: ClientData, length: int) -> ClientData:
    """The same clients with arrays of this many examples.

    Raises:
      ArgumentError: they are longer.
    """
    missing = length - data.valid.shape[1]
    if missing < 0:
        raise ArgumentError("length", f"at least {data.valid.shape[1]}", length)

    def pad(x):
        return np.pad(np.asarray(x), [(0, 0), (0, missing)] + [(0, 0)] * (np.ndim(x) - 2))

    return ClientData({k: pad(x) for k, x in data.examples.items()}, pad(data.valid), data.names)


def one_client(data: ClientData, client: int) -> ClientData:
    """One client of several, as arrays of their own, without its padding beyond the others' length."""
    take = slice(client, client + 1)
    examples: dict[str, Any] = {name: np.array(x[take]) for name, x in data.examples.items()}
    return ClientData(examples, np.array(data.valid[take]), data.names[take])


def _patients(facts: Facts, length: int) -> np.ndarray:
    """Numbers of patients (length,): every one has an example, and the first ones the rest of theirs."""
    if not facts.patients:
        return np.zeros(length, np.int32)
    counts, left = [], facts.examples
    for number in range(facts.patients):
        others = facts.patients - number - 1
        counts.append(min(facts.images, left - others))
        left -= counts[-1]
    numbers = np.repeat(np.arange(facts.patients), counts)
    return np.pad(numbers, (0, length - len(numbers))).astype(np.int32)
