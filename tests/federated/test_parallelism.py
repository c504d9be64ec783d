"""The choice of how devices run their clients, with a clock that the test winds."""

import jax
import jax.numpy as jnp
import pytest

from fedrecon import federated as fl
from fedrecon.federated import parallelism
from fedrecon.federated.parallelism import choose_parallel, measure_parallel
from fedrecon.types import Variables


class Clock:
    """Every measurement takes the next of the given times."""

    def __init__(self, *seconds):
        self.now, self.readings, self.seconds = 0.0, 0, list(seconds)

    def __call__(self):
        self.readings += 1
        if self.readings % 2 == 0:
            self.now += self.seconds.pop(0)
        return self.now


class Program:
    """In place of a compiled round."""

    def lower(self, state, data, key):
        return self

    def compile(self):
        return self

    def __call__(self, state, data, key):
        return state


@pytest.fixture
def workload(fx):
    data = fx.quad_data()
    state = fl.init_state(fx.averaging, Variables({"w": jnp.zeros(2)}, {}), data)
    return fx.averaging, state, data


def test_the_fastest_median_wins_and_is_remembered(workload, monkeypatch):
    made = []
    monkeypatch.setattr(
        parallelism, "make_round", lambda algorithm, **options: made.append(options) or Program()
    )
    clock, cache = Clock(3, 3, 3, 1, 9, 2, 4, 1, 4), {}
    options = {"batch_size": 1, "candidates": ("scan", "vmap", 2, 4, 64), "cache": cache, "clock": clock}
    # Chunks of 4 and 64 are all four clients at once, as "vmap".
    assert choose_parallel(*workload, **options) == "vmap"
    assert [(x["parallel"], x["steps"], x["batch_size"]) for x in made] == [
        ("scan", 1, 1),
        ("vmap", 1, 1),
        (2, 1, 1),
    ]
    assert choose_parallel(*workload, **options) == "vmap"
    assert clock.readings == 18 and list(cache.values()) == ["vmap"]
    # Another batch size is another program; the first of equal candidates wins.
    clock.seconds += [2, 2, 2, 1, 1, 1, 1, 1, 1]
    assert choose_parallel(*workload, **options | {"batch_size": 2}) == "vmap"
    assert len(cache) == 2


def test_a_candidate_twice_as_slow_is_not_repeated(workload, monkeypatch):
    monkeypatch.setattr(parallelism, "make_round", lambda algorithm, **options: Program())
    clock = Clock(2, 3, 1, 5, 1, 1, 1)
    seconds = measure_parallel(*workload, batch_size=1, candidates=("scan", "vmap", 2), clock=clock)
    assert seconds == {"scan": 2, "vmap": 5, 2: 1} and clock.readings == 14


def test_choices_outlast_the_process_in_the_users_cache(workload, monkeypatch, tmp_path):
    monkeypatch.setenv("FEDRECON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(parallelism, "make_round", lambda algorithm, **options: Program())
    options = {"batch_size": 1, "candidates": ("scan", "vmap", 2)}
    clock = Clock(3, 3, 3, 5, 5, 5, 1, 1, 1)
    assert choose_parallel(*workload, cache=fl.parallelism.SavedChoices(), clock=clock, **options) == 2
    assert len(fl.parallelism.SavedChoices()) == 1 and (tmp_path / "cache" / "parallel.json").exists()
    assert choose_parallel(*workload, cache=fl.parallelism.SavedChoices(), clock=None, **options) == 2
    # What is no choice counts as nothing, and is written anew.
    for text in ('{"x": "threads"}', "[1]", "{"):
        (tmp_path / "cache" / "parallel.json").write_text(text)
        assert len(fl.parallelism.SavedChoices()) == 0
    choices = fl.parallelism.SavedChoices()
    choices["a"], choices["b"] = "scan", 4
    assert choices["b"] == 4 and list(choices) == list(fl.parallelism.SavedChoices()) and "c" not in choices
    del choices["a"]
    assert len(fl.parallelism.SavedChoices()) == 1
    # Where nothing can be written, the choice is still made.
    (tmp_path / "file").write_text("")
    nowhere = fl.parallelism.SavedChoices(tmp_path / "file" / "parallel.json")
    clock = Clock(3, 3, 3, 1, 1, 1, 5)
    assert choose_parallel(*workload, cache=nowhere, clock=clock, **options) == "vmap"


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of CPUs")
def test_convolutions_are_scanned_without_measuring(workload, monkeypatch):
    algorithm, state, data = workload
    monkeypatch.setattr(parallelism, "measure_parallel", None)
    convolution = Variables({"kernel": jnp.zeros((3, 3, 1, 1))}, {})
    assert choose_parallel(algorithm, state._replace(variables=convolution), data, cache={}) == "scan"


def test_candidates_that_do_not_fit_are_left_out(workload, monkeypatch):
    class TooLarge(Program):
        def __call__(self, state, data, key):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    def make(algorithm, *, parallel, **options):
        return TooLarge() if parallel == "vmap" else Program()

    monkeypatch.setattr(parallelism, "make_round", make)
    assert choose_parallel(*workload, batch_size=1, cache={}) in ("scan", 2)
    assert set(measure_parallel(*workload, batch_size=1)) == {"scan", 2, 4, 8}
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        measure_parallel(*workload, batch_size=1, candidates=("vmap",))


@pytest.mark.slow
def test_measuring_leaves_the_state_alone(workload):
    seconds = measure_parallel(*workload, batch_size=1, candidates=(2,), clock=Clock(4, 2, 3))
    assert seconds == {2: 3}
    assert not workload[1].variables.params["w"].is_deleted()
    assert int(workload[1].round) == 0


def test_an_override_is_not_measured(workload):
    assert choose_parallel(*workload, override=3, clock=None) == 3
    with pytest.raises(ValueError, match="parallel: expected"):
        choose_parallel(*workload, override="threads")
    with pytest.raises(ValueError, match="parallel: expected"):
        choose_parallel(*workload, batch_size=1, candidates=("scan", 0))
    with pytest.raises(ValueError, match="candidates"):
        choose_parallel(*workload, batch_size=1, candidates=())
    with pytest.raises(ValueError, match="candidates"):
        measure_parallel(*workload, batch_size=1, candidates=())
