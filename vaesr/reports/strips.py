"""Super-resolution comparison strips: the whole photo, then one detail as every method shows it."""

from collections.abc import Sequence

import jax
import numpy as np

from vaesr.files.extras import pillow
from vaesr.imaging.colour import BT601_LUMA
from vaesr.metrics import Protocol, psnr
from vaesr.reports import canvas

_GAP = 10
_SHARE = 1.3  # width of the whole photo, in details: one number, so that stacked strips line up
_TITLE = 19
_CAPTION = 17
_FOOT = _TITLE + _CAPTION + 22


def busiest_crop(image: np.ndarray | jax.Array, size: tuple[int, int]) -> tuple[int, int]:
    """Finds the window with the most detail (sum of absolute luma differences), first one on a tie.

    The image is `[H, W]` or `[H, W, C]`, floats in [0, 1] or uint8; `size` is the window's `(height, width)`.
    Returns its `(top, left)`.
    """
    luma = canvas.as_rgb8(image).astype(np.float64) @ np.array(BT601_LUMA)
    detail = np.zeros_like(luma)
    detail[:, 1:] += np.abs(np.diff(luma, axis=1))
    detail[1:] += np.abs(np.diff(luma, axis=0))
    return largest_sum(detail, size)


def largest_sum(values: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """Finds the window of `(height, width)` whose float64 `[H, W]` values sum to most: its `(top, left)`."""
    sums = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    h, w = size
    totals = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    top, left = np.unravel_index(np.argmax(totals), totals.shape)
    return int(top), int(left)


def _captions(images: list[np.ndarray], protocol: Protocol) -> tuple[list[str], int | None]:
    """PSNR of every panel against the first, as text, and which panel is best."""
    as_float = [np.asarray(image, np.float32) for image in images]
    as_float = [
        f / 255.0 if image.dtype == np.uint8 else f for f, image in zip(as_float, images, strict=True)
    ]
    values = [float(psnr(as_float[0][None], image[None], protocol=protocol)[0]) for image in as_float[1:]]
    words = ["identical" if np.isposinf(v) else f"{v:.2f} dB" for v in values]
    best = 1 + int(np.nanargmax(values)) if len(values) > 1 and not np.isnan(values).all() else None
    return ["reference", *words], best


def comparison_strip(
    panels: Sequence[tuple[str, np.ndarray | jax.Array]],
    *,
    captions: Sequence[str] | None = None,
    crop: tuple[int, int] | None = None,
    crop_size: int = 64,
    width: int = 1200,
    context: bool = True,
    protocol: Protocol | None = None,
) -> np.ndarray:
    """Draws the first panel whole with a box, then the boxed detail of every panel side by side.

    Details are enlarged by a whole number with nearest neighbour, so that a pixel stays a pixel, and all show
    the same place. Under each stand its title and its PSNR against the first panel over the whole image (not
    only the detail); the best is set in bold.

    `panels` are `(title, image)` pairs, two at least; images `[H, W, C]` of one shape, floats in [0, 1] or
    uint8. The first is the reference, usually HR; then for example bicubic and ours. `captions` are second
    lines instead of the PSNR values, one per panel. `crop` is the `(top, left)` of the detail in pixels, None
    the busiest place of the reference; `crop_size` its side, at least 8, made smaller where the image is. The
    strip is about `width` pixels wide (details are whole multiples of their size); `context` draws the whole
    reference to the left; PSNR is measured as `protocol` says, None RGB without shaving. Returns uint8
    `[H', W', 3]`.
    """
    images = [np.asarray(image) for _, image in panels]
    if len(images) < 2 or len({image.shape for image in images}) > 1:
        raise ValueError(f"panels must be two or more images of one shape, got {[i.shape for i in images]}")
    height, breadth = images[0].shape[:2]
    if crop_size < 8:
        raise ValueError(f"crop_size must be at least 8, got {crop_size}")
    size = min(crop_size, height, breadth)
    top, left = busiest_crop(images[0], (size, size)) if crop is None else crop
    if not (0 <= top <= height - size and 0 <= left <= breadth - size):
        raise ValueError(f"crop {(top, left)} with side {size} lies outside an image of {height} x {breadth}")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"captions must have {len(images)} entries, got {len(captions)}")
    if captions is None:
        words, best = _captions(images, protocol or Protocol())
    else:
        words, best = list(captions), None

    share = _SHARE if context else 0.0
    zoom = max(1, round((width - _GAP * (len(images) + 1)) / (len(images) + share) / size))
    side = size * zoom
    tiles = [canvas.enlarge(canvas.as_rgb8(i)[top : top + size, left : left + size], zoom) for i in images]
    labels = [
        (title, word, index == best)
        for index, ((title, _), word) in enumerate(zip(panels, words, strict=True))
    ]
    if context:
        tiles.insert(0, _context(canvas.as_rgb8(images[0]), (top, left, size), side))
        labels.insert(0, ("region shown", f"{breadth} × {height}", False))
    return _assemble(tiles, labels)


def _context(picture: np.ndarray, box: tuple[int, int, int], side: int) -> np.ndarray:
    """The whole picture inside `side` x 1.3 `side`, with the detail boxed."""
    image, draw_on = pillow("Image"), pillow("ImageDraw")
    height, width = picture.shape[:2]
    room = round(_SHARE * side)
    ratio = min(side / height, room / width)
    shown = image.fromarray(picture).resize(
        (max(1, round(width * ratio)), max(1, round(height * ratio))), image.Resampling.LANCZOS
    )
    top, left, size = box
    corners = [left * ratio, top * ratio, (left + size) * ratio - 1, (top + size) * ratio - 1]
    draw = draw_on.Draw(shown)
    draw.rectangle(
        [corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1], outline=(255, 255, 255), width=4
    )
    draw.rectangle(corners, outline=canvas.ACCENT, width=2)
    page = image.new("RGB", (room, side), canvas.PAPER)
    page.paste(shown, ((room - shown.width) // 2, (side - shown.height) // 2))
    return np.asarray(page)


def _assemble(tiles: list[np.ndarray], labels: list[tuple[str, str, bool]]) -> np.ndarray:
    image, draw_on = pillow("Image"), pillow("ImageDraw")
    side = tiles[0].shape[0]
    width = sum(tile.shape[1] for tile in tiles) + _GAP * (len(tiles) + 1)
    page = image.new("RGB", (width, side + _GAP + _FOOT), canvas.PAPER)
    draw = draw_on.Draw(page)
    left = _GAP
    for tile, (title, caption, best) in zip(tiles, labels, strict=True):
        page.paste(image.fromarray(tile), (left, _GAP))
        middle = left + tile.shape[1] / 2
        room = tile.shape[1]
        line = canvas.shorten(title, room, _TITLE, True)
        draw.text((middle, side + _GAP + 6), line, canvas.INK, canvas.font(_TITLE, True), anchor="ma")
        line = canvas.shorten(caption, room, _CAPTION, best)
        colour = canvas.INK if best else canvas.MUTED
        draw.text((middle, side + _GAP + _TITLE + 12), line, colour, canvas.font(_CAPTION, best), anchor="ma")
        left += room + _GAP
    return np.asarray(page)


def stack_strips(strips: Sequence[np.ndarray]) -> np.ndarray:
    """Puts strips, uint8 `[H, W, 3]` of any widths, under one another, left-aligned on white."""
    if not strips:
        raise ValueError("strips must hold at least one strip, got none")
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    return np.concatenate(padded)
