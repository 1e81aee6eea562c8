"""Pixels and letters: what the figures are drawn with. Pillow is imported inside the functions."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np

from vaesr.files.extras import extra, pillow

INK = (28, 32, 38)
MUTED = (104, 112, 122)
PAPER = (255, 255, 255)
ACCENT = (208, 48, 40)
MISSING = (255, 0, 255)

Array = np.ndarray | jax.Array


def as_rgb8(image: Array) -> np.ndarray:
    """Makes any image of ours an 8-bit RGB picture, uint8 `[H, W, 3]`.

    It is `[H, W]`, `[H, W, 1]` or `[H, W, 3]`; floats in [0, 1] (clipped; NaN is drawn in magenta so that it
    is seen), uint8 in 0..255, or bool.
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
    """Repeats every pixel of `[H, W, C]` `zoom` times, at least once, in both directions."""
    return np.repeat(np.repeat(picture, zoom, axis=0), zoom, axis=1)


@functools.lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> Any:
    """Loads the sans-serif font that comes with matplotlib, else the one inside Pillow; size in pixels."""
    fonts = pillow("ImageFont")
    try:
        import matplotlib

        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        return fonts.truetype(str(pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
    except (ImportError, OSError):
        return fonts.load_default(size)


def text_width(text: str, size: int, bold: bool = False) -> int:
    """Measures one line of text: its width in pixels, rounded up."""
    return int(np.ceil(font(size, bold).getlength(text)))


def shorten(text: str, width: int, size: int, bold: bool = False) -> str:
    """Cuts a line with an ellipsis where it would be wider than `width` pixels."""
    if text_width(text, size, bold) <= width:
        return text
    while text and text_width(text + "…", size, bold) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def new_figure(width: float, height: float) -> Any:
    """Makes a matplotlib figure of its own, with no pyplot and no global state; inches of 150 pixels each."""
    plots = extra("matplotlib.figure", "plots need matplotlib", "experiments")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = plots.Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def quiet(axes: Any) -> None:
    """Takes the frame off a plot and makes grid and ticks light."""
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


def heading(figure: Any, title: str | None) -> None:
    """Writes a title, where there is one, above all plots of a figure."""
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)


def rasterise(figure: Any) -> np.ndarray:
    """Draws a figure from `new_figure` as uint8 `[H, W, 3]`."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
