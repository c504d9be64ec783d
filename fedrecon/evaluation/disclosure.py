"""Counts that may leave a site: small ones are left out, with what would tell them."""

from collections.abc import Mapping
from typing import NamedTuple

from fedrecon.errors import ArgumentError

Counts = Mapping[str, Mapping[str, int]]


class Released(NamedTuple):
    """The counts of one site that may be read.

    Attributes:
      total: of all that is counted; None where it is too small.
      counts: question -> answer -> number; None where it is small, or would tell a small one.
    """

    total: int | None
    counts: dict[str, dict[str, int | None]]


def release_counts(total: int, counts: Counts, minimum: int = 10) -> Released:
    """The counts of a site without any below the minimum, or that others would tell.

    Each question divides the same ``total`` into answers, so one that is left out is the total less the rest:
    where less than the minimum would be left over, the smallest answers that may be read are left out, too.
    Of several sites `add_released` adds what was released, which tells nothing more.

    Args:
      total: what every question counts, such as the volumes of a site.
      counts: question -> answer -> number, not negative, of sum ``total``.
      minimum: the least count that is read, 0 and more.

    Raises:
      ValueError: a number is negative, or the answers to a question are not ``total`` together.
    """
    if minimum < 0 or total < 0:
        raise ArgumentError("minimum and total", "numbers of 0 or more", (minimum, total))
    found = {question: _of_question(question, dict(of), total, minimum) for question, of in counts.items()}
    return Released(total if total >= minimum else None, found)


def add_released(sites: Mapping[str, Released]) -> Released:
    """The sums over sites of what these have released; None where none of them has.

    Sums are lower bounds: what a site has left out is not in them.
    """
    totals = [site.total for site in sites.values() if site.total is not None]
    sums: dict[str, dict[str, int | None]] = {}
    for site in sites.values():
        for question, answers in site.counts.items():
            into = sums.setdefault(question, {})
            for answer, number in answers.items():
                known = into.get(answer)
                into[answer] = known if number is None else (known or 0) + number
    return Released(sum(totals) if totals else None, sums)


def _of_question(question: str, answers: dict[str, int], total: int, minimum: int) -> dict[str, int | None]:
    if any(number < 0 for number in answers.values()) or sum(answers.values()) != total:
        raise ArgumentError(f"counts[{question!r}]", f"numbers of 0 or more of sum {total}", answers)
    shown = sorted(
        (answer for answer, number in answers.items() if number >= minimum), key=lambda a: (answers[a], a)
    )
    left = total - sum(answers[answer] for answer in shown)
    while shown and 0 < left < minimum:
        left += answers[shown.pop(0)]
    kept = set(shown)
    return {answer: number if answer in kept else None for answer, number in answers.items()}
