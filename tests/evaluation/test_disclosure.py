"""Small counts are neither shown nor told by others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon.evaluation.disclosure import add_released, release_counts

LEAST = 10


@st.composite
def sites(draw):
    """Volumes of several sites, each answering two questions."""
    found = {}
    for site in "abc"[: draw(st.integers(1, 3))]:
        volumes = draw(st.lists(st.tuples(st.sampled_from("pqrs"), st.sampled_from("xyz")), max_size=60))
        counts = {
            question: {
                answer: sum(v[place] == answer for v in volumes) for answer in {v[place] for v in volumes}
            }
            for place, question in enumerate(("vendor", "coils"))
        }
        found[site] = len(volumes), counts
    return found


def unknown_bounds(total, of):
    """What a reader knows of the sum of those left out: the total less those shown, or nothing."""
    shown = [number for number in of.values() if number is not None]
    return len(shown) < len(of), total - sum(shown)


@given(sites())
def test_no_small_count_is_shown_or_told_by_others(cohort):
    released = {name: release_counts(total, counts, LEAST) for name, (total, counts) in cohort.items()}
    whole = add_released(released)
    for name, (total, counts) in cohort.items():
        site = released[name]
        assert site.total == (total if total >= LEAST else None)
        for question, answers in counts.items():
            for answer, number in site.counts[question].items():
                assert number is None or number == answers[answer] >= LEAST
            # The total may be known by another question, even where it is not shown.
            hides, left = unknown_bounds(total, site.counts[question])
            assert not hides or left >= LEAST or total < LEAST
            assert total >= LEAST or all(n is None for n in site.counts[question].values())
    for question, answers in whole.counts.items():
        for answer, number in answers.items():
            each = [of.counts[question].get(answer) for of in released.values() if question in of.counts]
            shown = [n for n in each if n is not None]
            # A sum of what is shown anyway tells nothing of what is not.
            assert number == (sum(shown) if shown else None)
            assert number is None or number >= LEAST
    assert whole.total is None or whole.total >= LEAST


def test_the_smallest_that_is_shown_hides_a_small_one():
    found = release_counts(100, {"vendor": {"a": 60, "b": 35, "c": 5}, "coils": {"16": 100}})
    assert found.total == 100
    assert found.counts == {"vendor": {"a": 60, "b": None, "c": None}, "coils": {"16": 100}}
    two = release_counts(30, {"vendor": {"a": 12, "b": 9, "c": 9}})
    assert two.counts["vendor"] == {"a": 12, "b": None, "c": None}
    assert release_counts(9, {"vendor": {"a": 9}}) == (None, {"vendor": {"a": None}})
    assert release_counts(9, {"vendor": {"a": 9}}, 0) == (9, {"vendor": {"a": 9}})


def test_counts_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"counts\['vendor'\]: expected numbers of 0 or more of sum 4"):
        release_counts(4, {"vendor": {"a": 3}})
    with pytest.raises(ValueError, match="minimum and total"):
        release_counts(4, {"vendor": {"a": 4}}, -1)
