"""The run folder: claimed before anything is computed, never half-deleted, described by `config.json`."""

import json
import os
import pathlib
import shutil
from collections.abc import Collection
from typing import Any

CONFIG = "config.json"


class RunFolderError(Exception):
    """The run folder holds something that the run must not touch or can't go on from."""


def claim_folder(
    workdir: pathlib.Path,
    config: dict[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    free: Collection[str] = (),
    defaults: dict[str, Any] | None = None,
) -> None:
    """Make sure that a folder may be used for a run, and that it exists.

    Args:
        workdir: the run folder.
        config: the run's configuration, as JSON has it.
        resume: the folder must hold a run of the same configuration.
        overwrite: a run that the folder holds is deleted; anything else never is.
        free: top-level fields of the configuration that may differ when resuming.
        defaults: values of fields that a run made by an earlier version doesn't name.

    Raises:
        RunFolderError: in one sentence, with what to do.
    """
    stored = workdir / CONFIG
    if is_bare(workdir):
        if resume:
            raise RunFolderError(f"{workdir} holds no run to resume; leave --resume out to start one.")
    elif resume:
        if not stored.exists():
            raise RunFolderError(
                f"{workdir} holds no config.json; it isn't a run folder that could be resumed."
            )
        stored_config = _completed(json.loads(stored.read_text())["config"], defaults or {})
        different = _differences(stored_config, config, free)
        if different:
            raise RunFolderError(
                f"{workdir} holds a run with another configuration: {'; '.join(different)}. Give the same "
                "fields, or another --workdir."
            )
    elif overwrite:
        if not stored.exists():
            raise RunFolderError(f"{workdir} is not empty and not a run folder; --overwrite won't delete it.")
        # Out of the way at once: a half-deleted run would look like something else's folder.
        aside = workdir.with_name(f".{workdir.name}.deleted-{os.getpid()}")
        workdir.rename(aside)
        shutil.rmtree(aside)
    else:
        raise RunFolderError(
            f"{workdir} already holds a run. --resume goes on with it, --overwrite deletes it, "
            "--workdir DIR puts this one elsewhere."
        )
    workdir.mkdir(parents=True, exist_ok=True)


def is_bare(workdir: pathlib.Path) -> bool:
    """Whether there is nothing to lose: no folder, or what a run leaves that ended before its first step.

    Args:
        workdir: the run folder.

    Returns:
        True where `claim_folder` would begin a new run.
    """
    if not workdir.exists():
        return True
    harmless = {CONFIG, CONFIG + ".tmp", "tensorboard", "checkpoints", "metrics.jsonl"}
    if {path.name for path in workdir.iterdir()} - harmless:
        return False
    rows, checkpoints = workdir / "metrics.jsonl", workdir / "checkpoints"
    if rows.exists() and rows.stat().st_size:
        return False
    return not (checkpoints.exists() and any(path.name.isdigit() for path in checkpoints.iterdir()))


def write_config(workdir: pathlib.Path, content: dict[str, Any]) -> dict[str, Any]:
    """Write `config.json`, whole or not at all.

    Args:
        workdir: the run folder.
        content: what JSON can hold.

    Returns:
        What the file held before; empty if there was none.
    """
    path = workdir / CONFIG
    before = json.loads(path.read_text()) if path.exists() else {}
    temporary = workdir / (CONFIG + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
    return before


def _completed(stored: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration with the defaults of the fields that it lacks, at every level."""
    inner = {
        name: _completed(value, defaults[name])
        for name, value in stored.items()
        if isinstance(value, dict) and isinstance(defaults.get(name), dict)
    }
    return {**defaults, **stored, **inner}


def _differences(old: dict[str, Any], new: dict[str, Any], free: Collection[str]) -> list[str]:
    """The fields in which two configurations differ, as `name: old -> new`, but for those that may."""
    pairs = [(n, old.get(n), new.get(n)) for n in {**old, **new} if n not in free]
    found = []
    while pairs:
        name, before, after = pairs.pop(0)
        if isinstance(before, dict) and isinstance(after, dict):
            pairs += [(f"{name}.{n}", before.get(n), after.get(n)) for n in {**before, **after}]
        elif before != after:
            found.append(f"{name}: {before!r} -> {after!r}")
    return found
