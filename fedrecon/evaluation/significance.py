"""Paired tests over patients, and Holm's correction for several methods."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from fedrecon.errors import ArgumentError


class PairedTest(NamedTuple):
    """A method against a baseline on the same patients.

    Attributes:
      difference: mean of method minus baseline.
      effect: that over the deviation of the differences (Cohen's d of pairs); 0 where all are equal.
      p_value: two-sided, of no difference.
      adjusted: corrected for the number of methods; the same before `holm`.
      patients: pairs without NaN.
    """

    difference: float
    effect: float
    p_value: float
    adjusted: float
    patients: int


def paired_test(
    method: Sequence[float], baseline: Sequence[float], test: str = "wilcoxon", seed: int = 0
) -> PairedTest:
    """A paired test over patients; those with a NaN are left out.

    Args:
      method, baseline: scores of the same patients in the same order.
      test: "wilcoxon" (signed ranks, zeros split), or "permutation" (10 000 random signs of differences).
      seed: of the permutations.

    Raises:
      ArgumentError: other lengths, fewer than two pairs, or an unknown test.
    """
    first, second = np.asarray(method, float), np.asarray(baseline, float)
    if first.shape != second.shape:
        raise ArgumentError("baseline", f"{first.size} scores", second.size)
    differences = (first - second)[~np.isnan(first - second)]
    if differences.size < 2:
        raise ArgumentError("method", "at least two patients with both scores", differences.size)
    if test not in ("wilcoxon", "permutation"):
        raise ArgumentError("test", '"wilcoxon" or "permutation"', repr(test))
    deviation = differences.std(ddof=1)
    mean = float(differences.mean())
    if not differences.any():
        p_value = 1.0
    elif test == "wilcoxon":
        p_value = float(stats.wilcoxon(differences, zero_method="zsplit").pvalue)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (10_000, differences.size))
        as_far = np.abs((signs * differences).mean(1)) >= abs(mean) * (1 - 1e-12)
        p_value = (1 + as_far.sum()) / (1 + len(signs))
    effect = mean / deviation if deviation else 0.0
    return PairedTest(mean, float(effect), float(p_value), float(p_value), differences.size)


def holm(tests: Mapping[str, PairedTest]) -> dict[str, PairedTest]:
    """The tests with p-values corrected by Holm's step-down procedure (1979): the family's error is kept."""
    adjusted = holm_adjusted({name: test.p_value for name, test in tests.items()})
    return {name: test._replace(adjusted=adjusted[name]) for name, test in tests.items()}


def holm_adjusted(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values of a family corrected by Holm's step-down procedure, in their order."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
