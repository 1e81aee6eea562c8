"""Flax Linen modules that two or more models use."""

from vaesr.layers.activations import ACTIVATIONS, Activation, PReLU
from vaesr.layers.attention import SelfAttention
from vaesr.layers.bayesian import BayesianForward, bayesian_apply
from vaesr.layers.causal import CausalAttention, CausalConv
from vaesr.layers.choices import check_choices
from vaesr.layers.conv import (
    FORMS,
    PRECISIONS,
    Conv,
    ConvForm,
    Precision,
    conv2d,
    lax_precision,
    strided_conv2d,
    torch_uniform,
)
from vaesr.layers.depthwise import depthwise_conv2d
from vaesr.layers.mean_shift import add_mean, subtract_mean
from vaesr.layers.members import dropout_apply, ensemble_apply
from vaesr.layers.norm import BatchNorm, global_mean
from vaesr.layers.norm_swish import BatchNormSwish
from vaesr.layers.pointwise import pointwise_conv2d
from vaesr.layers.quantisers import (
    FiniteScalarQuantiser,
    Quantised,
    ResidualQuantiser,
    VectorQuantiser,
)
from vaesr.layers.resampling import ConvTranspose, DownConv, conv_transpose2d
from vaesr.layers.residual import ResBlock, Trunk, stack_blocks, unstack_blocks
from vaesr.layers.spectral import SpectralNorm, spectral_normalise
from vaesr.layers.upsampler import Upsampler, check_rgb, upsampler_factors

__all__ = [
    "ACTIVATIONS",
    "FORMS",
    "PRECISIONS",
    "Activation",
    "BatchNorm",
    "BatchNormSwish",
    "BayesianForward",
    "CausalAttention",
    "CausalConv",
    "Conv",
    "ConvForm",
    "ConvTranspose",
    "DownConv",
    "FiniteScalarQuantiser",
    "PReLU",
    "Precision",
    "Quantised",
    "ResBlock",
    "ResidualQuantiser",
    "SelfAttention",
    "SpectralNorm",
    "Trunk",
    "Upsampler",
    "VectorQuantiser",
    "add_mean",
    "bayesian_apply",
    "check_choices",
    "check_rgb",
    "conv2d",
    "conv_transpose2d",
    "depthwise_conv2d",
    "dropout_apply",
    "ensemble_apply",
    "global_mean",
    "lax_precision",
    "pointwise_conv2d",
    "spectral_normalise",
    "stack_blocks",
    "strided_conv2d",
    "subtract_mean",
    "torch_uniform",
    "unstack_blocks",
    "upsampler_factors",
]
