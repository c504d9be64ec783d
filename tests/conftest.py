"""Shared test settings: four host devices, and double precision only where a test asks for it."""

import os

import jax
import pytest
from hypothesis import settings

# JAX_PLATFORMS=cuda runs the tests on an accelerator; where there is none this is what JAX does anyway.
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 4)
settings.register_profile("fedrecon", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("fedrecon")


@pytest.fixture
def x64():
    """Runs one test in double precision."""
    with jax.enable_x64(True):
        yield
