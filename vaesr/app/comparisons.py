"""Comparisons of images, scored in batches of one shape while further ones are being decoded."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from vaesr.app.metric_names import Metric, measure_batch
from vaesr.app.status import Status

# Two images of one shape and remarks.
Loaded = tuple[np.ndarray, np.ndarray, list[str]]
# Decoded ahead of what is being scored.
_AHEAD = 16


@dataclasses.dataclass(frozen=True)
class Item:
    """One comparison: a unique name, and what reads both images.

    `size` is `(height, width)` as far as it is known without reading, to put equal ones together.
    """

    name: str
    load: Callable[[], Loaded]
    size: tuple[int, int]


@dataclasses.dataclass
class Measurement:
    """What came of one comparison: scores by the metrics' names, `(height, width)`, and remarks."""

    item: Item
    scores: dict[str, float]
    size: tuple[int, int]
    notes: list[str]


def measure_items(
    items: Sequence[Item],
    chosen: Sequence[Metric],
    *,
    failed: list[tuple[str, str]],
    threads: bool = True,
    on_error: Callable[[Exception], Any] | None = None,
) -> Iterator[Measurement]:
    """Scores comparisons, those of one shape in batches, while further ones are being decoded.

    Yields them with equal sizes together. `failed` gets the name and the reason of those that could not be
    read, `on_error` each exception as it is caught. `threads` decode; not for items that compute.
    """
    ordered = sorted(items, key=lambda item: item.size)
    waiting: list[tuple[Item, Loaded]] = []
    # The largest batch of the present shape: a smaller last one is filled up instead of compiled anew.
    compiled = 0
    with Status([item.size and item.size[0] * item.size[1] for item in ordered]) as status:
        for item, loaded in _load(ordered, threads):
            status.begin(item.name)
            if isinstance(loaded, Exception):
                failed.append((item.name, " ".join((str(loaded) or type(loaded).__name__).split())))
                if on_error:
                    on_error(loaded)
            else:
                if waiting and waiting[0][1][0].shape != loaded[0].shape:
                    yield from _score(waiting, chosen, compiled)
                    waiting, compiled = [], 0
                waiting.append((item, loaded))
                if len(waiting) >= _batch_size(loaded[0].shape):
                    compiled = len(waiting)
                    yield from _score(waiting, chosen, compiled)
                    waiting = []
            status.finish()
        if waiting:
            status.stage("the last ones")
            yield from _score(waiting, chosen, compiled)


def _batch_size(shape: Sequence[int]) -> int:
    pixels = 1 << (24 if jax.default_backend() != "cpu" else 20)
    return max(1, min(64, pixels // (shape[0] * shape[1])))


def _load(items: Sequence[Item], threads: bool) -> Iterable[tuple[Item, Loaded | Exception]]:
    def attempt(item: Item) -> Loaded | Exception:
        try:
            return item.load()
        except (ValueError, OSError, MemoryError, RuntimeError, ArithmeticError) as error:
            return error

    if not threads:
        yield from ((item, attempt(item)) for item in items)
        return
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(attempt, item) for item in items[:_AHEAD]]
        for number, item in enumerate(items):
            loaded = running[number].result()
            running[number] = None  # type: ignore[call-overload]
            if number + _AHEAD < len(items):
                running.append(pool.submit(attempt, items[number + _AHEAD]))
            yield item, loaded


def _score(
    waiting: Sequence[tuple[Item, Loaded]], chosen: Sequence[Metric], compiled: int
) -> Iterator[Measurement]:
    fill = max(0, compiled - len(waiting))
    stacks = [
        np.stack([loaded[side] for _, loaded in waiting] + [waiting[-1][1][side]] * fill) for side in (0, 1)
    ]
    scores, refused = measure_batch(chosen, *stacks)
    for row, (item, (reference, _, notes)) in enumerate(waiting):
        of_row = {name: float(values[row]) for name, values in scores.items()}
        size = (reference.shape[0], reference.shape[1])
        yield Measurement(item, of_row, size, [*notes, *(f"no {name}" for name in refused)])
