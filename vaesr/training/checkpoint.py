"""Checkpoints: asynchronous, atomic, exact; the only file that knows Orbax."""

import contextlib
import logging
import math
import pathlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from vaesr.training.state import TrainState

PyTree = Any
DIRECTORY = "checkpoints"


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


class Checkpoints:
    """The checkpoints of one run folder: the latest and the best are kept.

    Saving blocks only for the copy to host memory. A checkpoint is written under a temporary name and
    renamed when complete, so a killed process never leaves half of one in its place.
    """

    def __init__(self, run_dir: str | pathlib.Path, *, read_only: bool = False) -> None:
        """Open (or create) `run_dir/checkpoints`.

        Args:
            run_dir: the run folder.
            read_only: don't create or clean anything.
        """
        options = ocp.CheckpointManagerOptions(
            # `best_fn` with `max_to_keep` would delete the latest step when an older one is better.
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(1),
                    policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False),
                ]
            ),
            best_fn=_score,  # without it the manager writes no metrics
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
        )
        self._directory = pathlib.Path(run_dir).absolute() / DIRECTORY
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def save(self, state: TrainState, *, step: int, score: float | None = None) -> None:
        """Start saving a state.

        Args:
            state: the state; it may be donated as soon as this returns.
            step: its step number.
            score: what "best" is judged by, larger is better; None or NaN: not a candidate.
        """
        if step in self._manager.all_steps():
            return
        metrics = None if score is None or not math.isfinite(score) else {"score": score}
        with _quiet():  # about the checkpoints that have no score
            self._manager.save(step, args=ocp.args.StandardSave(_pack(state)), metrics=metrics)

    def restore(self, state: TrainState, shardings: PyTree, *, step: int | None = None) -> TrainState:
        """Restore a state, onto any mesh.

        Args:
            state: its structure and shapes, as from `jax.eval_shape`.
            shardings: where each leaf goes; a tree like `state`.
            step: the step; the latest by default.

        Returns:
            The saved state, bit for bit.

        Raises:
            FileNotFoundError: if there is no such checkpoint.
        """
        step = self.latest if step is None else step
        if step is None or step not in self._manager.all_steps():
            raise FileNotFoundError(
                f"no checkpoint {'at all' if step is None else step} in {self._directory}."
            )
        placed = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            state,
            shardings,
        )
        tree = self._manager.restore(step, args=ocp.args.StandardRestore(_pack(placed)))
        tree["key"] = jax.random.wrap_key_data(tree["key"])
        return TrainState(**tree)

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
        """Block until every started save is complete."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish what is being saved and stop the background threads."""
        self._manager.wait_until_finished()
        self._manager.close()


def restore_params(
    run_dir: str | pathlib.Path, which: Literal["best", "latest"] = "best"
) -> tuple[dict[str, PyTree], PyTree, int]:
    """Read a run's parameters as numpy arrays, whatever devices wrote them.

    Args:
        run_dir: a run folder.
        which: "best" (by the run's own criterion) or "latest".

    Returns:
        `(params, variables, step)`: `params = {player: tree}`, the moving average where one was kept.

    Raises:
        FileNotFoundError: if the folder has no complete checkpoint.
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
    with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        path = directory / str(step) / "default"
        saved = reader.metadata(path).item_metadata.tree
        wanted = {name: saved[name] for name in ("params", "ema", "variables") if saved.get(name) is not None}
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        tree = reader.restore(
            path,
            args=ocp.args.PyTreeRestore(item=wanted, restore_args=restore_args, partial_restore=True),
        )
    return tree.get("ema") or tree["params"], tree.get("variables") or {}, step
