"""What tests of whole programs share."""

import os

import jax
import pytest

# As in tests/conftest.py: programs that run little are not optimized. An XLA that does not know a flag ends
# the process.
_UNOPTIMIZED = (
    "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
    " --xla_cpu_parallel_codegen_split_count=1"
)


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """The environment of programs, which share what they compile."""
    flags = {} if jax.__version_info__ >= (0, 11) else {"XLA_FLAGS": _UNOPTIMIZED}
    return {**flags, **os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled"))}
