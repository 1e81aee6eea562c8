"""The run folder: whose it is, claimed before anything is computed, described by `config.json`."""

import dataclasses
import errno
import functools
import json
import pathlib
import shutil
import sys
import tempfile
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import jax
from flax import linen as nn

import vaesr
from vaesr import training
from vaesr.files.atomic import write_atomically
from vaesr.files.rows import read_metrics
from vaesr.runs.config import Config, changeable_fields
from vaesr.runs.networks import fixed_fields, flag_fields

CONFIG, LOCK = "config.json", ".lock"
ConfigT = TypeVar("ConfigT", bound=Config)


class UserError(Exception):
    """A mistake in what the user asked for; shown as one line, without a traceback."""


def in_words(error: Exception) -> str:
    """What an error says, and what to do where the disk is full."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return str(error) + (
        ". The checkpoints that are there are whole: make room, and go on with --resume." if full else ""
    )


def run_folder(experiment: str, preset: str, config: Config) -> pathlib.Path:
    """Where a run's results go: `config.workdir`, or runs/EXPERIMENT/PRESET.

    `experiment` is the module's name, as "experiments.vae".
    """
    return config.workdir or pathlib.Path("runs") / experiment.rpartition(".")[2] / preset


def claim(workdir: pathlib.Path, config: Config) -> None:
    """Refuse, empty or check the run folder: process 0 does it, all go on or fail together.

    UserError if it holds another run, or can't be written.
    """
    problem = ""
    if jax.process_index() == 0:
        try:
            _claim(workdir, config)
        except (UserError, OSError) as error:
            problem = in_words(error)
    problem = training.from_first_process(problem)
    if problem:
        raise UserError(problem)


def _claim(workdir: pathlib.Path, config: Config) -> None:
    stored = workdir / CONFIG
    if is_bare(workdir):
        if config.resume:  # one command serves a job that is stopped now and then
            print(f"note: {workdir} holds no run to resume; this is its beginning.", file=sys.stderr)
    elif config.resume:
        if not stored.exists():
            raise UserError(f"{workdir} holds no {CONFIG}; it isn't a run folder that could be resumed.")
        if lost := _lost_steps(workdir, stored, config):
            raise UserError(
                f"{workdir} has taken {lost} steps, and its checkpoints are gone: put them back, or begin "
                "anew with --overwrite."
            )
        try:
            before = _completed(
                _with_names(json.loads(stored.read_text("utf-8"))["config"], config.RENAMED),
                _defaults(config),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{stored} is damaged ({type(error).__name__}): put a copy back, or begin anew with "
                "--overwrite."
            ) from error
        different = _differences(before, as_json(config), changeable_fields(config))
        if different:
            raise UserError(
                f"{workdir} holds a run with another configuration: {'; '.join(different)}. Give the same "
                "fields, or another --workdir."
            )
    elif config.overwrite:
        if not stored.exists():
            raise UserError(f"{workdir} is not empty and not a run folder; --overwrite won't delete it.")
        # Out of the way first, and what says whose folder it is as the last: a half-deleted run is still one.
        aside = pathlib.Path(tempfile.mkdtemp(prefix=".deleted-", dir=workdir))
        for path in list(workdir.iterdir()):
            if path.name not in (LOCK, CONFIG) and path != aside:
                path.rename(aside / path.name)
        shutil.rmtree(aside)
        stored.unlink()
    else:
        raise UserError(
            f"{workdir} already holds a run. --resume goes on with it, --overwrite deletes it, "
            "--workdir DIR puts this one elsewhere."
        )
    workdir.mkdir(parents=True, exist_ok=True)
    for path in workdir.glob(".deleted-*"):  # of a deletion that was killed
        shutil.rmtree(path, ignore_errors=True)
    for name in ("checkpoints", "figures", "tensorboard"):  # not after hours of training
        if (workdir / name).exists() and not (workdir / name).is_dir():
            raise UserError(f"{workdir / name} is a file where a folder belongs; move it away.")


def is_bare(workdir: pathlib.Path) -> bool:
    """Whether `claim` would begin a new run here.

    There is no folder, or what a run leaves that ended before its first step: nothing to lose.
    """
    if not workdir.exists():
        return True
    harmless = {CONFIG, LOCK, CONFIG + ".tmp", "tensorboard", "checkpoints", "metrics.jsonl"}
    left = {path.name for path in workdir.iterdir()} - harmless
    if any(not _left_by_a_kill(name) for name in left):
        return False
    rows, checkpoints = workdir / "metrics.jsonl", workdir / "checkpoints"
    if rows.exists() and rows.stat().st_size:
        return False
    return not (checkpoints.exists() and any(path.name.isdigit() for path in checkpoints.iterdir()))


def _left_by_a_kill(name: str) -> bool:
    """Whether it was being written or deleted when a process was killed."""
    return name.startswith(".deleted-") or (name.startswith(".") and name.endswith(".part.json"))


def _lost_steps(workdir: pathlib.Path, stored: pathlib.Path, config: Config) -> int:
    """The steps of a run whose checkpoints somebody deleted; 0 where there are some, or were none yet."""
    try:  # as often as the run was told, not as it is told now
        every = int(json.loads(stored.read_text("utf-8"))["config"]["checkpoint_every"])
    except (OSError, ValueError, KeyError, TypeError):
        every = config.checkpoint_every
    folder = workdir / "checkpoints"
    if folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir()):
        return 0
    steps = max((int(row["step"]) for row in read_metrics(workdir)), default=0)
    # One is complete before the next one begins, so that this long after the first there was one.
    return steps if not folder.is_dir() or steps > 2 * every else 0


def write_config(
    workdir: pathlib.Path,
    experiment: str,
    preset: str,
    config: Config,
    *,
    model: dict[str, Any],
    bank: str | None,
    stage: str = "",
) -> None:
    """Write what the run is into its folder's `config.json`, whole or not at all.

    `bank` is the name of the data's bank, if it has one; `stage` the folder's place below the whole run's.
    """
    content = {
        "experiment": experiment,
        "preset": preset,
        "config": as_json(config),
        "model": model,
        "bank": bank,
        "stage": stage,
        "environment": {
            "vaesr": vaesr.__version__,
            "jax": jax.__version__,
            "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        },
    }
    path = workdir / CONFIG
    try:
        before = json.loads(path.read_text("utf-8")).get("bank", bank)
    except (OSError, ValueError, AttributeError):  # none yet, or one that describes nothing
        before = bank
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    if before != bank:
        print(
            f"note: {config.data} has changed since this run began; its splits may differ.", file=sys.stderr
        )


def keep_config(workdir: pathlib.Path, config: Config) -> None:
    """Note the fields of a finished training that may change and did, for who resumes the run next."""
    path = workdir / CONFIG
    content = json.loads(path.read_text("utf-8"))
    if content["config"] != as_json(config):
        content["config"] = as_json(config)
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """Read what a run is from its folder's `config.json`, of which "model" describes the network.

    FileNotFoundError where the folder or the file is missing, ValueError where the file is no JSON or
    describes no model.
    """
    if not workdir.is_dir():
        raise FileNotFoundError(f"there is no run folder {str(workdir)!r}")
    try:
        config = json.loads((workdir / CONFIG).read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{str(workdir)!r} holds no {CONFIG}; is it the folder of a training run?"
        ) from None
    except ValueError as error:
        raise ValueError(f"{workdir / CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise ValueError(f'{workdir / CONFIG} describes no "model", so its parameters cannot be used')
    return config


def as_json(config: Config) -> dict[str, Any]:
    """A configuration as JSON has it: numbers, strings, lists and dictionaries."""
    return json.loads(json.dumps(_plain(config), default=str))


def _plain(part: Any, fixed: frozenset[str] = frozenset()) -> Any:
    """A part of a configuration as dictionaries; of a network, the fields that are flags."""
    if not dataclasses.is_dataclass(part):
        return part
    fields = _fields(part, fixed)
    no_flags = fixed_fields(type(part))
    return {f.name: _plain(getattr(part, f.name), no_flags.get(f.name, frozenset())) for f in fields}


def _fields(part: Any, fixed: frozenset[str]) -> tuple[dataclasses.Field[Any], ...]:
    return flag_fields(type(part), fixed) if isinstance(part, nn.Module) else dataclasses.fields(part)


def _defaults(config: Any, fixed: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The default, as JSON has it, of every field that has one: as it was before the field existed."""
    values: dict[str, Any] = {}
    no_flags = fixed_fields(type(config))
    for field in _fields(config, fixed):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            # A network's fields are as the configuration has them by default.
            value = field.default if isinstance(field.default, nn.Module) else value
            values[field.name] = _defaults(value, no_flags.get(field.name, frozenset()))
        elif isinstance(config, nn.Module):
            values[field.name] = value
        elif field.default is not dataclasses.MISSING:
            values[field.name] = field.default
    return json.loads(json.dumps(values, default=str))


def _with_names(stored: dict[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """A stored configuration whose fields have the names of this version."""
    found = json.loads(json.dumps(stored))
    for before, now in renamed.items():
        *outer, last = before.split(".")
        holder = functools.reduce(lambda part, name: part.get(name, {}), outer, found)
        if last in holder:
            value = holder.pop(last)
            *outer, last = now.split(".")
            functools.reduce(lambda part, name: part.setdefault(name, {}), outer, found)[last] = value
    return found


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


def with_stored(
    experiment: str, presets: Mapping[str, ConfigT], arguments: list[str]
) -> tuple[Mapping[str, ConfigT], str | None]:
    """With --resume: presets with the fields that the run folder was made with, and its preset's name.

    As they were and None without --resume or a run folder of this experiment, named as "experiments.vae".
    """
    if "--resume" not in arguments:
        return presets, None
    named = arguments[0] if not arguments[0].startswith("-") else "default"
    workdir = pathlib.Path("runs") / experiment.rpartition(".")[2] / named
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == "--workdir" or word.startswith("--workdir="):
            workdir = pathlib.Path(word.partition("=")[2] or following)
    try:
        stored = json.loads((workdir / CONFIG).read_text("utf-8"))
        if stored.get("experiment") != experiment or stored.get("preset") not in presets:
            return presets, None
        default = presets[stored["preset"]]
        config = _from_json(default, _with_names(stored["config"], default.RENAMED))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return presets, None  # `run` says what is wrong with the folder
    # The folder may have been copied or moved since.
    config = dataclasses.replace(config, workdir=workdir, resume=False, overwrite=False, debug=False)
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
        elif isinstance(value, list):
            value = _tuples(value)
        elif value is not None and pathlib.Path in (hints[field.name], *typing.get_args(hints[field.name])):
            value = pathlib.Path(value)
        values[field.name] = value
    return (
        default.clone(**values) if isinstance(default, nn.Module) else dataclasses.replace(default, **values)
    )


def _tuples(value: Any) -> Any:
    """JSON's lists as configurations have them."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
