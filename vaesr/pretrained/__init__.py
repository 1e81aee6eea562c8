"""Weights that others have trained: reading their files, fetching published ones, keeping them as `.npz`."""

from vaesr.pretrained.checkpoints import (
    PUBLISHED,
    Published,
    read_checkpoint,
    read_published,
    write_checkpoint,
)
from vaesr.pretrained.encoders import read_resnet
from vaesr.pretrained.families import FAMILIES
from vaesr.pretrained.features import (
    FEATURES,
    FeatureWeights,
    convert_features,
    load_features,
    write_features,
)
from vaesr.pretrained.foreign import read_state
from vaesr.pretrained.kept import find_features, find_lpips
from vaesr.pretrained.naming import Family
from vaesr.pretrained.networks import ForeignNetwork, family_of, read_network, write_network
from vaesr.pretrained.packages import fetch_package
from vaesr.pretrained.perceptual import (
    PERCEPTUAL,
    convert_perceptual,
    load_dists,
    load_lpips,
    write_perceptual,
)
from vaesr.pretrained.torch_files import read_torch, write_torch

__all__ = [
    "FAMILIES",
    "FEATURES",
    "PERCEPTUAL",
    "PUBLISHED",
    "Family",
    "FeatureWeights",
    "ForeignNetwork",
    "Published",
    "convert_features",
    "convert_perceptual",
    "family_of",
    "fetch_package",
    "find_features",
    "find_lpips",
    "load_dists",
    "load_features",
    "load_lpips",
    "read_checkpoint",
    "read_network",
    "read_published",
    "read_resnet",
    "read_state",
    "read_torch",
    "write_checkpoint",
    "write_features",
    "write_network",
    "write_perceptual",
    "write_torch",
]
