"""Start-up of a process: several hosts, the persistent compile cache."""

import os
import pathlib

import jax

# Set by launchers that jax.distributed can read everything from.
_CLUSTER_SIZES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")


def enable_compile_cache(directory: str | pathlib.Path) -> None:
    """Keep compiled programs on disk, so that the second start of an experiment is quick.

    Args:
        directory: where. A cache that is already configured (as by `JAX_COMPILATION_CACHE_DIR`) is left
            alone.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def initialize_distributed(
    *, coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> bool:
    """Join a run of several processes; call it before anything touches a device.

    Args:
        coordinator: `host:port` of process 0. None: join only where Slurm, Open MPI or a TPU pod has
            started several processes, and read everything from there.
        num_processes: number of processes; with `coordinator`.
        process_id: this process's number, from 0; with `coordinator`.

    Returns:
        Whether several processes now work together.

    Raises:
        ValueError: if only some of the three are given.
    """
    given = [coordinator is not None, num_processes is not None, process_id is not None]
    if any(given) and not all(given):
        raise ValueError(
            "coordinator, num_processes and process_id belong together, got "
            f"{coordinator!r}, {num_processes!r} and {process_id!r}."
        )
    if all(given):
        jax.distributed.initialize(coordinator, num_processes, process_id)
        return True
    several = any(int(os.environ.get(name, "1")) > 1 for name in _CLUSTER_SIZES)
    if several or "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
        jax.distributed.initialize()
        return True
    return False
