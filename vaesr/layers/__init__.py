"""Flax Linen modules that two or more models use."""

from vaesr.layers.conv import FORMS, PRECISIONS, Conv, conv2d, torch_uniform
from vaesr.layers.mean_shift import DIV2K_MEAN, add_mean, subtract_mean
from vaesr.layers.residual import ResBlock, Trunk, stack_blocks, unstack_blocks
from vaesr.layers.upsampler import Upsampler, upsampler_factors

__all__ = [
    "DIV2K_MEAN",
    "FORMS",
    "PRECISIONS",
    "Conv",
    "ResBlock",
    "Trunk",
    "Upsampler",
    "add_mean",
    "conv2d",
    "stack_blocks",
    "subtract_mean",
    "torch_uniform",
    "unstack_blocks",
    "upsampler_factors",
]
