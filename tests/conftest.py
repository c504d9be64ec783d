"""Shared test settings: four host devices, and double precision only where a test asks for it."""

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
settings.register_profile("fedrecon", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("fedrecon")


@pytest.fixture
def x64():
    """Runs one test in double precision."""
    with jax.enable_x64(True):
        yield
