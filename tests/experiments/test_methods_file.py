"""Methods from a file outside the package: the example of CONTRIBUTING.md, and files that are wrong."""

import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from experiments import methods
from experiments.compare import plan
from experiments.pipeline.programs import read_own_files
from fedrecon import catalog
from fedrecon.catalog import registry
from fedrecon.runtime import WorkdirError
from fedrecon.training.catalog_algorithms import algorithms, check_method
from fedrecon.training.options import changed, flat
from fedrecon.training.own_files import load_methods
from tests.experiments import quadratics
from tests.federated.conftest import TAU, A, B

GUIDE = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text()
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", GUIDE, re.S)
RATE = 0.05


@pytest.fixture(autouse=True)
def register_of_its_own(monkeypatch):
    """What a test registers is forgotten afterwards."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def written(folder, text=EXAMPLE, name="fedcm.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return str(path)


def line_of(words):
    """``line N`` of the only line of the example that holds the words."""
    (number,) = [n for n, line in enumerate(EXAMPLE.splitlines(), 1) if words in line]
    return f"line {number}"


def settings_of(path, **options):
    settings = changed(
        quadratics.SETTINGS, algorithm="fedcm", methods_from=path, methods_sha256=load_methods(path)
    )
    return changed(settings, algorithm_options=tuple(options.items()))


def client_level_momentum(mixing, rounds=3):
    """The objective of every client after FedCM's rounds, with equations written out."""
    w, direction = quadratics.START.astype(np.float64), np.zeros(2)
    for _ in range(rounds):
        ends = []
        for a, b, steps in zip(A, B, TAU, strict=True):
            y = w.copy()
            for _ in range(steps):
                y -= RATE * (mixing * a * (y - b) + (1 - mixing) * direction)
            ends.append(y)
        direction = np.mean([(w - y) / (RATE * n) for y, n in zip(ends, TAU, strict=True)], axis=0)
        w = np.average(ends, axis=0, weights=TAU)
    return 0.5 * A * ((w - B) ** 2).sum(1)


def test_the_example_of_the_guide_runs(monkeypatch, tmp_path):
    path = written(tmp_path)
    assert len(EXAMPLE.splitlines()) <= 40
    settings = settings_of(path, mixing="0.3")
    results, _, _ = quadratics.run(monkeypatch, tmp_path / "run", settings)
    found = [scores["objective"] for scores in results.released.values()]
    np.testing.assert_allclose(found, client_level_momentum(0.3), rtol=1e-5)
    # Both directions carry the model and as much again; up also the weight.
    assert (results.bytes_up, results.bytes_down) == (3 * 4 * 4 * (2 + 2 + 1), 3 * 4 * 4 * (2 + 2))
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["methods_from"] == path and len(config["methods_from.sha256"]) == 64
    with Path(path).open("a") as file:
        file.write("# Another line.\n")
    monkeypatch.setattr(registry, "_entries", {e.name: e for e in catalog.entries() if e.name != "fedcm"})
    with pytest.raises(WorkdirError, match=r"--methods_from.sha256: was '\w{64}', now '\w{64}'"):
        quadratics.run(monkeypatch, tmp_path / "run", settings_of(path, mixing="0.3"))


def test_without_a_file_the_config_is_as_before():
    assert not any("methods" in name for name in flat(quadratics.SETTINGS))


def test_flags_know_the_methods_of_the_file(tmp_path):
    path = written(tmp_path)
    for argv in (
        ["p", f"--methods_from={path}"],
        ["p", "--methods_from", path],
        ["p", f"-methods_from={path}"],
    ):
        read_own_files(argv)
        assert "fedcm" in algorithms()
        assert load_methods(path) == load_methods(path)
    with pytest.raises(ValueError, match=r"--algorithm.strength: .*fedcm's options .*mixing \(float\)"):
        check_method(settings_of(path, strength="0.3").federation)
    dotted = {name: () for name in (*algorithms(), "reduce")} | {"fedcm": (("mixing", "0.3"),)}
    planned = plan(quadratics.SETTINGS, ["fedavg", "fedcm"], dotted)
    assert planned["fedcm"].federation.algorithm_options == (("mixing", "0.3"),)
    row = methods.document(catalog.lookup("fedcm"))
    assert row["module"] == "methods_from_fedcm" and row["bytes_up"] == 8_000_004
    for argv in (["p", "--methods_from=absent.py"], ["p", "--methods_from"]):
        with pytest.raises(SystemExit, match="--methods_from: expected a Python file, found"):
            read_own_files(argv)


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ("def fedcm(task", "def fedcm((task", "def fedcm", "expected Python, found"),
        ("fl.Method:", "fl.Methods:", "def client_momentum", "AttributeError: .*'Methods'"),
        ('rate="learning_rate"', 'rate="fast"', "row =", "rate: expected one of optimizer"),
        ("learning_rate: float, *,", "speed, *,", "row =", "recipe: expected a default of 'speed'"),
        ('Entry("fedcm"', 'Entry("fedavg"', "catalog.register", "name: expected one that is not"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(old, new, where, message, tmp_path):
    assert EXAMPLE.count(old) == 1
    path = written(tmp_path, EXAMPLE.replace(old, new))
    with pytest.raises(ValueError, match=f"^--methods_from: {path}, {line_of(where)}: {message}") as found:
        load_methods(path)
    assert "\n" not in str(found.value)


def test_a_file_that_registers_nothing_is_refused(tmp_path):
    path = written(tmp_path, "import fedrecon\n")
    with pytest.raises(
        ValueError, match=rf"^--methods_from: {path}: expected a call of .*register, found none"
    ):
        load_methods(path)


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ("context.broadcast", "context.momentum", "jax.tree.map(lambda g", "AttributeError: .*'momentum'"),
        ("method=method", "methods=method", "return fl.federated", "TypeError: .*'methods'"),
        ("if not 0 < mixing <= 1", "if mixing", "", "^--algorithm.mixing: expected a number in"),
    ],
)
def test_a_method_that_fails_is_named_with_its_line(old, new, where, message, monkeypatch, tmp_path):
    assert EXAMPLE.count(old) == 1
    settings = settings_of(written(tmp_path, EXAMPLE.replace(old, new)))
    if where:
        message = f"^--methods_from: {settings.federation.methods_from}, {line_of(where)}: {message}"
    with pytest.raises(ValueError, match=message) as found:
        quadratics.run(monkeypatch, tmp_path / "run", settings)
    assert "\n" not in str(found.value)
