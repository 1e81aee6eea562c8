"""Experiments of several trainings, each in a run folder of its own, resumable at every point."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from experiments import base
from experiments.flags import ConfigT, RunConfig
from vaesr import reports, training


class Stage(NamedTuple):
    """One training.

    Attributes:
        folder: its run folder, below the whole run's; "" is that folder itself.
        config: its configuration; `workdir`, `resume` and `overwrite` are set by `run`.
        build: makes its `base.Experiment`.
    """

    folder: str
    config: RunConfig
    build: Callable[[Any], base.Experiment]


def main(experiment: str, presets: dict[str, ConfigT], plan: Callable[[ConfigT], Iterator[Stage]]) -> None:
    """The command line of an experiment module of several stages; exits as `base.main`.

    Args:
        experiment: the module's name, as "experiments.vqvae".
        presets: its named configurations.
        plan: `config -> stages`, a generator: what it does between two stages happens when the first is
            done. `config.workdir` is set.
    """
    base.main(experiment, presets, plan, runner=run)


def run(experiment: str, preset: str, config: ConfigT, plan: Callable[[ConfigT], Iterator[Stage]]) -> bool:
    """Carry out the stages that are not finished.

    Args:
        experiment: the module's name.
        preset: the preset's name.
        config: the configuration.
        plan: see `main`.

    Returns:
        False if a signal ended a training early; `--resume` goes on with it.

    Raises:
        UserError: if a run folder holds another run, or what happens between stages is refused.
    """
    workdir = base.run_folder(experiment, preset, config)
    plans = plan(dataclasses.replace(config, workdir=workdir))
    while True:
        try:
            stage = next(plans, None)
        except (ValueError, OSError) as error:
            raise base.UserError(str(error)) from error
        if stage is None:
            return True
        folder = workdir / stage.folder
        # A stage that ended before its first checkpoint begins anew.
        resume = config.resume and (not training.is_bare(folder) or not stage.folder)
        own = dataclasses.replace(
            stage.config, workdir=folder, resume=resume, overwrite=config.overwrite and not stage.folder
        )
        if resume and is_finished(folder, own.steps):
            continue
        if not base.run(experiment, preset, own, stage.build):
            return False


def is_finished(folder: pathlib.Path, steps: int) -> bool:
    """Whether a training has taken all its steps and been measured.

    Args:
        folder: its run folder.
        steps: how many it takes.

    Returns:
        True if nothing is left to do.
    """
    if not (folder / "metrics.jsonl").exists() or not (folder / "report.html").exists():
        return False
    tested = any(row["split"] == "test" for row in reports.read_metrics(folder))
    with training.Checkpoints(folder) as checkpoints:
        latest = checkpoints.latest
    return tested and latest is not None and latest >= steps
