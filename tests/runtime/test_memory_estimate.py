"""What compiled programs occupy, and what trainings say of it before their first round."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon.federated import client_mesh
from fedrecon.runtime import MemoryEstimate, available_memory, memory_estimate, readable_bytes
from fedrecon.training.memory import Demand, demand


def test_arguments_outputs_and_temporaries_are_those_of_the_arrays():
    """Of x -> (x x^T) x, whose product in between is the only temporary; a donated x is overwritten."""

    def f(x):
        between = jax.lax.optimization_barrier(x @ x.T)
        return between @ x

    x = jax.ShapeDtypeStruct((300, 100), jnp.float32)
    plain, donated = (
        memory_estimate(jax.jit(f, donate_argnums=names).lower(x).compile()) for names in ((), (0,))
    )
    assert plain.arguments == plain.outputs == donated.arguments == 300 * 100 * 4
    assert 300 * 300 * 4 <= plain.temporaries < 1.1 * 300 * 300 * 4 + 10_000
    assert (plain.aliased, donated.aliased) == (0, 300 * 100 * 4)
    assert donated.total == donated.arguments + donated.temporaries
    assert plain.total == 2 * plain.arguments + plain.temporaries
    assert plain.added == plain.total - plain.arguments


def test_backends_that_do_not_tell_are_none():
    class Silent:
        def memory_analysis(self):
            return None

    class Unable:
        def memory_analysis(self):
            raise NotImplementedError

    assert memory_estimate(Silent()) is memory_estimate(Unable()) is None
    assert demand(None, {}, {}, client_mesh()) is None


def test_a_round_is_data_states_and_what_it_adds():
    data, state = {"x": jnp.ones((10, 5))}, (jnp.ones(7), jnp.ones(3, jnp.int32), 4)
    mesh = client_mesh()
    found = demand(MemoryEstimate(240, 100, 50, 40), data, state, mesh)
    copies = mesh.devices.size if jax.default_backend() == "cpu" else 1
    assert found[:3] == (200, 40, 110 * copies) and found.total == 240 + 110 * copies
    assert (
        found.sentence()
        == f"memory: about {readable_bytes(found.total)} for a round (0 kB data, 0 kB models "
        + (f"and states, {readable_bytes(110 * copies)} while it runs)")
    )
    assert found.available is None or 0 < found.available <= available_memory() * 2


def test_rounds_that_do_not_fit_say_what_to_reduce():
    big = Demand(10, 10, 5 * 10**9, 10**9)
    assert big.warning("scan") == (
        "memory: a round may not fit, 1.0 GB are left for 5.0 GB: lower --batch_size or raise --accumulate, "
        "or take --remat with an unrolled network"
    )
    assert big.warning("vmap").endswith(", or fewer clients at a time than --parallel=vmap")
    assert not big._replace(available=5 * 10**9).warning("vmap")
    assert not big._replace(available=None).warning("scan")


@given(st.integers(0, 10**14))
def test_readable_bytes_are_within_half_a_unit_of_the_last_digit(count):
    number, unit = readable_bytes(count).split()
    size = {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    digit = 0.1 if "." in number else 1
    assert abs(float(number) * size - count) <= digit * size / 2 + 1
    assert len(number) <= 3 or unit == "GB"


def test_negative_numbers_of_bytes_are_refused():
    with pytest.raises(ValueError, match="count: expected a number of bytes, found -1"):
        readable_bytes(-1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read in /proc")
def test_estimates_are_within_15_percent_of_what_is_measured():
    """Two steps of the end-to-end VarNet in a process of its own."""
    work = {"network": "e2e-varnet", "cascades": 6, "channels": 18, "pools": 3, "coils": 16, "size": 160}
    case = json.dumps({**work, "remat": False, "steps": 2})
    command = [sys.executable, "-m", "experiments.pipeline.memory_step", case]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert abs(found["ratio"] - 1) < 0.15
    assert found["estimated_bytes"] > found["argument_bytes"] + found["temporary_bytes"] > 5e8
