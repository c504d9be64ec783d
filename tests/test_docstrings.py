"""Examples in the docstrings of the names at the top: each is there, and gives what it says."""

import doctest
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import operators

NAMES = [name for name in operators.__all__ if not inspect.ismodule(getattr(operators, name))]
# Known in every example.
KNOWN = {"jax": jax, "jnp": jnp, "np": np, "operators": operators}


@pytest.mark.parametrize("name", NAMES)
def test_example(name):
    examples = doctest.DocTestParser().get_doctest(
        inspect.getdoc(getattr(operators, name)), dict(KNOWN), name, None, None
    )
    assert examples.examples and examples.examples[-1].want, f"{name} has no example"
    report = []
    outcome = doctest.DocTestRunner().run(examples, out=report.append)
    assert not outcome.failed, "".join(report)


def test_a_wrong_example_fails():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3", {}, "wrong", None, None)
    assert doctest.DocTestRunner().run(wrong, out=lambda text: None).failed == 1
