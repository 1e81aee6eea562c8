"""The `smoke` preset of every system in four steps, and what a kill after two of them would leave."""

import dataclasses
import pathlib
import shutil
from typing import Any

import jax
import pytest

import experiments
from vaesr import runs, training

SYSTEMS = {module.__name__.rpartition(".")[2]: module for module in experiments.discover()}


def short(part: Any) -> Any:
    """The configuration with four steps in every stage, saved after two: later stages where they evaluate."""
    whole = isinstance(part, runs.Config)
    changed: dict[str, Any] = {"steps": 4, "eval_every": 4 if whole else 2}
    if whole:
        changed |= {"checkpoint_every": 2, "log_every": 1}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value) and hasattr(value, "steps"):
            changed[field.name] = short(value)
    return dataclasses.replace(part, **changed)


def quick(module: Any, workdir: pathlib.Path, **fields: Any) -> Any:
    """The quick preset in a folder; four devices share its batches."""
    config = module.PRESETS["smoke"]
    batch = -(-config.batch_size // jax.device_count()) * jax.device_count()
    return dataclasses.replace(short(config), workdir=workdir, batch_size=batch, **fields)


def finish(name: str, workdir: pathlib.Path) -> Any:
    """Run a system from its beginning to its end; a copy of every stage is kept as it was after two steps."""
    config, save = quick(SYSTEMS[name], workdir), training.Checkpoints.save

    def save_and_copy(
        self: training.Checkpoints, state: Any, *, step: int, score: float | None = None
    ) -> None:
        save(self, state, step=step, score=score)
        if step == 2:
            self.wait()
            folder = self._directory.parent
            shutil.copytree(folder, killed(workdir) / folder.relative_to(workdir))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Checkpoints, "save", save_and_copy)
        assert runs.run(SYSTEMS[name].__name__, "smoke", config, SYSTEMS[name].build)
    return config


def killed(workdir: pathlib.Path) -> pathlib.Path:
    """Where the copies are of a finished run: the folder of each stage, with nothing of the stages in it."""
    return workdir.with_name(f"{workdir.name}_killed")
