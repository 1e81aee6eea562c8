"""The loop: intervals, late metrics, resuming, signals, the stop after too many skipped updates."""

import itertools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaesr.objectives import Aux
from vaesr.reports import read_metrics
from vaesr.training import (
    Checkpoints,
    Evaluation,
    LoopConfig,
    MetricsWriter,
    NonFiniteError,
    Player,
    compile_step,
    create_state,
    fit,
    make_mesh,
    make_train_step,
    state_shardings,
    stop_on_signals,
)


def objective(params, variables, batch, *, key, step):
    target = jax.random.normal(key, (4,))
    loss = jnp.square(params["m"] - target).mean() + batch["x"].mean() * 0
    return loss, Aux({"number": step.astype(jnp.float32)}, variables)


PLAYERS = {"m": Player(objective, optax.adam(0.01))}


class Runner:
    """One run folder, trained in one or several goes."""

    def __init__(self, folder, poison_from=None):
        self.folder, self.poison_from = folder, poison_from
        self.mesh = make_mesh(devices=jax.devices()[:1])
        self.create = lambda key: create_state(lambda k: ({"m": jnp.zeros(4)}, {}), PLAYERS, key=key)
        self.evaluated = []

    def sources(self, start):
        for number in itertools.count(start):
            bad = self.poison_from is not None and number >= self.poison_from
            yield {"x": np.full(2, np.nan if bad else 0.0, np.float32)}
            if number == getattr(self, "signal_at", None):
                os.kill(os.getpid(), getattr(self, "signal", signal.SIGTERM))

    def go(self, stop=None, **config):
        shapes = jax.eval_shape(self.create, jax.random.key(0))
        shardings = state_shardings(shapes, self.mesh)
        with Checkpoints(self.folder) as checkpoints:
            if checkpoints.latest is None:
                state = jax.jit(self.create, out_shardings=shardings)(jax.random.key(0))
            else:
                state = checkpoints.restore(shapes, shardings)
            start = int(state.step)
            step = compile_step(make_train_step(PLAYERS), self.mesh, state=shapes)

            def evaluate(state, step):
                self.evaluated.append(step)
                return Evaluation({"value": 1.0 / step}, 1.0 / step)

            with MetricsWriter(self.folder, resume_step=start) as writer:
                return fit(
                    state, step, self.sources(start), LoopConfig(**config),
                    checkpoints=checkpoints, writer=writer, evaluate=evaluate, progress=False, stop=stop,
                )  # fmt: skip


def test_intervals_rows_and_checkpoints(tmp_path):
    runner = Runner(tmp_path)
    state, finished = runner.go(steps=10, log_every=4, eval_every=5, checkpoint_every=3)
    assert finished and int(state.step) == 10 and runner.evaluated == [5, 10]
    rows = read_metrics(tmp_path)
    train = [(row["step"], row["number"]) for row in rows if row["split"] == "train"]
    # Each row is the mean since the row before it: steps 0-3, 4 (flushed for the evaluation), 5, ...
    numbers = np.concatenate(
        [np.repeat(n, s - p) for (s, n), (p, _) in zip(train, [(0, 0), *train], strict=False)]
    )
    assert len(numbers) == 10 and numbers.sum() == sum(range(10))
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert [(row["step"], row["value"]) for row in rows if row["split"] == "validation"] == [
        (5, 0.2),
        (10, 0.1),
    ]
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (10, 5)


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    config = {"log_every": 2, "eval_every": 4, "checkpoint_every": 2}
    whole, _ = Runner(tmp_path / "whole").go(steps=8, **config)
    Runner(tmp_path / "parts").go(steps=4, **config)
    parts, _ = Runner(tmp_path / "parts").go(steps=8, **config)
    np.testing.assert_array_equal(whole.params["m"], parts.params["m"])
    drop_time = lambda folder: [{k: v for k, v in r.items() if k != "time"} for r in read_metrics(folder)]
    assert drop_time(tmp_path / "whole") == drop_time(tmp_path / "parts")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_ends_cleanly(tmp_path, number):
    runner = Runner(tmp_path)
    runner.signal_at, runner.signal = 5, number
    before = signal.signal(number, signal.SIG_DFL)  # these tests may run under nohup
    try:
        state, finished = runner.go(steps=1000, log_every=100, eval_every=1000, checkpoint_every=1000)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert not finished and 6 <= int(state.step) <= 8
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == int(state.step)


def test_what_nohup_ignores_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_before_the_first_step_takes_none(tmp_path):
    runner = Runner(tmp_path)
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        state, finished = runner.go(stop=stop, steps=4, log_every=2, eval_every=4, checkpoint_every=4)
    assert not finished and int(state.step) == 0 and runner.evaluated == []


@pytest.mark.parametrize("steps", [4, 8])
def test_a_signal_on_an_evaluation_step_loses_nothing(tmp_path, steps):
    config = {"steps": steps, "log_every": 2, "eval_every": 4, "checkpoint_every": 4}
    whole, _ = Runner(tmp_path / "whole").go(**config)
    runner = Runner(tmp_path / "parts")
    runner.signal_at = 2  # arrives while the fourth step is under way
    state, finished = runner.go(**config)
    assert not finished and int(state.step) == 4 and runner.evaluated == [4]
    parts, finished = Runner(tmp_path / "parts").go(**config)
    assert finished
    np.testing.assert_array_equal(whole.params["m"], parts.params["m"])
    drop_time = lambda folder: [{k: v for k, v in r.items() if k != "time"} for r in read_metrics(folder)]
    assert drop_time(tmp_path / "whole") == drop_time(tmp_path / "parts")
    with Checkpoints(tmp_path / "parts") as checkpoints:
        assert checkpoints.best == 4


def test_a_dispatch_that_does_not_divide_the_resumed_step_is_refused(tmp_path):
    Runner(tmp_path).go(steps=3, log_every=1, eval_every=3, checkpoint_every=3)
    with pytest.raises(ValueError, match="steps_per_dispatch=2 must divide the step to go on from, 3"):
        Runner(tmp_path).go(steps=8, steps_per_dispatch=2, log_every=2, eval_every=4, checkpoint_every=4)


def test_stops_after_too_many_skipped_updates_and_keeps_the_last_good_checkpoint(tmp_path):
    config = {"steps": 100, "log_every": 5, "eval_every": 100, "checkpoint_every": 5, "max_skipped": 7}
    with pytest.raises(NonFiniteError, match=r"not finite in \d+ steps in a row, up to step \d+.*optim.lr"):
        Runner(tmp_path, poison_from=12).go(**config)
    good, _ = Runner(tmp_path).go(**config)
    assert np.isfinite(good.params["m"]).all() and int(good.step) == 100


def test_intervals_must_be_multiples_of_the_dispatch():
    with pytest.raises(ValueError, match="log_every=5 must be a positive multiple of steps_per_dispatch=2"):
        LoopConfig(steps=10, steps_per_dispatch=2, log_every=5, eval_every=10, checkpoint_every=10)


def test_writer_drops_rows_after_the_resumed_step_and_a_torn_line(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.write(step, "train", {"loss": float(step), "bad": float("nan")})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "spl')
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    # A page of the disk may be lost in the middle, too: what comes after it stays.
    (tmp_path / "metrics.jsonl").write_text("\n".join([lines[0], lines[0][:9], *lines[1:]]))
    with MetricsWriter(tmp_path, resume_step=2) as writer:
        writer.write(3, "train", {"loss": 9.0})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 2.0), (3, 9.0)]
    assert rows[0]["bad"] is None
    assert any((tmp_path / "tensorboard").iterdir())
