"""Test set-up: four virtual CPU devices, strict rank promotion, a persistent compile cache."""

import os
import pathlib

# Tests compile hundreds of programs and run each for moments: quick compilation halves the slowest. The quick
# experiments of CI and the killed runs are compiled as a user's are.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=4 --xla_cpu_use_fusion_emitters=false "
    "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true",
)
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
_CACHE = os.environ.get("VAESR_TEST_CACHE", str(pathlib.Path(__file__).parent.parent / ".cache" / "xla"))
# Workers of pytest-xdist don't share one: an entry may be read while another process writes it.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(_CACHE) / _WORKER))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture
def key() -> jax.Array:
    """A fixed random key."""
    return jax.random.key(0)


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Drop what a file of tests compiled, or the process would hold gigabytes of it at the end."""
    yield
    jax.clear_caches()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where JAX sees no accelerator."""
    if all(device.platform == "cpu" for device in jax.devices()):
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs an accelerator"))
