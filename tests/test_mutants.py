"""The list of mutants fits the project: texts occur once, tests exist and are in the default suite."""

import ast
import functools
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.federated.test_reference import QUICK
from tests.mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted({mutant.file for mutant in MUTANTS})


@pytest.mark.parametrize("file", FILES)
def test_every_text_occurs_once_and_its_replacement_is_another_program(file):
    source = (ROOT / file).read_text()
    for mutant in MUTANTS:
        if mutant.file == file:
            assert source.count(mutant.before) == 1, mutant
            assert "\n" not in mutant.before and mutant.tests, mutant
            place = source.index(mutant.before)
            start, end = statement(file, source, place)
            part = source[start:end]
            changed = part.replace(mutant.before, mutant.after)
            assert meaning(file, changed) != meaning(file, part), mutant


def statement(file: str, source: str, place: int) -> tuple[int, int]:
    """Where the statement of a module around this place begins and ends; of C++ the file."""
    if not file.endswith(".py"):
        return 0, len(source)
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    # Comments and decorators in front of a statement are of it.
    ends = [starts[node.end_lineno] for node in parsed(source).body]
    after = next((i for i, end in enumerate(ends) if end > place), len(ends))
    return (ends[after - 1] if after else 0), ([*ends, len(source)])[after]


@functools.lru_cache(maxsize=1)
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


def meaning(file: str, source: str) -> str:
    """A program without its comments and layout; C++ as it stands."""
    return ast.dump(ast.parse(source)) if file.endswith(".py") else source


def test_every_test_exists_and_is_not_slow():
    functions, wrong = {}, []
    for name in sorted({name for mutant in MUTANTS for name in mutant.tests.split()}):
        file, function = re.fullmatch(r"(tests/[\w/]+\.py)::(test_\w+)(?:\[.+\])?", name).groups()
        if file not in functions:
            functions[file] = quick_tests(ROOT / file)
        if function not in functions[file]:
            wrong.append(name)
    assert not wrong


def quick_tests(path: Path) -> set[str]:
    """Names of the tests of a file that are not marked as slow."""
    body = ast.parse(path.read_text()).body
    assigned = (ast.unparse(node) for node in body if isinstance(node, ast.Assign))
    if "pytestmark = pytest.mark.slow" in assigned:
        return set()
    return {
        node.name
        for node in body
        if isinstance(node, ast.FunctionDef)
        and "pytest.mark.slow" not in [ast.unparse(decorator) for decorator in node.decorator_list]
    }


def test_recorded_numbers_that_catch_mutants_are_compared_by_default():
    pattern = r"test_numbers_are_those_recorded\[(.+?)\]"
    cases = {case for mutant in MUTANTS for case in re.findall(pattern, mutant.tests)}
    assert cases <= {"-".join(case) for case in QUICK} and cases


def test_mutants_differ():
    changes = Counter((mutant.file, mutant.before, mutant.after) for mutant in MUTANTS)
    assert max(changes.values()) == 1
