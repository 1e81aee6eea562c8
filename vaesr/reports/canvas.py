"""Pixels and letters: what the figures are drawn with. Pillow is imported inside the functions."""

import contextlib
import functools
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

INK = (28, 32, 38)
MUTED = (104, 112, 122)
PAPER = (255, 255, 255)
ACCENT = (208, 48, 40)
MISSING = (255, 0, 255)

Array = np.ndarray | jax.Array


def pillow(name: str) -> Any:
    """Imports one module of Pillow, or says how to get it.

    Args:
        name: module inside `PIL`, for example `"Image"`.

    Returns:
        The module.

    Raises:
        ImportError: where Pillow is not installed.
    """
    import importlib

    try:
        return importlib.import_module(f"PIL.{name}")
    except ImportError as error:
        raise ImportError('pictures need Pillow: pip install "vaesr[experiments]"') from error


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part.

    Args:
        path: where to write; missing parent folders are made.
        data: the whole content.

    Returns:
        Nothing.

    Raises:
        OSError: where the folder cannot be written; nothing is left behind.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Lets a file be written at leisure under another name, and gives it its own once it is complete.

    Args:
        path: where it is to be; missing parent folders are made.

    Yields:
        The path to write, an empty file beside it with the same extension.

    Raises:
        OSError: where the folder cannot be written; nothing is left behind, whatever was raised.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part" + path.suffix)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        # mkstemp makes private files; give the ones everybody else's programs would make.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def as_rgb8(image: Array) -> np.ndarray:
    """Makes any image of ours an 8-bit RGB picture.

    Args:
        image: `[H, W]`, `[H, W, 1]` or `[H, W, 3]`; floats in [0, 1] (clipped; NaN is drawn in
            magenta so that it is seen), uint8 in 0..255, or bool.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        ValueError: on another shape or an integer type other than uint8.
    """
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"image must be [H, W], [H, W, 1] or [H, W, 3], got shape {tuple(np.shape(image))}")
    if pixels.dtype == np.uint8:
        return np.repeat(pixels, 3 // pixels.shape[-1], axis=-1)
    if pixels.dtype != np.bool_ and not jax.numpy.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"image must be float in [0, 1], uint8 or bool, got {pixels.dtype}")
    values = pixels.astype(np.float32)
    missing = np.isnan(values).any(axis=-1)
    levels = np.rint(np.clip(np.nan_to_num(values, nan=0.0), 0.0, 1.0) * 255.0).astype(np.uint8)
    picture = np.repeat(levels, 3 // levels.shape[-1], axis=-1)
    picture[missing] = MISSING
    return picture


def enlarge(picture: np.ndarray, zoom: int) -> np.ndarray:
    """Repeats every pixel `zoom` times in both directions.

    Args:
        picture: `[H, W, C]`.
        zoom: at least 1.

    Returns:
        `[H * zoom, W * zoom, C]`.
    """
    return np.repeat(np.repeat(picture, zoom, axis=0), zoom, axis=1)


@functools.lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> Any:
    """Loads the sans-serif font that comes with matplotlib, else the one inside Pillow.

    Args:
        size: height in pixels.
        bold: the heavier cut.

    Returns:
        A Pillow font.
    """
    fonts = pillow("ImageFont")
    try:
        import matplotlib

        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        return fonts.truetype(str(pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
    except (ImportError, OSError):
        return fonts.load_default(size)


def text_width(text: str, size: int, bold: bool = False) -> int:
    """Measures one line of text.

    Args:
        text: one line.
        size: font height in pixels.
        bold: the heavier cut.

    Returns:
        Its width in pixels, rounded up.
    """
    return int(np.ceil(font(size, bold).getlength(text)))


def shorten(text: str, width: int, size: int, bold: bool = False) -> str:
    """Cuts a line with an ellipsis where it would be wider than `width` pixels.

    Args:
        text: one line.
        width: room in pixels.
        size: font height in pixels.
        bold: the heavier cut.

    Returns:
        The line, or its beginning followed by an ellipsis.
    """
    if text_width(text, size, bold) <= width:
        return text
    while text and text_width(text + "…", size, bold) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def new_figure(width: float, height: float) -> Any:
    """Makes a matplotlib figure of its own, with no pyplot and no global state.

    Args:
        width: in inches, 150 pixels each.
        height: in inches.

    Returns:
        A matplotlib `Figure` with the Agg canvas.

    Raises:
        ImportError: where matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "vaesr[experiments]"') from error
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def quiet(axes: Any) -> None:
    """Takes the frame off a plot and makes grid and ticks light.

    Args:
        axes: matplotlib axes.

    Returns:
        Nothing.
    """
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#c4c9d0")
    axes.grid(color="#e9ecef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors="#5c636b", labelsize=8, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color("#5c636b")
        label.set_fontsize(9)


def rasterise(figure: Any) -> np.ndarray:
    """Draws a matplotlib figure.

    Args:
        figure: a figure from `new_figure`.

    Returns:
        uint8 `[H, W, 3]`.
    """
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
