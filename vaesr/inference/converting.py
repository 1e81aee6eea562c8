"""Published weights into files of ours: `vaesr convert`."""

import argparse
import pathlib

from vaesr.data import cache_root
from vaesr.inference.cli import output_path
from vaesr.pretrained import convert_perceptual, write_perceptual
from vaesr.reports.canvas import write_atomically


def weight_file(name: str) -> pathlib.Path:
    """Where `vaesr convert NAME` writes and `vaesr evaluate` looks, if not told otherwise.

    Args:
        name: one of `vaesr.pretrained.PERCEPTUAL`.

    Returns:
        The path, whether or not there is such a file.
    """
    return cache_root() / "weights" / f"{name}.npz"


def convert(args: argparse.Namespace) -> int:
    """Carries out `vaesr convert`.

    Args:
        args: parsed arguments.

    Returns:
        The exit code.
    """
    output = output_path(args.output, (".npz",)) if args.output else weight_file(args.name)
    network, origin = convert_perceptual(
        args.name, packages=cache_root() / "packages", trunk=args.trunk, heads=args.heads
    )
    write_atomically(output, write_perceptual(network, origin))
    for part, digest in origin.items():
        print(f"{part}: sha256 {digest}")
    print(f"{args.name} -> {output}")
    return 0
