"""Numbers drawn into images, as marks to be removed."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaesr.imaging._checks import check_positive_int, check_rank

Array = jax.Array

# Five columns by seven rows; a character a pixel.
_ROWS = (
    ".###. ..#.. .###. .###. ...#. ##### .###. ##### .###. .###.",
    "#...# .##.. #...# #...# ..##. #.... #.... ....# #...# #...#",
    "#..## ..#.. ....# ....# .#.#. ####. ####. ...#. #...# #...#",
    "#.#.# ..#.. ..##. ..##. #..#. ....# #...# ..#.. .###. .####",
    "##..# ..#.. .#... ....# ##### ....# #...# ..#.. #...# ....#",
    "#...# ..#.. #.... #...# ...#. #...# #...# ..#.. #...# ....#",
    ".###. .###. ##### .###. ...#. .###. .###. ..#.. .###. .###.",
)
GLYPH_HEIGHT, GLYPH_WIDTH = 7, 6  # one column of space
_GLYPHS = np.array([[[c == "#" for c in f"{g}."] for g in row.split()] for row in _ROWS]).transpose(1, 0, 2)


def draw_number(
    image: ArrayLike, number: ArrayLike, top: ArrayLike, left: ArrayLike, *, zoom: int = 1, digits: int = 2
) -> Array:
    """Draws a white number into each image.

    Args:
        image: `[B, H, W, C]` floating point in [0, 1].
        number: `[B]` integers, at least 0; the last `digits` decimal places are drawn, with leading zeros.
        top: `[B]` integers, the row of the upper left corner; what lies outside the image is not drawn.
        left: `[B]` integers, its column.
        zoom: side of a font pixel; a digit is 5 x 7 of them, with one column of space behind it.
        digits: decimal places.

    Returns:
        float32 `[B, H, W, C]`.

    Raises:
        ValueError: if a shape or a knob doesn't fit.

    Source: fastai's course, `crappify`, which prints the JPEG quality.
    """
    check_rank(image, function="draw_number")
    zoom = check_positive_int(zoom, function="draw_number", argument="zoom")
    digits = check_positive_int(digits, function="draw_number", argument="digits")
    x = jnp.asarray(image, jnp.float32)
    number, top, left = (jnp.asarray(v, jnp.int32) for v in (number, top, left))
    if x.ndim != 4 or any(v.shape != x.shape[:1] for v in (number, top, left)):
        raise ValueError(
            f"draw_number: image has shape {x.shape}, number, top and left have {number.shape}, {top.shape} "
            f"and {left.shape}; expected [B, H, W, C] and [B]."
        )
    # Which font pixel each image pixel shows, by row and by column.
    rows = (jnp.arange(x.shape[1])[None] - top[:, None]) // zoom
    columns = (jnp.arange(x.shape[2])[None] - left[:, None]) // zoom
    inside = ((rows >= 0) & (rows < GLYPH_HEIGHT))[:, :, None] & (
        (columns >= 0) & (columns < digits * GLYPH_WIDTH)
    )[:, None, :]
    powers = jnp.asarray([10 ** (digits - 1 - i) for i in range(digits)], jnp.int32)
    figures = (number[:, None] // powers[None]) % 10
    text = jnp.asarray(_GLYPHS)[figures]  # [B, digits, 7, 6]
    text = text.transpose(0, 2, 1, 3).reshape(x.shape[0], GLYPH_HEIGHT, digits * GLYPH_WIDTH)
    rows = jnp.clip(rows, 0, GLYPH_HEIGHT - 1)
    columns = jnp.clip(columns, 0, digits * GLYPH_WIDTH - 1)
    ink = jax.vmap(lambda glyphs, r, c: glyphs[r][:, c])(text, rows, columns) & inside
    return jnp.where(ink[..., None], 1.0, x)
