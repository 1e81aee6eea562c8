"""Test set-up: four virtual CPU devices, strict rank promotion, a persistent compile cache; tiny runs."""

import gc
import importlib.metadata
import os
import pathlib
import resource
import signal
import sys
from typing import Any

# Tests compile hundreds of programs and run each for moments: quick compilation halves the slowest. The quick
# experiments of CI and the killed runs are compiled as a user's are. XLA aborts the process over a flag that
# it doesn't know, and releases after 0.10 don't know the last one.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false"
    * importlib.metadata.version("jaxlib").startswith("0.10."),
)
os.environ.setdefault("MPLBACKEND", "Agg")
# Each of pytest-xdist's workers has its share of the cores; PyTorch's threads wait for theirs by counting.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Several processes may share an accelerator, which the first would else take for itself.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import pytest
from written_runs import write_run

# What ignores a signal, as under nohup or in a script's background, hands that on to the processes it starts,
# which tests send signals to; what has a handler for it does not.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)

# Tracing makes millions of small objects: looking through them for cycles took an eighth of the suite's time.
gc.set_threshold(100_000, 50, 100)
jax.config.update("jax_numpy_rank_promotion", "raise")
_CACHE = os.environ.get("VAESR_TEST_CACHE", str(pathlib.Path(__file__).parent.parent / ".cache" / "xla"))
# Workers of pytest-xdist don't share one: an entry may be read while another process writes it.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
_MUCH = 2 * 2**30  # bytes
_PASSED, _PASSED_BEFORE = (os.environ.get(f"VAESR_TESTS_PASSED{when}") for when in ("", "_BEFORE"))
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(_CACHE) / _WORKER))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture
def key() -> jax.Array:
    """A fixed random key."""
    return jax.random.key(0)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One data cache, so that images are decoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def use_cache(cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data are kept in the cache that all tests share, not in the user's."""
    monkeypatch.setenv("VAESR_CACHE", str(cache))


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Drop what a file of tests compiled once it is much, or the process would hold gigabytes at the end."""
    yield
    unit = 1 if sys.platform == "darwin" else 1024
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit > _MUCH:
        jax.clear_caches()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where JAX sees no accelerator; leave out what an earlier run has passed."""
    if all(device.platform == "cpu" for device in jax.devices()):
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs an accelerator"))
    if _PASSED_BEFORE:
        passed = set(pathlib.Path(_PASSED_BEFORE).read_text("utf-8").splitlines())
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
        items[:] = [item for item in items if item.nodeid not in passed]
    # The longest first, or one worker would end with them while the others have nothing to do.
    items.sort(key=lambda item: "experiments" not in item.path.parts)


@pytest.hookimpl(optionalhook=True)  # there is none without pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives a worker one file of tests at a time, or what is asked of one system's finished quick run."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            return test.partition("[")[2] if file.endswith(("conformance.py", "finished.py")) else file

    return Scheduling(config, log)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what passed where a file for that is named: CI runs no test twice at the same versions."""
    if _PASSED and not _WORKER and report.when == "call" and report.passed:
        with open(_PASSED, "a", encoding="utf-8") as file:
            file.write(f"{report.nodeid}\n")


@pytest.fixture(scope="session")
def edsr_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of a small EDSR x2 (receptive radius 8)."""
    from vaesr.models.edsr import EDSR

    model = EDSR(scale=2, channels=8, blocks=2)
    return write_run(tmp_path_factory.mktemp("runs") / "edsr", "edsr", model, jnp.zeros((1, 8, 8, 3)))


@pytest.fixture(scope="session")
def mdsr_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of a small MDSR x2, x3 and x4."""
    from vaesr.models.mdsr import MDSR

    model = MDSR(channels=4, blocks=1)
    return write_run(tmp_path_factory.mktemp("runs") / "mdsr", "mdsr", model, jnp.zeros((1, 8, 8, 3)))


@pytest.fixture(scope="session")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of a small Bernoulli VAE of 8 x 8 grey images with 3 latent dimensions."""
    from vaesr.models.vae import VAE

    model = VAE(latent=3, hidden=(16,), image_shape=(8, 8, 1))
    return write_run(tmp_path_factory.mktemp("runs") / "vae", "vae", model, jnp.zeros((1, 8, 8, 1)))
