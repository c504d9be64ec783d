import copy
import pickle

import pytest

import operators
from fedrecon.errors import ArgumentError
from fedrecon.training.options import FlagError, as_flag_error


def test_the_library_says_name_expected_and_found():
    with pytest.raises(ArgumentError) as raised:
        operators.fbp(
            operators.shepp_logan().value, operators.ParallelBeam([0.0, 1.0], 8), (8, 8), filter="none"
        )
    error = raised.value
    assert isinstance(error, ValueError)
    assert error.name == "fbp: filter" and error.found == "'none'"
    assert str(error) == f"fbp: filter: expected {error.expected}, found 'none'"


@pytest.mark.parametrize("error", [ArgumentError("count", "a, b", 3), FlagError("count", "a, b", 3)])
def test_errors_survive_a_process_boundary(error):
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is type(error) and str(again) == str(error)


def test_flags_are_named_from_arguments():
    error = ArgumentError("concurrency", "at most 4, found commas, too", 5)
    assert str(as_flag_error(error, {"concurrency": "stream"})) == (
        "--stream: expected at most 4, found commas, too, found 5"
    )
    assert as_flag_error(error, {}) is error
    assert as_flag_error(error, {}, "reduce.").flag == "reduce.concurrency"
    other = ValueError("concurrency: expected 1, found 2")
    assert as_flag_error(other, {"concurrency": "stream"}) is other
