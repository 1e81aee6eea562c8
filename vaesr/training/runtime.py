"""Start-up of a process: several hosts, the persistent compile cache."""

import functools
import os
import pathlib
from typing import Any

import jax
import numpy as np

# What launchers set in every process they start, and jax.distributed reads everything from. (SLURM_NTASKS
# alone is set in a batch script too, where nothing has started several processes.)
_LAUNCHERS = {
    "SLURM_NTASKS": ("SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"),
    "OMPI_COMM_WORLD_SIZE": ("OMPI_COMM_WORLD_RANK",),
}


def enable_compile_cache(directory: str | pathlib.Path) -> None:
    """Keep compiled programs on disk, so that the second start of an experiment is quick.

    A cache that is already configured (as by `JAX_COMPILATION_CACHE_DIR`) is left alone.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def quick_compile(platform: str) -> dict[str, Any]:
    """Compiler options for a program that runs once, such as an initialisation, on `device.platform`.

    For `jax.jit(..., compiler_options=...)`: on CPUs what spares XLA most code generation (a U-Net's
    initialisation compiles in a tenth of the time), elsewhere nothing.
    """
    if platform != "cpu":
        return {}
    options = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_use_fusion_emitters": False,
    }
    return {name: value for name, value in options.items() if _has_option(name, value)}


@functools.cache
def _has_option(name: str, value: Any) -> bool:
    """Whether this XLA has the option: 0.12 has no `xla_cpu_use_fusion_emitters`, and others may go."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" in str(error):
            return False
        raise
    return True


def initialize_distributed(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    detect: bool = False,
) -> bool:
    """Join a run of several processes, before anything touches a device; whether they now work together.

    `coordinator` is `host:port` of process 0; None: join only where `srun` or `mpirun` has started several
    processes, and read everything from there. `num_processes` and `process_id`, from 0, go with it:
    ValueError if only some of the three are given. `detect` lets JAX find the cluster by itself (TPU pods,
    Kubernetes); that fails where there is none.
    """
    if jax.distributed.is_initialized():  # by an earlier stage of this run
        return True
    given = [coordinator is not None, num_processes is not None, process_id is not None]
    if any(given) and not all(given):
        raise ValueError(
            "coordinator, num_processes and process_id belong together, got "
            f"{coordinator!r}, {num_processes!r} and {process_id!r}."
        )
    if all(given):
        jax.distributed.initialize(coordinator, num_processes, process_id)
        return True
    launched = any(
        int(os.environ.get(size, "1")) > 1 and all(name in os.environ for name in others)
        for size, others in _LAUNCHERS.items()
    )
    if launched or detect:
        jax.distributed.initialize()
        return True
    return False


def from_first_process(text: str) -> str:
    """Process 0's text, in every process; all must call it. Up to 4096 bytes are passed on."""
    if jax.process_count() == 1:
        return text
    from jax.experimental import multihost_utils

    words = np.frombuffer(text.encode()[:4096], np.uint8)
    buffer = np.pad(words, (0, 4096 - len(words)))
    return bytes(multihost_utils.broadcast_one_to_all(buffer)).rstrip(b"\0").decode(errors="ignore")
