"""Upscaling of one image of any size, depth and number of channels."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaesr.imaging import imresize, tiled_apply
from vaesr.imaging.colour import BT601_LUMA
from vaesr.inference.tiling import Apply, BoundUpscaler, auto_tile, bind_upscaler, with_margin
from vaesr.models.self_ensemble import self_ensemble as ensemble_of_turns
from vaesr.runs.load import Run

_LUMA = np.array(BT601_LUMA, np.float32)


def upscale(
    run_or_apply: Run | BoundUpscaler | Apply,
    image: np.ndarray | jax.Array,
    *,
    tile: int | None = None,
    self_ensemble: bool = False,
    scale: float | None = None,
    halo: int | None = None,
    alpha: Literal["bicubic", "network"] = "bicubic",
    tile_pad: int | None = None,
    several_sizes: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> np.ndarray:
    """Upscales one image; the result is the network's on the whole image, however it is cut into tiles.

    That is exact up to a receptive radius of 96 pixels. Beyond it (RRDBNet: 349) tiles get a margin of 48,
    and pass gradually into each other; see `tile_pad`.

    Grey goes through the network as RGB and comes back as its luma. Alpha is upscaled on its own; under fully
    transparent pixels the colours of the nearest visible ones are spread first, so that no dark fringe
    creeps in.

    Args:
        run_or_apply: a `Run` from `load_run`, or a function `[N, h, w, 3]` -> `[N, h * s, w * s, 3]` on [0,
            1].
        image: `[H, W, C]` with C 1 (grey), 2 (grey, alpha), 3 or 4 (RGBA), or `[H, W]`; floats in [0, 1],
            uint8 or uint16.
        tile: pixels an inner tile provides (the receptive radius is added around it); 0 for the whole image
            at once; None chooses by the memory that the network takes, and retries smaller where it runs out.
        self_ensemble: average over the eight flips and quarter turns: 8 times the work, about 0.1 dB better.
        scale: factor of the result; another than the network's is reached by bicubic resizing after it. Of a
            run with several scales it must be one of them, and None is the largest.
        halo: receptive radius in input pixels of a plain function; a run's model knows its own.
        alpha: "bicubic" or "network", which upscales the alpha channel.
        tile_pad: margin around a tile, in input pixels, in place of the receptive radius. Where it is smaller
            than that, or the network sees the whole image, tiles are blended over half of it.
        several_sizes: whether images of many sizes follow; then windows of few shapes are used, so that the
            number of compilations stays bounded.
        progress: called as `progress(done, total)` with numbers of tiles.

    Returns:
        `[round(H * scale), round(W * scale), C]` (`[H', W']` for `[H, W]`) of the image's type, floats as
        float32; clipped to the valid range.

    Raises:
        ValueError: on another shape or type, a bad knob, or where the network gives values that are not
            finite.
    """
    net = with_margin(_network(run_or_apply, scale, halo), tile_pad)
    pixels = np.asarray(image)
    flat = pixels.ndim == 2
    values, top = _to_unit(pixels[..., None] if flat else pixels)
    if tile is not None and (isinstance(tile, bool) or int(tile) != tile or tile < 0):
        raise ValueError(
            f"tile must be a whole number of pixels, 0 for the whole image, or None, got {tile!r}"
        )
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be above 0, got {scale!r}")
    if alpha not in ("bicubic", "network"):
        raise ValueError(f'alpha must be "bicubic" or "network", got {alpha!r}')
    factor = net.scale if scale is None else scale
    size = tuple(max(1, round(side * factor)) for side in values.shape[:2])

    if top is not None and values.shape[2] == 3 and factor == net.scale and not self_ensemble:
        # Rounded tile by tile: a large result never exists as floats.
        finish = functools.partial(_round, top=top, kind=pixels.dtype)
        return _retrying(net, values, tile, False, several_sizes, progress, finish)

    def through(rgb: np.ndarray) -> np.ndarray:
        out = _retrying(net, rgb, tile, self_ensemble, several_sizes, progress, _check_finite)
        return out if out.shape[:2] == size else np.asarray(imresize(out, size=size))

    parts = split_channels(pixels[..., None] if flat else pixels)
    larger = None
    if parts.alpha is not None and alpha == "network":
        larger = (through(np.repeat(parts.alpha, 3, axis=2)) @ _LUMA)[..., None]
    result = join_channels(parts, through(parts.rgb), size, alpha=larger)
    return result[..., 0] if flat else result


def _network(
    run_or_apply: Run | BoundUpscaler | Apply, outscale: float | None, halo: int | None
) -> BoundUpscaler:
    if isinstance(run_or_apply, BoundUpscaler):
        return run_or_apply
    if isinstance(run_or_apply, Run):
        return bind_upscaler(run_or_apply, outscale)
    out = jax.eval_shape(run_or_apply, jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32))
    if len(out.shape) != 4 or out.shape[1] % 16 or out.shape[1] != out.shape[2] or out.shape[3] != 3:
        raise ValueError(
            f"the function must map [N, h, w, 3] to [N, h * s, w * s, 3], 16 x 16 gave {out.shape}"
        )
    return BoundUpscaler(jax.jit(run_or_apply), out.shape[1] // 16, halo)


def _check_finite(values: np.ndarray) -> np.ndarray:
    """Results as float32."""
    if not np.isfinite(values).all():
        raise ValueError("the network gave values that are not finite; try --fp32, or another checkpoint")
    return values.astype(np.float32)


def _round(values: np.ndarray, *, top: int, kind: Any) -> np.ndarray:
    """Results in [0, 1], or near, as integers up to `top`."""
    return np.floor(np.clip(_check_finite(values), 0.0, 1.0) * top + 0.5).astype(kind)


def _to_unit(pixels: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Float32 in [0, 1] and the top value of the integer type, if it was one."""
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or 0 in pixels.shape:
        raise ValueError(
            f"image must be [H, W, 1..4] or [H, W] with at least one pixel, got shape {pixels.shape}"
        )
    if pixels.dtype in (np.uint8, np.uint16):
        top = int(np.iinfo(pixels.dtype).max)
        return pixels.astype(np.float32) / np.float32(top), top
    if not jnp.issubdtype(pixels.dtype, jnp.floating):
        raise ValueError(f"image must be float in [0, 1], uint8 or uint16, got {pixels.dtype}")
    return pixels.astype(np.float32), None


class Channels(NamedTuple):
    """An image as networks take it, and what is needed to make of their result one of its own kind.

    Attributes:
        rgb: `[H, W, 3]` float32 in [0, 1].
        grey: whether the image is; then `rgb` holds it three times.
        alpha: `[H, W, 1]`; None where there is no transparency.
        kind: of the image's numbers.
        top: the largest of them; None for floats.
    """

    rgb: np.ndarray
    grey: bool
    alpha: np.ndarray | None
    kind: Any
    top: int | None


def split_channels(pixels: np.ndarray) -> Channels:
    """Takes an image apart.

    Args:
        pixels: `[H, W, C]` with C 1 (grey), 2 (grey, alpha), 3 or 4 (RGBA); floats in [0, 1] or uint8 or
            uint16.

    Returns:
        Its parts.

    Raises:
        ValueError: on another shape or type.
    """
    values, top = _to_unit(pixels)
    channels = values.shape[2]
    colour, alpha = (values[..., :-1], values[..., -1:]) if channels in (2, 4) else (values, None)
    if alpha is not None:
        colour = spread_colour(colour, alpha)
    grey = colour.shape[2] == 1
    return Channels(np.repeat(colour, 3, axis=2) if grey else colour, grey, alpha, pixels.dtype, top)


def join_channels(
    parts: Channels, rgb: np.ndarray, size: tuple[int, ...], *, alpha: np.ndarray | None = None
) -> np.ndarray:
    """Makes an image of one that was taken apart and enlarged.

    Args:
        parts: of the image before.
        rgb: `[H', W', 3]` in [0, 1], resized bicubically where that is another size.
        size: height and width of the result.
        alpha: `[h, w, 1]`; by default the image's own, enlarged bicubically.

    Returns:
        `[h, w, C]` of the image's kind, clipped.
    """
    out = rgb if rgb.shape[:2] == tuple(size) else np.asarray(imresize(rgb, size=size))
    out = (out @ _LUMA)[..., None] if parts.grey else out
    if parts.alpha is not None:
        if (parts.alpha == parts.alpha[0, 0]).all():
            alpha = np.full((*size, 1), parts.alpha[0, 0, 0], np.float32)
        elif alpha is None:
            alpha = np.asarray(imresize(parts.alpha, size=size))
        out = np.concatenate([out, alpha], axis=2)
    if parts.top is None:
        return np.clip(out, 0.0, 1.0)
    return _round(out, top=parts.top, kind=parts.kind)


def spread_colour(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Gives fully transparent pixels the colour of the visible ones nearby.

    Their own colour is arbitrary, often black, and would bleed into the visible edge when the image is
    enlarged.

    Args:
        colour: `[H, W, C]` float.
        alpha: `[H, W, 1]` float in [0, 1].

    Returns:
        `[H, W, C]`, unchanged where alpha is above 0. Where nothing is visible, `colour` itself.

    Source: Gortler et al. 1996, "The Lumigraph", section 3.4 (pull-push).
    """
    seen = (alpha > 0).astype(np.float32)
    if seen.all() or not seen.any():
        return colour
    levels = [(colour * seen, seen)]
    while not levels[-1][1].all():
        sums = []
        for layer in levels[-1]:
            even = np.pad(layer, ((0, layer.shape[0] % 2), (0, layer.shape[1] % 2), (0, 0)))
            h, w, c = even.shape
            sums.append(even.reshape(h // 2, 2, w // 2, 2, c).sum(axis=(1, 3)))
        levels.append((sums[0], sums[1]))
    filled = levels[-1][0] / levels[-1][1]
    for total, weight in reversed(levels[:-1]):
        coarse = filled.repeat(2, axis=0).repeat(2, axis=1)[: weight.shape[0], : weight.shape[1]]
        filled = np.where(weight > 0, total / np.maximum(weight, 1.0), coarse)
    return np.where(seen > 0, colour, filled).astype(colour.dtype)


def _retrying(
    net: BoundUpscaler,
    rgb: np.ndarray,
    tile: int | None,
    self_ensemble: bool,
    several_sizes: bool,
    progress: Callable[[int, int], Any] | None,
    finish: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Runs the network; where the tile was left to us and memory runs out, with halved windows."""
    if tile and net.halo is None:
        raise ValueError(
            "this network has no receptive radius, so tiles would show seams: use tile=0, or give tile_pad"
        )
    if tile is None:
        chosen = auto_tile(rgb.shape[0], rgb.shape[1], net, several_sizes=several_sizes)
    else:
        chosen = (tile, tile) if tile else None
    while True:
        try:
            return _run(net, rgb, chosen, self_ensemble, progress, finish)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            exhausted = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
            sides = chosen or rgb.shape[:2]
            if not exhausted:
                raise
            if tile is not None or net.halo is None or max(sides) <= 32:
                raise MemoryError("the device ran out of memory; try a smaller --tile") from error
            chosen = max(16, sides[0] // 2), max(16, sides[1] // 2)


def _run(
    net: BoundUpscaler,
    rgb: np.ndarray,
    tile: tuple[int, int] | None,
    self_ensemble: bool,
    progress: Callable[[int, int], Any] | None,
    finish: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    turns = 8 if self_ensemble else 1
    before = itertools.count()

    def whole(x: Any) -> np.ndarray:
        """One turn of the image, `[1, h, w, 3]`; NumPy out, so that the full result stays on the host."""
        turn = next(before)
        report = (lambda done, n: progress(done + turn * n, n * turns)) if progress else None
        sides = x.shape[1], x.shape[2]
        tiles = (tile if sides == rgb.shape[:2] else tile[::-1]) if tile else None
        apply, batch = _on_devices(net, *sides, tiles)
        if jax.default_backend() == "cpu":  # where two windows at once take twice the memory and no less time
            apply = _waiting(apply)
        out = tiled_apply(
            apply,
            x[0],
            batch_size=batch,
            scale=net.scale,
            tile=tiles or sides,
            halo=net.halo or 0,
            feather=min(net.feather, min(tiles) // 2) if tiles else 0,
            multiple=net.multiple,
            finish=finish,
            progress=report,
        )
        return out[None]

    return (ensemble_of_turns(whole) if self_ensemble else whole)(rgb[None])[0]


def _waiting(apply: Apply) -> Apply:
    return lambda batch: jax.block_until_ready(apply(batch))


def _on_devices(
    net: BoundUpscaler, height: int, width: int, tile: tuple[int, int] | None
) -> tuple[Apply, int]:
    """What runs the network, and how many tiles it takes at once: on one device, or on all of them."""
    devices = jax.local_device_count()
    if net.spread is None:
        return net.apply, 1
    margin = 2 * (net.halo or 0)
    if tile and (height > tile[0] + margin or width > tile[1] + margin):
        apply = net.spread("batch")

        def filled(batch: np.ndarray) -> Any:
            return apply(np.concatenate([batch, batch[-1:].repeat(-len(batch) % devices, axis=0)]))

        return filled, devices
    # Rows are split evenly, or not at all.
    return (net.apply if height % (devices * net.multiple) else net.spread("rows")), 1
