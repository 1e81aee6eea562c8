"""Checkpoints: asynchronous, atomic, exact; the only file that knows Orbax."""

import contextlib
import itertools
import json
import logging
import math
import pathlib
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal, Self

import jax
import numpy as np

from vaesr.files.digests import digest, first_changed
from vaesr.training.runtime import from_first_process
from vaesr.training.state import TrainState

PyTree = Any
DIRECTORY = "checkpoints"
# What is read may be so many times as large as its files.
_GROWTH, _SPARE = 64, 1 << 28
_REMEDY = "Put a copy back; its training, resumed, goes on from one that is whole."
_HASHES, _TEMPORARY = "hashes.json", "orbax-checkpoint-tmp"


def _orbax() -> Any:
    """Imported when first used: who enlarges photos with a file of weights need not wait for it."""
    import orbax.checkpoint

    return orbax.checkpoint


def _pack(state: TrainState) -> dict[str, PyTree]:
    """The state as a plain tree; typed keys become their raw words."""
    tree = {name: getattr(state, name) for name in state.__dataclass_fields__}
    if isinstance(state.key, jax.ShapeDtypeStruct):
        shape = jax.eval_shape(jax.random.key_data, state.key)
        tree["key"] = jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=state.key.sharding)
    else:
        tree["key"] = jax.random.key_data(state.key)
    return tree


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide Orbax's remarks about what we asked for: read-only folders, saves without metrics."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _score(metrics: Any) -> float:
    return float(metrics["score"])


def _damage(folder: pathlib.Path, part: str = "") -> str:
    """The first file of a checkpoint that is not as it was written; "" where all are, or nothing is known.

    `part` is what the names of the files that count begin with.
    """
    try:
        hashes = json.loads((folder / _HASHES).read_text())
    except FileNotFoundError:  # of a version before there were hashes
        return ""
    except (OSError, ValueError):
        return _HASHES
    if not isinstance(hashes, dict):
        return _HASHES
    return first_changed(folder, {name: known for name, known in hashes.items() if name.startswith(part)})


def _all_damaged(directory: pathlib.Path, step: int, name: str) -> str:
    return (
        f"every checkpoint of {directory.parent} is damaged, the latest in {step}/{name}: put a copy back, "
        "or begin anew with --overwrite."
    )


def _alone() -> dict[str, Any]:
    """Orbax's options of a process that waits for no other one."""
    if jax.process_count() == 1:
        return {}
    own, ocp = jax.process_index(), _orbax()
    return {
        "multiprocessing_options": ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"alone_{own}"
        )
    }


class Checkpoints:
    """The checkpoints of one run folder: the two latest and the best are kept.

    Saving blocks only for the copy to host memory. A checkpoint is written under a temporary name, with the
    hashes of its files, and renamed when complete, so a killed process never leaves half of one in its place,
    and what a disk changes later is noticed.
    """

    def __init__(self, run_dir: str | pathlib.Path, *, read_only: bool = False) -> None:
        """Open (or create) `run_dir/checkpoints`; `read_only` creates and cleans nothing.

        ValueError if no score is as it was written (`read_only`: if one is not), or Orbax can't read it.
        """
        ocp = _orbax()
        policies = ocp.checkpoint_managers
        # Whoever only reads does it alone: other processes may be doing something else.
        alone = _alone() if read_only else {}
        options = ocp.CheckpointManagerOptions(
            # `best_fn` with `max_to_keep` would delete the latest step when an older one is better.
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(2),  # one to fall back to
                    policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False),
                ]
            ),
            best_fn=_score,  # without it the manager writes no metrics
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_hashes),
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            **alone,
        )
        self._directory = pathlib.Path(run_dir).absolute() / DIRECTORY
        self._check_scores(read_only)
        try:
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        except (
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
        ) as error:  # of what it notes beside its items
            words = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{self._directory} can't be read: {words} If a STEP/_CHECKPOINT_METADATA in it is damaged, "
                "delete that file, which nothing else needs."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_scores(self, read_only: bool) -> None:
        """Scores are read by whoever opens the folder, of all checkpoints."""
        problem = ""
        if read_only or jax.process_index() == 0:
            steps = [folder for folder in self._directory.glob("*") if folder.name.isdigit()]
            damaged = [(int(folder.name), name) for folder in steps if (name := _damage(folder, "metrics"))]
            if damaged and read_only:
                step, name = damaged[0]
                where = f"checkpoint {step} of {self._directory.parent}"
                problem = f"{where} is damaged: {name} is not as it was written. {_REMEDY}"
            elif damaged and len(damaged) == len(steps):
                problem = _all_damaged(self._directory, *max(damaged))
            elif damaged:
                for step, name in damaged:
                    self._put_aside(step, name)
        problem = problem if read_only else from_first_process(problem)
        if problem:
            raise ValueError(problem)

    def _put_aside(self, step: int, name: str) -> None:
        names = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        free = (self._directory / f"{step}.damaged{name}" for name in names)
        where = next(path for path in free if not path.exists())
        print(f"note: checkpoint {step} is damaged ({name}) and is called {where} now.", file=sys.stderr)
        (self._directory / str(step)).rename(where)

    def _write_hashes(self) -> None:
        """Beside what is written now, in the thread that writes it, before it gets its name."""
        if jax.process_index():
            return
        for folder in self._directory.glob(f"*{_TEMPORARY}*"):
            # What Orbax notes beside its items it completes later.
            files = [path for path in folder.glob("*/**/*") if path.is_file()]
            hashes = {path.relative_to(folder).as_posix(): digest(path) for path in files}
            (folder / _HASHES).write_text(json.dumps(hashes, indent=1))

    def save(self, state: TrainState, *, step: int, score: float | None = None) -> None:
        """Start saving a state, which may be donated as soon as this returns.

        `score` is what "best" is judged by, larger is better; None or NaN: not a candidate.
        """
        if step in self._manager.all_steps():
            return
        metrics = None if score is None or not math.isfinite(score) else {"score": score}
        with _quiet(), self._telling():  # quiet about the checkpoints that have no score
            self._manager.save(step, args=_orbax().args.StandardSave(_pack(state)), metrics=metrics)

    def restore(self, state: TrainState, shardings: PyTree, *, step: int | None = None) -> TrainState:
        """Restore a state bit for bit, onto any mesh; by default the latest that is as it was written.

        `state` gives structure and shapes, as from `jax.eval_shape`; `shardings`, a tree like it, says where
        each leaf goes. A damaged one is put aside, and a note says so. FileNotFoundError if there is no such
        checkpoint, ValueError if all are damaged.
        """
        step = self._newest_good() if step is None else step
        if step is None or step not in self._manager.all_steps():
            raise FileNotFoundError(
                f"no checkpoint {'at all' if step is None else step} in {self._directory}."
            )
        placed = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            state,
            shardings,
        )
        with _understanding(f"checkpoint {step} of {self._directory.parent}"):
            tree = self._manager.restore(step, args=_orbax().args.StandardRestore(_pack(placed)))
        tree["key"] = jax.random.wrap_key_data(tree["key"])
        return TrainState(**tree)

    def _newest_good(self) -> int | None:
        """The step to go on from, the same in all processes; damaged ones get another name."""
        found, damaged = None, []
        if jax.process_index() == 0:
            for step in sorted(self._manager.all_steps(), reverse=True):
                name = _damage(self._directory / str(step))
                if not name:
                    found = step
                    break
                damaged.append((step, name))
            if found is not None:
                for step, name in damaged:
                    self._put_aside(step, name)
                if damaged:
                    print(f"note: going on from checkpoint {found}.", file=sys.stderr)
        report = from_first_process(json.dumps({"found": found, "damaged": damaged[:1]}))
        if json.loads(report)["damaged"]:
            if json.loads(report)["found"] is None:
                raise ValueError(_all_damaged(self._directory, *json.loads(report)["damaged"][0]))
            self._manager.reload()
        return json.loads(report)["found"]

    @property
    def latest(self) -> int | None:
        """The newest complete checkpoint's step."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step of the best score; the latest where no checkpoint has a score."""
        scores = {step: self._manager.metrics(step) for step in self._manager.all_steps()}
        scored = [step for step, metrics in scores.items() if metrics]
        return max(scored, key=lambda step: (_score(scores[step]), step)) if scored else self.latest

    def wait(self) -> None:
        """Block until every started save is complete; OSError where it can't be."""
        with self._telling():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish what is being saved and stop the background threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """What goes wrong in writing is the disk's doing, in whatever words."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise OSError(
                f"a checkpoint could not be written into {self._directory}: {reason}. Those before it are "
                "whole; make room, and go on with --resume."
            ) from error


def restore_params(
    run_dir: str | pathlib.Path, which: Literal["best", "latest"] = "best"
) -> tuple[dict[str, PyTree], PyTree, int]:
    """Read a run's parameters as numpy arrays, whatever devices wrote them: `(params, variables, step)`.

    `which` is "best" (by the run's own criterion) or "latest". `params = {player: tree}` is the moving
    average where one was kept. FileNotFoundError if the folder has no complete checkpoint, ValueError if that
    one is not as it was written.
    """
    if which not in ("best", "latest"):
        raise ValueError(f'which must be "best" or "latest", got {which!r}.')
    directory = pathlib.Path(run_dir).absolute() / DIRECTORY
    if not directory.is_dir():
        raise FileNotFoundError(f"{run_dir} holds no {DIRECTORY}/; is it the folder of a training run?")
    with _quiet(), Checkpoints(run_dir, read_only=True) as checkpoints:
        step = getattr(checkpoints, which)
    if step is None:
        raise FileNotFoundError(f"{directory} holds no complete checkpoint; train for longer.")
    if name := _damage(directory / str(step)):
        raise ValueError(
            f"checkpoint {step} of {run_dir} is damaged: {name} is not as it was written. {_REMEDY}"
        )
    what = f"checkpoint {step} of {run_dir}"
    with _understanding(what):
        return *_read_params(directory / str(step), what), step


@contextlib.contextmanager
def _understanding(what: str) -> Iterator[None]:
    """Whatever others' files make Orbax raise is a ValueError; the memory's limits are not."""
    _hush_late_answers()
    try:
        yield
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"{what} can't be read: {words}.") from error


def _hush_late_answers() -> None:
    """TensorStore answers what Orbax asked after that has given up: Python would print tracebacks of it."""
    before = sys.unraisablehook

    def hook(found: Any) -> None:
        if not (isinstance(found.exc_value, RuntimeError) and "Event loop is closed" in str(found.exc_value)):
            before(found)

    if getattr(before, "__qualname__", "") != hook.__qualname__:
        sys.unraisablehook = hook


def _read_params(folder: pathlib.Path, what: str) -> tuple[dict[str, PyTree], PyTree]:
    """Parameters and variables of one checkpoint, of whose numbers no more are made than its files hold."""
    ocp = _orbax()
    with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**_alone()), **_alone()) as reader:
        path = folder / "default"
        saved = reader.metadata(path).item_metadata.tree
        wanted = {name: saved[name] for name in ("params", "ema", "variables") if saved.get(name) is not None}
        claimed = sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(wanted))
        stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if claimed > _SPARE + _GROWTH * stored:  # zeros are stored as nothing, but networks aren't all zeros
            raise ValueError(f"{what} claims {claimed} bytes and has {stored}.")
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        tree = reader.restore(
            path,
            args=ocp.args.PyTreeRestore(item=wanted, restore_args=restore_args, partial_restore=True),
        )
    return tree.get("ema") or tree["params"], tree.get("variables") or {}
