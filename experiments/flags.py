"""The flags that every experiment shares, and how a command line becomes a configuration."""

import dataclasses
import difflib
import json
import pathlib
import sys
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import jax

ConfigT = TypeVar("ConfigT", bound="RunConfig")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The flags that every experiment shares."""

    # Source: embedded:NAME, tfds:NAME, folder:PATH, idx:PATH or npy:PATH.
    data: str
    # Training steps.
    steps: int
    # Examples per step, over all devices.
    batch_size: int
    # Seed of the initial weights, the noise and the order of the data.
    seed: int = 0
    # Run folder; runs/EXPERIMENT/PRESET by default.
    workdir: pathlib.Path | None = None
    # Go on from the run folder's latest checkpoint.
    resume: bool = False
    # Delete what the run folder holds first.
    overwrite: bool = False
    # Steps between checkpoints.
    checkpoint_every: int = 1000
    # Steps between evaluations on the validation split.
    eval_every: int = 1000
    # Steps between rows of training metrics.
    log_every: int = 100
    # Partition one program over the devices, or map one program per device.
    parallel: Literal["jit", "pmap"] = "jit"
    # Devices that share one copy of parameters and optimizer state.
    fsdp: int = 1
    # Micro-batches per step, whose gradients are averaged.
    accumulate: int = 1
    # Compute type; "auto" is bfloat16 on GPUs and TPUs, float32 on CPUs.
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    # Keep the data on the device, or gather each batch on the host; "auto" decides by size.
    data_on: Literal["auto", "device", "host"] = "auto"
    # Training steps per call of the compiled program; 0 decides by backend and model.
    steps_per_dispatch: int = 0
    # Refuse data with any problem instead of reporting and leaving it out.
    strict: bool = False
    # Join the processes of a TPU pod or Kubernetes job; those of srun and mpirun are found without.
    distributed: bool = False
    # host:port of process 0 of a run of several processes that nothing else describes.
    coordinator: str | None = None
    # Number of processes, with --coordinator.
    num_processes: int | None = None
    # This process's number from 0, with --coordinator.
    process_id: int | None = None
    # Show the traceback of every error.
    debug: bool = False

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "checkpoint_every",
            "eval_every",
            "log_every",
            "fsdp",
            "accumulate",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}.")
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


def cli(presets: Mapping[str, ConfigT], arguments: list[str] | None = None) -> tuple[str, ConfigT]:
    """Read `[PRESET] [--field value]` from the command line.

    Args:
        presets: named configurations; "default" is used where none is named.
        arguments: the words after the module's name; `sys.argv[1:]` by default.

    Returns:
        `(preset, config)`.
    """
    try:
        import tyro
    except ImportError:
        sys.exit('the experiments need more packages: pip install "vaesr[experiments]"')
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "default"
    if name not in presets:
        near = difflib.get_close_matches(name, presets, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        print(f"there is no preset {name!r}{hint} The presets are: {', '.join(presets)}.", file=sys.stderr)
        sys.exit(2)
    module = sys.modules[type(presets[name]).__module__]
    spec = getattr(module, "__spec__", None)
    config = tyro.cli(
        type(presets[name]),
        prog=f"python -m {spec.name if spec else module.__name__} [{'|'.join(presets)}]",
        description=module.__doc__,
        default=presets[name],
        args=arguments,
    )
    return name, config


def with_stored(
    experiment: str, presets: Mapping[str, ConfigT], arguments: list[str]
) -> tuple[Mapping[str, ConfigT], str | None]:
    """With --resume: presets with the fields that the run folder was made with, and its preset's name.

    Args:
        experiment: the module's name, as "experiments.vae".
        presets: its named configurations.
        arguments: the command line.

    Returns:
        `(presets, name)`; as they were and None without --resume or a run folder of this experiment.
    """
    if "--resume" not in arguments:
        return presets, None
    named = arguments[0] if not arguments[0].startswith("-") else "default"
    workdir = pathlib.Path("runs") / experiment.rpartition(".")[2] / named
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == "--workdir" or word.startswith("--workdir="):
            workdir = pathlib.Path(word.partition("=")[2] or following)
    try:
        stored = json.loads((workdir / "config.json").read_text())
    except (OSError, ValueError):
        return presets, None  # `run` says what is wrong with the folder
    if stored.get("experiment") != experiment or stored.get("preset") not in presets:
        return presets, None
    config = _from_json(presets[stored["preset"]], stored["config"])
    config = dataclasses.replace(config, resume=False, overwrite=False, debug=False)
    return {**presets, named: config}, stored["preset"]


def _from_json(default: Any, stored: dict[str, Any]) -> Any:
    """A configuration with the stored values; fields that were not stored keep their default."""
    hints = typing.get_type_hints(type(default))
    values = {}
    for field in dataclasses.fields(default):
        if field.name not in stored:
            continue
        value, before = stored[field.name], getattr(default, field.name)
        if dataclasses.is_dataclass(before):
            value = _from_json(before, value)
        elif isinstance(before, tuple):
            value = tuple(value)
        elif value is not None and pathlib.Path in (hints[field.name], *typing.get_args(hints[field.name])):
            value = pathlib.Path(value)
        values[field.name] = value
    return dataclasses.replace(default, **values)
