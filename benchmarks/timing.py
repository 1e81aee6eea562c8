"""How time is taken: warm-up, samples of chained steps, and interleaved blocks of the sides compared.

A *side* is one implementation of a piece of work. Sides of one case are measured in blocks A-B-B-A
(A-B-C-C-B-A for three), so that a machine that slows down slows all of them. One sample is a run of
chained steps that ends in a single wait. Both clocks are kept: the wall clock, and the CPU time of all
threads of the process and of those that it started, which is the one to trust where other work shares the
cores.

Source: the protocol of the project's performance reference, section 9 (after Tokamax, asv and torchbench).
"""

import dataclasses
import gc
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

NOISY = 0.03  # IQR over median above which a row is flagged


@dataclasses.dataclass
class Side:
    """One implementation under measurement.

    Attributes:
        name: what the table prints, e.g. `torch eager channels_last`.
        framework: `vaesr`, or the peer's name.
        run: `run(n)` makes n calls, each depending on the one before, and returns when all are done.
        steps_per_call: training steps (or batches) in one call.
        images_per_step: examples in one step; megapixels in the suite `tiles`.
        work_per_step: floating point operations in one step, from `flops.count` (or bytes, see `unit`);
            None where it means nothing.
        unit: of `work_per_step`, "FLOP" or "B".
        compile_s: seconds spent before the first step, by phase.
        memory_bytes: peak memory of one call, where the framework tells.
        check: called after the timing; returns facts such as `{"loss_finite": True}`.
        note: a remark for the table's foot.
        close: called when the case is done, to end threads.
    """

    name: str
    framework: str
    run: Callable[[int], None]
    images_per_step: float
    steps_per_call: int = 1
    work_per_step: float | None = None
    unit: str = "FLOP"
    compile_s: dict[str, float] = dataclasses.field(default_factory=dict)
    memory_bytes: int | None = None
    check: Callable[[], dict[str, Any]] | None = None
    note: str = ""
    close: Callable[[], None] | None = None


@dataclasses.dataclass
class Case:
    """Sides that do the same work, and what was found out about their equality before timing.

    Attributes:
        suite: the suite's name.
        name: the case's name, unique in the suite.
        sides: what is timed; the first is ours.
        parity: facts of the equality check, with `"passed"`; None where nothing was compared.
        absent: one `(side name, reason)` for each side that could not be built.
        long: whether a call takes seconds, so that a sample is one call, and few are taken.
        slow: whether it takes many, so that no call is spent on warmth.
    """

    suite: str
    name: str
    sides: list[Side]
    parity: dict[str, Any] | None = None
    absent: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    long: bool = False
    slow: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        samples: samples per side, at least 2; or 1, in one visit without warmup, where a call takes minutes.
        sample_s: the least seconds (of the wall clock) of one sample.
        warmup: calls before anything is timed. With 0 a sample is one call, and nothing else is run: for
            calls of minutes, of sides that have run before.
        visits: blocks per side; even, so that A-B-B-A is complete.
    """

    samples: int = 20
    sample_s: float = 0.2
    warmup: int = 10
    visits: int = 4

    def __post_init__(self) -> None:
        """Refuse plans that would measure nothing."""
        once = self.samples == self.visits == 1 and not self.warmup
        if not once and (self.samples < 2 or self.visits < 2 or self.visits % 2):
            raise ValueError(
                f"a plan needs samples >= 2 and an even number of visits >= 2; got samples={self.samples}, "
                f"visits={self.visits}"
            )


SMOKE = Plan(samples=4, sample_s=0.02, warmup=2, visits=2)


@dataclasses.dataclass
class Samples:
    """Seconds per step, one entry per sample, by both clocks."""

    wall_s: list[float] = dataclasses.field(default_factory=list)
    cpu_s: list[float] = dataclasses.field(default_factory=list)
    calls_per_sample: int = 1


def quantile(values: Sequence[float], fraction: float) -> float:
    """The quantile of at least one number, linear between neighbours; `fraction` is in [0, 1]."""
    return float(np.quantile(values, fraction))


def summarise(values: Sequence[float]) -> dict[str, float | int | bool]:
    """Median, interquartile range, minimum and count of seconds per step, at least one.

    `median`, `iqr`, `min`, `n`, and `noisy`: whether the IQR is over 3 % of the median.
    """
    median = quantile(values, 0.5)
    iqr = quantile(values, 0.75) - quantile(values, 0.25)
    return {"median": median, "iqr": iqr, "min": min(values), "n": len(values), "noisy": iqr > NOISY * median}


def calls_for(run: Callable[[int], None], seconds: float, *, most: int = 1_000_000) -> int:
    """How many chained calls, from 1 to `most`, fill one sample of so many seconds by the wall clock."""
    calls = 1
    while calls < most:
        start = time.perf_counter()
        run(calls)
        spent = time.perf_counter() - start
        if spent >= seconds:
            return calls
        # Aim a little over, but never grow by more than 10: the first call may have been a slow one.
        needed = math.ceil(1.1 * calls * seconds / max(spent, 1e-9))
        calls = min(most, max(calls + 1, min(10 * calls, needed)))
    return calls


def visiting_order(names: Sequence[str], visits: int) -> list[str]:
    """The order of blocks: forward, then backward, and so on (A-B-B-A); each name `visits` times."""
    order: list[str] = []
    for visit in range(visits):
        order.extend(names if visit % 2 == 0 else reversed(names))
    return order


def measure(sides: Sequence[Side], plan: Plan) -> dict[str, Samples]:
    """Time all sides of a case, interleaved; they have distinct names, and are compiled and ready.

    Per side's name the seconds per *step* of each sample.
    """
    by_name = {side.name: side for side in sides}
    if len(by_name) != len(sides):
        raise ValueError(f"sides of one case need distinct names; got {[side.name for side in sides]}")
    results = {}
    for side in sides:
        results[side.name] = Samples()
        if plan.warmup:
            side.run(plan.warmup)
            results[side.name].calls_per_sample = calls_for(side.run, plan.sample_s)
    per_visit = math.ceil(plan.samples / plan.visits)
    for name in visiting_order(list(by_name), plan.visits):
        if plan.warmup:
            by_name[name].run(1)  # untimed: the caches still hold the other side's data
        _block(by_name[name], results[name], per_visit)
        if not plan.warmup:  # minutes each: what is measured is told at once
            print(f"    {name}: {results[name].cpu_s[-1]:.1f} s of CPU", file=sys.stderr, flush=True)
    return results


def _cpu_time() -> float:
    """CPU seconds of this process and of those that it started and that have ended."""
    if resource is None:
        return time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _block(side: Side, samples: Samples, count: int) -> None:
    """Take `count` samples of one side, without a garbage collection in between."""
    steps = samples.calls_per_sample * side.steps_per_call
    gc.collect()
    gc.disable()
    try:
        for _ in range(count):
            wall, cpu = time.perf_counter(), _cpu_time()
            side.run(samples.calls_per_sample)
            samples.cpu_s.append((_cpu_time() - cpu) / steps)
            samples.wall_s.append((time.perf_counter() - wall) / steps)
    finally:
        gc.enable()
