"""Grids of small images, with or without labels."""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vaesr.files.atomic import write_atomically
from vaesr.files.extras import encoded, pillow
from vaesr.reports import canvas

Images = np.ndarray | jax.Array | Sequence[np.ndarray | jax.Array]
_LABEL = 15
_TITLE = 18


def save_image(
    path: str | os.PathLike[str], image: np.ndarray | jax.Array, *, caption: str | None = None
) -> pathlib.Path:
    """Writes one image atomically; the format follows the file name.

    The path ends in `.png`, `.jpg`, `.jpeg` or `.webp`; missing folders are made. The image is `[H, W]`,
    `[H, W, 1]` or `[H, W, 3]`, floats in [0, 1] or uint8. The caption is kept inside a PNG; `write_report`
    prints it under the figure.
    """
    path = pathlib.Path(path)
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    kind = formats.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"path must end in one of {', '.join(formats)}, got {path.name!r}")
    options: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}.get(
        kind, {}
    )
    if kind == "PNG":
        notes = pillow("PngImagePlugin").PngInfo()
        if caption:
            notes.add_itxt("Description", caption)
        options = {"pnginfo": notes}  # "optimize" takes four times as long for 1 % fewer bytes
    picture = canvas.as_rgb8(image)
    grey = np.ndim(image) == 2 or np.shape(image)[-1] == 1
    if grey and not np.issubdtype(np.asarray(image).dtype, np.floating):
        picture = picture[..., 0]  # floats stay RGB: a NaN is drawn in colour
    write_atomically(path, encoded(picture, kind, **options))
    return path


def _stack(images: Images) -> np.ndarray:
    pictures = [canvas.as_rgb8(i) for i in (np.asarray(images) if hasattr(images, "shape") else images)]
    if not pictures:
        raise ValueError("images must hold at least one image, got none")
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise ValueError(f"images must have one shape, got {sorted(shapes)}")
    return np.stack(pictures)


def image_grid(
    images: Images, *, columns: int | None = None, pad: int = 2, background: int = 255
) -> np.ndarray:
    """Lays images out in rows, first to last; `columns` None makes about a square.

    The images are `[N, H, W, C]` or a list of `[H, W, C]` of one shape; floats in [0, 1] or uint8, C 1 or 3.
    `pad`, at least 0, is pixels between neighbours and around the outside, `background` the grey level 0..255
    of the padding and of the empty places in the last row. Returns uint8 `[rows * (H + pad) + pad, columns *
    (W + pad) + pad, 3]`.
    """
    pictures = _stack(images)
    count, height, width, _ = pictures.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    if columns < 1 or pad < 0:
        raise ValueError(f"columns must be at least 1 and pad at least 0, got {columns} and {pad}")
    columns = min(columns, count)
    rows = -(-count // columns)
    page = np.full((rows * (height + pad) + pad, columns * (width + pad) + pad, 3), background, np.uint8)
    for index, picture in enumerate(pictures):
        top = pad + (index // columns) * (height + pad)
        left = pad + (index % columns) * (width + pad)
        page[top : top + height, left : left + width] = picture
    return page


def labelled_grid(
    images: Images,
    *,
    columns: int | None = None,
    pad: int = 2,
    zoom: int | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Draws a grid (see `image_grid`) with labels to the left of the rows, above the columns, and a title.

    Every pixel is repeated `zoom` times; None enlarges small images until the grid is about 900 wide. Returns
    uint8 `[H', W', 3]`.
    """
    pictures = _stack(images)
    count, height, width, _ = pictures.shape
    columns = min(count, math.ceil(math.sqrt(count)) if columns is None else columns)
    if zoom is None:
        zoom = max(1, min(round(900 / (columns * width)), 512 // max(height, width, 1), 8))
    grid = image_grid([canvas.enlarge(p, zoom) for p in pictures], columns=columns, pad=pad)
    rows = -(-count // columns)
    for name, labels, room in (("row_labels", row_labels, rows), ("column_labels", column_labels, columns)):
        if labels is not None and len(labels) != room:
            raise ValueError(f"{name} must have {room} entries for this grid, got {len(labels)}")
    if row_labels is None and column_labels is None and not title:
        return grid
    return _annotate(grid, (height * zoom + pad, width * zoom + pad), pad, row_labels, column_labels, title)


def _annotate(
    grid: np.ndarray,
    cell: tuple[int, int],
    pad: int,
    row_labels: Sequence[str] | None,
    column_labels: Sequence[str] | None,
    title: str | None,
) -> np.ndarray:
    image, draw_on = pillow("Image"), pillow("ImageDraw")
    left = (
        max((canvas.text_width(label, _LABEL) for label in row_labels), default=0) + 14 if row_labels else 0
    )
    heading = _TITLE + 16 if title else 0
    top = heading + (_LABEL + 10 if column_labels else 0)
    right = 0
    if title:  # a title wider than a narrow grid gets its room
        right = max(0, min(canvas.text_width(title, _TITLE, True) + 16, 900) - left - grid.shape[1])
    page = image.new("RGB", (left + grid.shape[1] + right, top + grid.shape[0]), canvas.PAPER)
    page.paste(image.fromarray(grid), (left, top))
    draw = draw_on.Draw(page)
    if title:
        line = canvas.shorten(title, page.width - 8, _TITLE, True)
        draw.text((left + pad, 6), line, canvas.INK, canvas.font(_TITLE, True))
    for index, label in enumerate(column_labels or ()):
        middle = left + pad + index * cell[1] + (cell[1] - pad) / 2
        line = canvas.shorten(label, cell[1] - 2, _LABEL)
        draw.text((middle, top - 5), line, canvas.MUTED, canvas.font(_LABEL), anchor="md")
    for index, label in enumerate(row_labels or ()):
        middle = top + pad + index * cell[0] + (cell[0] - pad) / 2
        draw.text((left - 7, middle), label, canvas.MUTED, canvas.font(_LABEL), anchor="rm")
    return np.asarray(page)


def save_grid(
    path: str | os.PathLike[str],
    images: Images,
    *,
    columns: int | None = None,
    pad: int = 2,
    zoom: int | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> pathlib.Path:
    """Draws a grid (see `labelled_grid`) and writes it atomically (see `save_image`)."""
    grid = labelled_grid(
        images,
        columns=columns,
        pad=pad,
        zoom=zoom,
        row_labels=row_labels,
        column_labels=column_labels,
        title=title,
    )
    return save_image(path, grid, caption=caption)
