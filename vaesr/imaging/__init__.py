"""Image maths without parameters: resize, warp, colour, 8-bit grids, blur, patches, symmetries, tiles."""

from vaesr.imaging.bits import quantise, to_float, to_uint8
from vaesr.imaging.blur import blur, correlate, downsample
from vaesr.imaging.colour import rgb_to_grey, rgb_to_y, rgb_to_ycbcr, ycbcr_to_rgb
from vaesr.imaging.crappify import crappify
from vaesr.imaging.digits import draw_number
from vaesr.imaging.jpeg import jpeg
from vaesr.imaging.kernel_shapes import (
    bicubic_kernel,
    checked_kernel,
    clean_kernel,
    fit_kernel,
    gaussian_of,
    kernel_covariance,
    kernel_of_twice,
    kernel_shift,
    random_kernel,
    wanted_centre,
)
from vaesr.imaging.kernel_spectrum import BlurSpread, estimate_spread
from vaesr.imaging.kernels import centre_of_mass, gaussian_kernel, motion_kernel, sinc_kernel
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
from vaesr.imaging.warp import warp_affine

__all__ = [
    "BlurSpread",
    "Span",
    "bicubic_kernel",
    "blur",
    "centre_of_mass",
    "checked_kernel",
    "clean_kernel",
    "correlate",
    "crappify",
    "dihedral",
    "dihedral_inverse",
    "downsample",
    "draw_number",
    "estimate_spread",
    "extract_patches",
    "fit_kernel",
    "gaussian_kernel",
    "gaussian_of",
    "imresize",
    "jpeg",
    "kernel_covariance",
    "kernel_of_twice",
    "kernel_shift",
    "motion_kernel",
    "pixel_shuffle",
    "pixel_unshuffle",
    "plan_tiles",
    "quantise",
    "random_kernel",
    "rgb_to_grey",
    "rgb_to_y",
    "rgb_to_ycbcr",
    "sinc_kernel",
    "tiled_apply",
    "to_float",
    "to_uint8",
    "upsample_nearest",
    "wanted_centre",
    "warp_affine",
    "ycbcr_to_rgb",
]
