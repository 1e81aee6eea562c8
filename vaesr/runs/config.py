"""The flags that every experiment shares."""

import dataclasses
import pathlib
from typing import Any, ClassVar, Literal

import jax

_CHANGEABLE = "changeable"


def changeable(default: Any = dataclasses.MISSING) -> Any:
    """A field that says where, how long or how fast a run goes, not what it computes.

    It may differ when a run resumes.
    """
    return dataclasses.field(default=default, metadata={_CHANGEABLE: True})


def changeable_fields(config: "Config") -> set[str]:
    """The names of a configuration's fields that may differ when its run resumes.

    `steps` is none of them where the learning rate of every step depends on it.
    """
    names = {field.name for field in dataclasses.fields(config) if field.metadata.get(_CHANGEABLE)}
    schedules = {getattr(value, "schedule", None) for value in vars(config).values()}
    return names - {"steps"} if schedules & {"cosine", "epochs", "stages"} else names


def check_least(part: Any, least: float, *names: str, prefix: str = "") -> None:
    """Refuse fields below `least` of a configuration, or of its part whose flags have this prefix."""
    for name in names:
        value = getattr(part, name)
        if not value >= least:
            flag = name.replace("_", "-")
            raise ValueError(f"--{prefix}{flag} must be at least {least}, got {value}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The flags that every experiment shares."""

    # Fields that run folders of earlier versions name otherwise: theirs and ours, dotted.
    RENAMED: ClassVar[dict[str, str]] = {}

    # Source: embedded:NAME, tfds:NAME, folder:PATH, idx:PATH, npy:PATH, or random:photos for measuring speed.
    data: str
    # Training steps.
    steps: int = changeable()
    # Examples per step, over all devices.
    batch_size: int
    # Seed of the initial weights, the noise and the order of the data.
    seed: int = 0
    # Run folder; runs/EXPERIMENT/PRESET by default.
    workdir: pathlib.Path | None = changeable(None)
    # Go on from the run folder's latest checkpoint.
    resume: bool = changeable(False)
    # Delete what the run folder holds first.
    overwrite: bool = changeable(False)
    # Steps between checkpoints.
    checkpoint_every: int = changeable(1000)
    # Steps between evaluations on the validation split.
    eval_every: int = changeable(1000)
    # Steps between rows of training metrics.
    log_every: int = changeable(100)
    # Partition one program over the devices, or map one program per device.
    parallel: Literal["jit", "pmap"] = changeable("jit")
    # Devices that share one copy of parameters and optimizer state.
    fsdp: int = changeable(1)
    # Micro-batches per step, whose gradients are averaged.
    accumulate: int = 1
    # Compute type; "auto" is bfloat16 on GPUs and TPUs, float32 on CPUs.
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    # Keep the data on the device, or gather each batch on the host; "auto" decides by size.
    data_on: Literal["auto", "device", "host"] = changeable("auto")
    # Training steps per call of the compiled program; 0 decides by backend and model.
    steps_per_dispatch: int = changeable(0)
    # Refuse data with any problem instead of reporting and leaving it out.
    strict: bool = changeable(False)
    # Join the processes of a TPU pod or Kubernetes job; those of srun and mpirun are found without.
    distributed: bool = changeable(False)
    # host:port of process 0 of a run of several processes that nothing else describes.
    coordinator: str | None = changeable(None)
    # Number of processes, with --coordinator.
    num_processes: int | None = changeable(None)
    # This process's number from 0, with --coordinator.
    process_id: int | None = changeable(None)
    # Show the traceback of every error.
    debug: bool = changeable(False)

    def __post_init__(self) -> None:
        check_least(self, 1, "steps", "batch_size", "checkpoint_every", "eval_every", "log_every", "fsdp")
        check_least(self, 1, "accumulate")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"--seed must be from 0 to 2^63 - 1, got {self.seed}.")
        if self.batch_size >= 2**31:
            raise ValueError(f"--batch-size must be below {2**31}, got {self.batch_size}.")
        if self.batch_size % self.accumulate:
            raise ValueError(f"--accumulate {self.accumulate} must divide --batch-size {self.batch_size}.")
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite contradict each other; give one of them.")

    @property
    def compute_dtype(self) -> str:
        """The compute type's name, "auto" resolved for the default backend."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"
