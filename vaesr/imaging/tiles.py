"""Tiling: a large image through a local network in pieces of one shape, without seams."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaesr.imaging._checks import check_positive_int

Progress = Callable[[int, int], Any]


class Span(NamedTuple):
    """One tile along one axis: it reads input `[start, stop)` and provides the results of `[first, last)`."""

    start: int
    stop: int
    first: int
    last: int


def plan_tiles(length: int, tile: int, halo: int) -> list[Span]:
    """Covers one axis with windows of one length, each trusted only away from its artificial edges.

    Windows have `tile + 2 * halo` pixels. The first and the last sit on the true borders, where the
    network's own padding is right and no halo is needed, so that an image is never padded: padding to a
    multiple is not exact, because biases and activations in the padded zone leak back. An axis no longer
    than a window is one span.

    Args:
        length: pixels along the axis.
        tile: pixels an inner tile provides.
        halo: distance in pixels from an artificial edge within which results are thrown away.

    Returns:
        Spans in order. All have the same `stop - start`; their `[first, last)` cover `[0, length)` once.

    Raises:
        ValueError: if `length` or `tile` is less than 1 or `halo` is negative.
    """
    length = check_positive_int(length, function="plan_tiles", argument="length")
    tile = check_positive_int(tile, function="plan_tiles", argument="tile")
    if isinstance(halo, bool) or int(halo) != halo or halo < 0:
        raise ValueError(f"plan_tiles: halo must be an integer of at least 0, but was {halo!r}.")
    window = min(length, tile + 2 * int(halo))
    spans: list[Span] = []
    first = 0
    while first < length:
        start = min(max(first - int(halo), 0), length - window)
        stop = start + window
        last = length if stop == length else stop - int(halo)
        spans.append(Span(start, stop, first, last))
        first = last
    return spans


def tiled_apply(
    fn: Callable[[np.ndarray], Any],
    image: np.ndarray | jax.Array,
    *,
    scale: int,
    tile: int | tuple[int, int],
    halo: int,
    feather: int = 0,
    multiple: int = 1,
    batch_size: int = 1,
    finish: Callable[[np.ndarray], np.ndarray] | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Applies a local image network tile by tile, with the result of applying it to the whole image.

    Exact for convolutional networks with SAME zero padding when `halo` is at least the network's receptive
    radius; networks with global pooling, attention or instance statistics have no such radius and cannot be
    tiled exactly. `fn` sees one shape per image, so a jitted one compiles once. The next batch is dispatched
    before the last one is copied out, so device and host work overlap; the full result only ever exists on
    the host.

    Args:
        fn: maps `[N, h, w, C]` to `[N, h * scale, w * scale, C']`; pass it jitted.
        image: `[H, W, C]`, any dtype `fn` takes.
        scale: whole upscaling factor of `fn`; 1 for restoration.
        tile: pixels an inner tile provides, of a side or (rows, columns); windows have `tile + 2 * halo`
            pixels, or the axis if it is shorter.
        halo: receptive radius of `fn` in input pixels; or less, where the radius is too large to afford and
            what the farthest pixels change is too little to see.
        feather: on both sides of a border of two tiles, as many input pixels pass gradually from one's result
            to the other's, so that a halo below the radius leaves no line. At most `halo`, and half of
            `tile`; results are float32 where it is used.
        multiple: `fn` cuts its input into squares of so many pixels (a pixel unshuffle): windows begin at
            their corners. Images of other sizes are mirrored at the bottom and the right, as `fn` itself must
            do to images that it is given whole.
        batch_size: tiles per call; the last batch is filled by repeating a tile.
        finish: what is done with results before they are kept, such as rounding them to 8 bits: the whole
            image then never exists as floats. Pixel by pixel.
        progress: called as `progress(done, total)` with numbers of tiles after each batch.

    Returns:
        `[H * scale, W * scale, C']` numpy array of `fn`'s output dtype, or of `finish`'s.

    Raises:
        ValueError: if a knob is out of range, the image is not `[H, W, C]`, or `fn` returns another shape.
    """
    if np.ndim(image) != 3:
        raise ValueError(f"tiled_apply takes one image [H, W, C], but was given shape {np.shape(image)}.")
    scale = check_positive_int(scale, function="tiled_apply", argument="scale")
    batch_size = check_positive_int(batch_size, function="tiled_apply", argument="batch_size")
    multiple = check_positive_int(multiple, function="tiled_apply", argument="multiple")
    sides = tile if isinstance(tile, tuple) else (tile, tile)
    tall, wide = (check_positive_int(side, function="tiled_apply", argument="tile") for side in sides)
    if multiple > 1:
        tall, wide, halo = (-(-n // multiple) * multiple for n in (tall, wide, halo))
    most = min(tall, wide) // 2
    if isinstance(feather, bool) or int(feather) != feather or not 0 <= feather <= min(halo, most):
        raise ValueError(
            f"tiled_apply: feather must be an integer from 0 to halo ({halo}) and half of tile "
            f"({most}), but was {feather!r}."
        )
    source = mirror_to_multiple(np.asarray(image), multiple)
    height, width, _ = source.shape
    rows = plan_tiles(height, tall, halo)
    columns = plan_tiles(width, wide, halo)
    spans = [(row, column) for row in rows for column in columns]

    keep = _Canvas((height, width), scale, feather, finish or (lambda out: out))
    done = 0
    for group, result in _one_ahead(fn, source, spans, min(batch_size, len(spans))):
        _check_result(result, len(group), group[0], scale)
        # The filling of the last batch is left out.
        for (row, column), out in zip(group, np.asarray(result), strict=False):
            keep.add(row, column, out)
        done += len(group)
        if progress is not None:
            progress(done, len(spans))
    return keep.finished()[: np.shape(image)[0] * scale, : np.shape(image)[1] * scale]


class _Canvas:
    """Puts windows' results together, row of tiles by row of tiles; only one of them is held unfinished."""

    def __init__(
        self, size: tuple[int, int], scale: int, feather: int, finish: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self.size, self.scale, self.feather, self.finish = size, scale, feather, finish
        self.target: np.ndarray | None = None
        # Where results are blended: their weighted sums, of which window row, and how many rows are finished.
        self.sums: np.ndarray | None = None
        self.row: Span | None = None
        self.done = 0

    def add(self, row: Span, column: Span, out: np.ndarray) -> None:
        """Takes a window's result; windows come row by row."""
        if not self.feather:
            part = out[_slice(row, self.scale, row.start), _slice(column, self.scale, column.start)]
            self._keep(_slice(row, self.scale), _slice(column, self.scale), part)
            return
        if row is not self.row:
            self._begin(row, out.shape[-1])
        assert self.sums is not None
        down = _ramp(row, self.size[0], self.feather, self.scale)
        across = _ramp(column, self.size[1], self.feather, self.scale)
        place = slice(column.start * self.scale, column.stop * self.scale)
        self.sums[:, place] += out * (down[:, None] * across)[..., None]

    def finished(self) -> np.ndarray:
        """The whole image."""
        if self.row is not None:
            self._flush(self.row.stop)
        assert self.target is not None
        return self.target

    def _begin(self, row: Span, channels: int) -> None:
        """Finishes what the windows of the new row don't reach, and carries the rest over to them."""
        shape = ((row.stop - row.start) * self.scale, self.size[1] * self.scale, channels)
        sums = np.zeros(shape, np.float32)
        if self.row is not None and self.sums is not None:
            self._flush(self.row.last - self.feather)
            shared = max(0, self.row.stop - row.start) * self.scale
            if shared:
                sums[:shared] = self.sums[-shared:]
        self.row, self.sums = row, sums

    def _flush(self, until: int) -> None:
        assert self.row is not None and self.sums is not None
        begin, end = ((n - self.row.start) * self.scale for n in (self.done, until))
        rows = slice(self.done * self.scale, until * self.scale)
        self._keep(rows, slice(0, self.size[1] * self.scale), self.sums[begin:end])
        self.done = until

    def _keep(self, rows: slice, columns: slice, part: np.ndarray) -> None:
        part = self.finish(part)
        if self.target is None:
            height, width = (n * self.scale for n in self.size)
            self.target = np.empty((height, width, part.shape[-1]), part.dtype)
        self.target[rows, columns] = part


def mirror_to_multiple(image: Any, multiple: int) -> Any:
    """Mirrors NumPy's or JAX's `[..., H, W, C]` at the bottom and the right, to a multiple of pixels a side.

    The last row and column are not repeated, unless there are too few to mirror.
    """
    sides = image.shape[-3:-1]
    missing = [-n % multiple for n in sides]
    if not any(missing):
        return image
    mode = "reflect" if min(sides) > max(missing) else "edge"
    pad: Any = np.pad if isinstance(image, np.ndarray) else jnp.pad
    around = [(0, 0)] * (image.ndim - 3) + [(0, n) for n in missing] + [(0, 0)]
    return pad(image, around, mode=mode)


def _one_ahead(
    fn: Callable[[np.ndarray], Any], source: np.ndarray, spans: list[tuple[Span, Span]], batch_size: int
) -> Iterator[tuple[list[tuple[Span, Span]], Any]]:
    """Yields groups of spans with their results, always keeping one more call in flight."""
    pending: tuple[list[tuple[Span, Span]], Any] | None = None
    for begin in range(0, len(spans), batch_size):
        group = spans[begin : begin + batch_size]
        filled = group + group[-1:] * (batch_size - len(group))
        batch = np.stack([source[row.start : row.stop, column.start : column.stop] for row, column in filled])
        current = (group, fn(batch))
        if pending is not None:
            yield pending
        pending = current
    if pending is not None:
        yield pending


def _check_result(result: Any, count: int, span: tuple[Span, Span], scale: int) -> None:
    height, width = ((s.stop - s.start) * scale for s in span)
    shape = np.shape(result)
    if len(shape) != 4 or shape[0] < count or shape[1:3] != (height, width):
        raise ValueError(
            f"tiled_apply: fn must return [N, {height}, {width}, C] at scale {scale}, but returned {shape}."
        )


def _ramp(span: Span, length: int, feather: int, scale: int) -> np.ndarray:
    """The weights of a window's results along an axis of `length`: with its neighbours' they add up to 1."""
    place = (np.arange((span.stop - span.start) * scale, dtype=np.float32) + 0.5) / scale + span.start
    up = (place - span.first) / (2 * feather) + 0.5 if span.first > 0 else np.ones_like(place)
    down = (span.last - place) / (2 * feather) + 0.5 if span.last < length else np.ones_like(place)
    return np.clip(up, 0, 1) * np.clip(down, 0, 1)


def _slice(span: Span, scale: int, origin: int = 0) -> slice:
    """Returns where the trusted part of a span lies in an array that begins at input pixel `origin`."""
    return slice((span.first - origin) * scale, (span.last - origin) * scale)
