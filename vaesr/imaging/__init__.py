"""Image maths without parameters: resize, colour, 8-bit grids, pixel shuffle, patches, symmetries, tiles."""

from vaesr.imaging.bits import quantise, to_float, to_uint8
from vaesr.imaging.colour import rgb_to_grey, rgb_to_y, rgb_to_ycbcr, ycbcr_to_rgb
from vaesr.imaging.crappify import crappify
from vaesr.imaging.digits import draw_number
from vaesr.imaging.jpeg import jpeg
from vaesr.imaging.rearrange import (
    dihedral,
    dihedral_inverse,
    extract_patches,
    pixel_shuffle,
    pixel_unshuffle,
    upsample_nearest,
)
from vaesr.imaging.resize import imresize
from vaesr.imaging.tiles import Span, plan_tiles, tiled_apply

__all__ = [
    "Span",
    "crappify",
    "dihedral",
    "dihedral_inverse",
    "draw_number",
    "extract_patches",
    "imresize",
    "jpeg",
    "pixel_shuffle",
    "pixel_unshuffle",
    "plan_tiles",
    "quantise",
    "rgb_to_grey",
    "rgb_to_y",
    "rgb_to_ycbcr",
    "tiled_apply",
    "to_float",
    "to_uint8",
    "upsample_nearest",
    "ycbcr_to_rgb",
]
