"""An experiment's run folder: whose it is, what stands in its config.json."""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax

import vaesr
from experiments.flags import RunConfig
from vaesr import training

# These say where and how fast a run goes, not what it computes: they may change when it resumes.
_FREE_FIELDS = {
    "workdir", "resume", "overwrite", "steps", "eval_every", "checkpoint_every", "log_every", "parallel",
    "fsdp", "data_on", "steps_per_dispatch", "strict", "debug", "distributed", "coordinator",
    "num_processes", "process_id", "only_autoencoder", "only_generator", "samples",
    "temperature",
}  # fmt: skip


class UserError(Exception):
    """A mistake in what the user asked for; shown as one line, without a traceback."""


def run_folder(experiment: str, preset: str, config: RunConfig) -> pathlib.Path:
    """Where a run's results go.

    Args:
        experiment: the module's name, as "experiments.vae".
        preset: the preset's name.
        config: the configuration.

    Returns:
        `config.workdir`, or runs/EXPERIMENT/PRESET.
    """
    return config.workdir or pathlib.Path("runs") / experiment.rpartition(".")[2] / preset


def claim(workdir: pathlib.Path, config: RunConfig) -> None:
    """Refuse, empty or check the run folder: process 0 does it, all go on or fail together.

    Args:
        workdir: the folder.
        config: the configuration.

    Raises:
        UserError: if it holds another run, or can't be written.
    """
    free = set(_FREE_FIELDS)
    optimizers = [value for value in vars(config).values() if isinstance(value, training.OptimConfig)]
    if any(optimizer.schedule in ("cosine", "stages") for optimizer in optimizers):
        free.remove("steps")  # the learning rate of every step depends on it
    problem = ""
    if jax.process_index() == 0:
        try:
            training.claim_folder(
                workdir,
                _as_json(config),
                resume=config.resume,
                overwrite=config.overwrite,
                free=free,
                defaults=json.loads(json.dumps(_defaults(config), default=str)),
            )
        except (training.RunFolderError, OSError) as error:
            problem = str(error)
    problem = training.from_first_process(problem)
    if problem:
        raise UserError(problem)


def write_config(
    workdir: pathlib.Path,
    experiment: str,
    preset: str,
    config: RunConfig,
    *,
    model: dict[str, Any],
    bank: str | None,
) -> None:
    """Write what the run is into its folder's config.json.

    Args:
        workdir: the folder.
        experiment: the module's name.
        preset: the preset's name.
        config: the configuration.
        model: description of the network.
        bank: name of the data's bank, if it has one.
    """
    content = {
        "experiment": experiment,
        "preset": preset,
        "config": _as_json(config),
        "model": model,
        "bank": bank,
        "environment": {
            "vaesr": vaesr.__version__,
            "jax": jax.__version__,
            "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        },
    }
    before = training.write_config(workdir, content)
    if before.get("bank", bank) != bank:
        print(
            f"note: {config.data} has changed since this run began; its splits may differ.", file=sys.stderr
        )


def _as_json(config: RunConfig) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def _defaults(config: Any) -> dict[str, Any]:
    """The default of every field that has one, as it was before the field existed."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            values[field.name] = _defaults(value)
        elif field.default is not dataclasses.MISSING:
            values[field.name] = field.default
    return values
