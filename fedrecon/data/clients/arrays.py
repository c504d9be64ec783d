"""A cohort of arrays in memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedrecon.data.clients.client_data import split_patients
from fedrecon.data.clients.cohort import FRACTIONS, PARTS, Cohort, stack_parts
from fedrecon.errors import ArgumentError

_PATIENT, _LABEL = "patient", "label"
# Keys that the examples of clients get here.
_TAKEN = ("valid", "volume")


def cohort_from_arrays(
    hospitals: Mapping[str, Mapping[str, Any]], *, fractions: Sequence[float] = FRACTIONS, seed: int = 0
) -> Cohort:
    """A cohort of arrays, with each hospital's patients divided into training, validation and test.

    Args:
      hospitals: name -> key -> array (examples, ...) of finite numbers; the same keys and shapes of an
        example everywhere. A "label" of texts at all hospitals becomes the numbers of the sorted texts, which
        are the ``labels`` of the cohort. "patient" (examples,), of any kind, says whose each example is;
        without it every example is a patient. float64 becomes float32, int64 int32.
      fractions: of the patients in training, validation and test.
      seed: of the division.

    Returns:
      The cohort, with "volume" () int32, the patient within hospital and part, among its examples.

    Raises:
      ValueError: an array is not as it should be, or a hospital has too few patients; names both.
    """
    if not hospitals:
        raise ArgumentError("cohort", "at least one hospital", "none")
    classes = _classes(hospitals)
    examples: dict[str, list] = {part: [] for part in PARTS}
    patients: dict[str, list[tuple[str, ...]]] = {part: [] for part in PARTS}
    for name, given in hospitals.items():
        if classes:
            numbers = np.searchsorted(classes, np.asarray(given[_LABEL]).astype(str)).astype(np.int32)
            given = {**given, _LABEL: numbers}
        arrays = {key: _numbers(name, key, array) for key, array in given.items() if key != _PATIENT}
        count = _count(name, given)
        whose = np.asarray(given.get(_PATIENT, np.arange(count))).astype(str)
        try:
            split = split_patients(list(whose), fractions, seed)
        except ArgumentError as error:
            found = f"{len(set(whose))} in {name!r}"
            raise ArgumentError("cohort", "patients for training, validation and test", found) from error
        for part, chosen in zip(PARTS, split, strict=True):
            members = [np.flatnonzero(whose == p) for p in dict.fromkeys(whose[chosen])]
            examples[part].append([{key: x[rows] for key, x in arrays.items()} for rows in members])
            patients[part].append(tuple(whose[rows[0]] for rows in members))
    stacked = stack_parts(examples, tuple(hospitals))
    images: list[Any] = [x.shape[2:4] for key, x in stacked["train"].examples.items() if x.ndim >= 4]
    return Cohort(
        **stacked,
        sites=tuple(hospitals),
        image_shape=images[0] if images else (0, 0),
        patients={part: tuple(ids) for part, ids in patients.items()},
        labels=classes,
    )


def _classes(hospitals: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """The texts that are labels, sorted; empty unless all labels of all hospitals are texts."""
    found: set[str] = set()
    for given in hospitals.values():
        labels = np.asarray(given.get(_LABEL, 0))
        texts = labels.ravel().tolist()
        if labels.ndim != 1 or not all(isinstance(text, str) for text in texts):
            return ()
        found.update(texts)
    return tuple(sorted(found))


def _numbers(hospital: str, key: str, array: Any) -> np.ndarray:
    where = f"cohort[{hospital!r}][{key!r}]"
    if key in _TAKEN:
        raise ArgumentError(where, f"another key than {' and '.join(_TAKEN)}", repr(key))
    array = np.asarray(array)
    if array.dtype.kind not in "biufc" or not array.ndim:
        raise ArgumentError(where, "an array (examples, ...) of numbers", f"{array.dtype} {array.shape}")
    finite = np.isfinite(array).reshape(len(array), -1).all(1)
    if not finite.all():
        raise ArgumentError(where, "finite numbers", f"others in example {np.argmin(finite)}")
    smaller = {"float64": np.float32, "int64": np.int32, "uint64": np.uint32, "complex128": np.complex64}
    return array.astype(smaller.get(array.dtype.name, array.dtype))


def _count(hospital: str, arrays: Mapping[str, Any]) -> int:
    lengths = {key: np.shape(x)[0] if np.ndim(x) else None for key, x in arrays.items()}
    if len(set(lengths.values())) != 1 or not set(lengths) - {_PATIENT}:
        raise ArgumentError(f"cohort[{hospital!r}]", "arrays of one number of examples", lengths)
    return next(count for count in lengths.values() if count is not None)
