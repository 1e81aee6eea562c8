"""The timing protocol, with sides that only count what is asked of them."""

import math
import statistics
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import timing


class _Counter:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def run(self, calls):
        self.log.append((self.name, calls))


def _side(log, name, **fields):
    return timing.Side(name, name, _Counter(log, name).run, images_per_step=1, **fields)


def test_quantiles_equal_numpy():
    values = np.random.default_rng(0).random(13).tolist()
    for fraction in (0.0, 0.25, 0.5, 0.9, 1.0):
        assert math.isclose(timing.quantile(values, fraction), np.quantile(values, fraction))
    assert timing.quantile([3.0], 0.25) == 3.0


def test_summary():
    summary = timing.summarise([1.0, 1.0, 1.0, 1.2])
    assert summary["median"] == statistics.median([1.0, 1.0, 1.0, 1.2])
    assert summary["min"] == 1.0
    assert summary["n"] == 4
    assert summary["noisy"] == (summary["iqr"] > 0.03)
    assert summary["noisy"]


def test_blocks_are_interleaved_there_and_back():
    assert timing.visiting_order(["A", "B"], 2) == ["A", "B", "B", "A"]
    assert timing.visiting_order(["A", "B", "C"], 2) == ["A", "B", "C", "C", "B", "A"]


@pytest.mark.slow
def test_measure_visits_and_counts_steps(monkeypatch):
    log = []
    monkeypatch.setattr(timing, "calls_for", lambda run, seconds: 3)
    sides = [_side(log, "A", steps_per_call=5), _side(log, "B")]
    results = timing.measure(sides, timing.Plan(samples=4, sample_s=0.0, warmup=7, visits=2))
    assert log[:2] == [("A", 7), ("B", 7)]
    blocks = [(name, calls) for name in "ABBA" for calls in (1, 3, 3)]
    assert log[2:] == blocks
    assert {len(r.wall_s) for r in results.values()} == {4}
    assert {len(r.cpu_s) for r in results.values()} == {4}


def test_the_time_of_started_processes_counts():
    before = timing._cpu_time()
    subprocess.run([sys.executable, "-S", "-c", "sum(range(5_000_000))"], check=True)
    assert timing._cpu_time() - before > 0.02


@pytest.mark.slow
def test_long_calls_are_made_only_to_be_timed():
    log = []
    sides = [_side(log, "A"), _side(log, "B")]
    results = timing.measure(sides, timing.Plan(samples=2, warmup=0, visits=2))
    assert log == [(name, 1) for name in "ABBA"]
    assert {(len(r.wall_s), r.calls_per_sample) for r in results.values()} == {(2, 1)}
    log.clear()
    timing.measure(sides, timing.Plan(samples=1, warmup=0, visits=1))
    assert log == [("A", 1), ("B", 1)]


def test_calls_grow_until_a_sample_is_long_enough(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def run(calls):
        now[0] += 0.004 * calls

    assert timing.calls_for(run, 0.2) * 0.004 >= 0.2
    assert timing.calls_for(run, 0.2) < 100
    assert timing.calls_for(lambda calls: None, 0.2, most=1000) == 1000


def test_bad_plans_and_names_are_refused():
    with pytest.raises(ValueError, match="even number of visits"):
        timing.Plan(visits=3)
    with pytest.raises(ValueError, match="samples >= 2"):
        timing.Plan(samples=1, visits=1)
    with pytest.raises(ValueError, match="distinct names"):
        timing.measure([_side([], "A"), _side([], "A")], timing.SMOKE)
