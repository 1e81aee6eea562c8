"""What upscaling needs to know of a network: its factor, its reach, its memory, and the tiles that follow."""

import functools
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

from vaesr.models import MultiScaleUpscaler, Upscaler
from vaesr.runs.load import Run, described

Apply = Callable[[Any], Any]
# Radii up to which tiles are exact, and the margin beyond.
_EXACT, _MARGIN = 96, 48
# Windows' sides are multiples of this, and what a tile provides is not narrower than that.
_EVEN, _LEAST = 8, 16
# Sides of square windows: a folder of any sizes compiles at most once for each.
_WINDOWS = (64, 96, 128, 192, 256, 384, 512, 768, 1024)


class BoundUpscaler(NamedTuple):
    """What upscaling needs to know of a network.

    Attributes:
        apply: maps `[N, h, w, 3]` in [0, 1] to `[N, h * scale, w * scale, 3]`.
        scale: its factor.
        halo: receptive radius in input pixels, or None where it sees the whole image.
        bytes_per_pixel: memory that one input pixel takes while it runs, roughly.
        multiple: tiles must begin at multiples of so many pixels.
        feather: pixels on both sides of a border of two tiles in which one's result passes into the other's.
        spread: makes `apply` run on all local devices, see `Run.spread`; None leaves it on one.
    """

    apply: Apply
    scale: int
    halo: int | None
    bytes_per_pixel: int = 4096
    multiple: int = 1
    feather: int = 0
    spread: Callable[[Literal["batch", "rows"]], Apply] | None = None


def bind_upscaler(run: Run, outscale: float | None = None) -> BoundUpscaler:
    """Looks at a run as an upscaler.

    Args:
        run: of a model with a `scale`, or with several `scales`.
        outscale: the factor that is wanted in the end. It chooses among several `scales` and must be one of
            them; None takes the largest. A model with one `scale` takes no notice of it.

    Returns:
        The network.

    Raises:
        ValueError: where the run's model is no upscaler, or lacks the scale.
    """
    with described(run.path):
        return _bound(run, outscale)


def _bound(run: Run, outscale: float | None) -> BoundUpscaler:
    model = run.model
    several = isinstance(model, MultiScaleUpscaler)
    if isinstance(model, MultiScaleUpscaler):
        scales = tuple(model.scales)
    elif isinstance(model, Upscaler):
        scales = (model.scale,)
    else:
        raise ValueError(
            f"{run.path} holds the network {type(model).__name__}; upscaling needs a super-resolution network"
        )
    if several and outscale is not None and outscale not in scales:
        *most, last = (f"{s}" for s in sorted(scales))
        words = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(
            f"{run.path} was trained for scale {words}, got {outscale:g}; choose one of its scales"
        )
    scale = int(outscale) if several and outscale is not None else max(scales)
    static: dict[str, Any] = {"scale": scale} if several else {}
    # As measured: some 6 maps of the trunk's width before the enlargement, and 3.5 after it where the network
    # computes on at that width.
    maps = 6 + (7 * scale**2 // 2 if model.wide_at_output else 0)
    return BoundUpscaler(
        apply=lambda x: run.apply(x, **static),
        scale=scale,
        halo=model.receptive_radius,
        bytes_per_pixel=4 * model.channels * maps + 48 * scale**2,
        multiple=model.input_multiple,
        # XLA cannot split every network by rows: those that are convolutions and no more are known to be.
        spread=functools.partial(run.spread, **static)
        if jax.local_device_count() > 1 and model.receptive_radius is not None
        else None,
    )


def with_margin(net: BoundUpscaler, tile_pad: int | None) -> BoundUpscaler:
    """Gives the network with the margin that its tiles get.

    Args:
        net: the network.
        tile_pad: the margin in input pixels; None is the receptive radius, or 48 where that is above 96.

    Returns:
        The network whose `halo` is the margin, with `feather` where that is below its radius.

    Raises:
        ValueError: on a margin that is no whole number of at least 0.
    """
    if tile_pad is not None and (isinstance(tile_pad, bool) or int(tile_pad) != tile_pad or tile_pad < 0):
        raise ValueError(f"tile_pad must be a whole number of pixels or None, got {tile_pad!r}")
    if tile_pad is None:
        if net.halo is None or net.halo <= _EXACT:
            return net
        tile_pad = _MARGIN
    exact = net.halo is not None and tile_pad >= net.halo
    return net._replace(halo=net.halo if exact else tile_pad, feather=0 if exact else tile_pad // 2)


def auto_tile(
    height: int, width: int, net: BoundUpscaler, *, several_sizes: bool = False
) -> tuple[int, int] | None:
    """Chooses how to cut an image.

    Args:
        height: pixels.
        width: pixels.
        net: the network.
        several_sizes: prefer square windows of few shapes, to the whole image, too. Otherwise they are the
            windows that repeat the fewest pixels.

    Returns:
        Rows and columns an inner tile provides, or None for the whole image.
    """
    budget = max(64 * 64, memory_budget() // net.bytes_per_pixel)
    devices = jax.local_device_count() if net.spread and height % jax.local_device_count() == 0 else 1
    if net.halo is None or (height * width <= budget * devices and not several_sizes):
        return None
    margin = 2 * net.halo
    if not several_sizes:
        found = _fewest_pixels(height, width, margin, budget, jax.local_device_count() if net.spread else 1)
        if found:
            return found
    largest = max([w for w in _WINDOWS if w * w <= budget and w >= margin + 16] or [margin + 64])
    short = min(height, width)
    if short >= largest:
        return largest - margin, largest - margin
    fitting = [w for w in _WINDOWS if w <= short and w >= margin + 16]
    if fitting:
        return max(fitting) - margin, max(fitting) - margin
    # Too narrow for two halos: this axis is taken whole, the other cut only where it must be.
    return None if height * width <= budget else (largest - margin, largest - margin)


def _fewest_pixels(height: int, width: int, margin: int, budget: int, devices: int) -> tuple[int, int] | None:
    """The inner tile, rows and columns, whose windows have the fewest pixels in all, each within the budget.

    n windows that overlap by the margin cover `n * window - (n - 1) * margin`. None where no windows fit.
    """
    best: tuple[int, tuple[int, int]] | None = None
    for rows in range(1, -(-height // _LEAST) + 1):
        tall, inner_rows = _covering(height, rows, margin)
        widest = budget // tall
        most = max(1, widest // _EVEN * _EVEN - margin)  # that a column provides
        columns = 1 if widest >= width else max(1, -(-(width - margin) // most))
        wide, inner_columns = _covering(width, columns, margin)
        if tall * wide > budget or min(inner_rows, inner_columns) < min(_LEAST, height, width):
            continue
        pixels = -(-rows * columns // devices) * devices * tall * wide
        if best is None or pixels < best[0]:
            best = pixels, (inner_rows, inner_columns)
    return best[1] if best else None


def _covering(length: int, count: int, margin: int) -> tuple[int, int]:
    """The shortest windows, `count` of them, that cover an axis; and what an inner one provides."""
    exact = -(-(length + (count - 1) * margin) // count)
    window = min(length, -(-exact // _EVEN) * _EVEN)
    return window, length if window == length else window - margin


def memory_budget() -> int:
    """Tells how much a network may take.

    Returns:
        Bytes: half of what an accelerator has left, a quarter of all that a host has.
    """
    if jax.default_backend() == "cpu":
        try:
            host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):  # Windows has none
            host = 2**33
        return max(2**29, min(2**33, host // 4))
    stats = jax.local_devices()[0].memory_stats() or {}
    return max(2**30, (stats.get("bytes_limit", 2**34) - stats.get("bytes_in_use", 0)) // 2)
