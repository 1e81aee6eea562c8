"""The loop around a compiled step: metrics one interval late, evaluation, checkpoints, clean stops."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vaesr.training.checkpoint import Checkpoints
from vaesr.training.compile import Step
from vaesr.training.logging import MetricsWriter
from vaesr.training.state import TrainState

PyTree = Any


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite."""


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """When the loop does what; every interval is a multiple of `steps_per_dispatch`."""

    steps: int
    steps_per_dispatch: int = 1
    log_every: int = 100
    eval_every: int = 1000
    checkpoint_every: int = 1000
    # Stop after so many skipped updates in a row.
    max_skipped: int = 20

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "eval_every", "checkpoint_every"):
            value = getattr(self, name)
            if value < 1 or value % self.steps_per_dispatch:
                raise ValueError(
                    f"{name}={value} must be a positive multiple of "
                    f"steps_per_dispatch={self.steps_per_dispatch}."
                )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Validation metrics, and the score (larger is better) that the best checkpoint is chosen by."""

    metrics: Mapping[str, float]
    score: float | None = None


def fit(
    state: TrainState,
    step: Step,
    sources: Iterator[PyTree],
    config: LoopConfig,
    *,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    evaluate: Callable[[TrainState, int], Evaluation] | None = None,
    progress: bool = True,
    stop: threading.Event | None = None,
) -> tuple[TrainState, bool]:
    """Train from `state.step` to `config.steps`: `(state, finished)`, where False is after a signal.

    Metrics are averaged over each log interval and fetched one interval later, so no step waits for the host.
    SIGTERM, SIGHUP and the first Ctrl-C end the loop after the running dispatch with a checkpoint.

    The state is donated; `sources` gives what each call of `step` (from `compile_step`) gets, from
    `state.step` on. States are saved every `checkpoint_every` steps, at every evaluation and at the end;
    `evaluate`, `(state, step) -> Evaluation`, is called every `eval_every` steps and at the end. `progress`
    shows a bar (where tqdm is installed) on the first process. `stop`, from `stop_on_signals`, is set when a
    signal asked for the end; entered here by default. NonFiniteError after `max_skipped` skipped updates in a
    row; the last checkpoint is still good. ValueError if `state.step` is no multiple of `steps_per_dispatch`.
    """
    done = start = int(state.step)
    if start % config.steps_per_dispatch:
        raise ValueError(
            f"steps_per_dispatch={config.steps_per_dispatch} must divide the step to go on from, {start}."
        )
    agree = _agree if jax.process_count() == 1 else _Vote()
    log = _IntervalLog(writer, config.max_skipped)
    bar = _progress_bar(start, config.steps, progress and jax.process_index() == 0)
    signals = stop_on_signals() if stop is None else contextlib.nullcontext(stop)
    with signals as stop, contextlib.closing(bar):
        if stop.is_set() and jax.process_count() == 1:  # it came while the step was being compiled, say
            return state, False
        while done < config.steps:
            state, metrics = step(state, next(sources))
            done += config.steps_per_dispatch
            log.add(metrics)
            bar.update(config.steps_per_dispatch)
            last = done >= config.steps
            if done % config.log_every == 0 or last:
                bar.set_postfix_str(log.rotate(done))
            stopping = agree(stop.is_set(), done % config.log_every == 0)
            evaluation = None
            # Also when stopping: the resumed run would not come back to this step.
            if evaluate is not None and (last or done % config.eval_every == 0):
                log.flush(done)
                evaluation = evaluate(state, done)
                writer.write(done, "validation", evaluation.metrics)
            if evaluation is not None or last or stopping or done % config.checkpoint_every == 0:
                log.flush(done)
                checkpoints.save(state, step=done, score=evaluation.score if evaluation else None)
            if stopping:
                checkpoints.wait()
                return state, False
    log.flush(done)
    checkpoints.wait()
    return state, True


class _IntervalLog:
    """Collects device metrics and writes each interval's mean when the next one has ended."""

    def __init__(self, writer: MetricsWriter, max_skipped: int) -> None:
        self._writer = writer
        self._max_skipped = max_skipped
        self._current: list[dict[str, jax.Array]] = []
        self._queued: tuple[int, list[dict[str, jax.Array]]] | None = None

    def add(self, metrics: dict[str, jax.Array]) -> None:
        self._current.append(metrics)

    def rotate(self, step: int) -> str:
        """End the interval at `step`; returns a line about the one before it."""
        text = self._write_queued()
        self._queued, self._current = (step, self._current), []
        return text

    def flush(self, step: int) -> None:
        if self._current:
            self.rotate(step)
        self._write_queued()

    def _write_queued(self) -> str:
        if self._queued is None or not self._queued[1]:
            return ""
        step, queued = self._queued
        self._queued = None
        rows = jax.device_get(queued)
        values = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        moved = {name: v[_moved(name, values)] for name, v in values.items()}
        means = {name: float(np.mean(v, dtype=np.float64)) for name, v in moved.items() if len(v)}
        self._writer.write(step, "train", means)
        if values["skipped_run"].max() >= self._max_skipped:
            raise NonFiniteError(
                f"the loss or gradient was not finite in {int(values['skipped_run'].max())} steps in a row, "
                f"up to step {step}; those updates were skipped and the last checkpoint is good. "
                "Lower optim.lr, set optim.clip_norm, or use --dtype float32."
            )
        return f"loss {means['loss']:.4g}" if "loss" in means else ""


def _moved(name: str, values: Mapping[str, np.ndarray]) -> np.ndarray | slice:
    """The steps in which a metric's player moved, where players take turns (`Player.turn`)."""
    player, _, metric = name.rpartition("/")
    moved = values.get(f"{player}/moved" if player else "moved")
    return slice(None) if moved is None or metric == "moved" else moved > 0


def _agree(flag: bool, may_ask: bool) -> bool:
    """Whether to stop, in a run of one process: its own flag."""
    return flag


class _Vote:
    """Whether to stop, in a run of several processes: when any of them wants to, all do at the same step.

    Each question is answered at the next one, when the answer has long arrived: no step waits for it.
    """

    def __init__(self) -> None:
        mesh = Mesh(np.array(jax.devices()), ("all",))
        self._spread = NamedSharding(mesh, PartitionSpec("all"))
        self._count = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._pending: jax.Array | None = None

    def __call__(self, flag: bool, may_ask: bool) -> bool:
        if not may_ask:
            return False
        answer = self._pending is not None and bool(self._pending.addressable_data(0) > 0)
        flags = np.full(jax.local_device_count(), flag, np.int32)
        self._pending = self._count(jax.make_array_from_process_local_data(self._spread, flags))
        return answer


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Turn SIGTERM, SIGHUP and the first SIGINT into an event; a second SIGINT interrupts at once.

    SIGHUP, which a closed terminal sends, stays ignored where `nohup` made it so. The event is never set
    outside the main thread, which alone may handle signals.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    taken = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        taken.append(signal.SIGHUP)
    previous = {number: signal.signal(number, handle) for number in taken}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _NoBar:
    """Stands in for tqdm where it is not installed or not wanted."""

    def update(self, count: int) -> None: ...

    def set_postfix_str(self, text: str) -> None: ...

    def close(self) -> None: ...


def _progress_bar(start: int, steps: int, enabled: bool) -> Any:
    if not enabled:
        return _NoBar()
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar()
    return tqdm(initial=start, total=steps, unit="step", dynamic_ncols=True, mininterval=0.5)
