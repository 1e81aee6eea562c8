"""Published weights into files of ours: `vaesr convert`."""

import argparse

from vaesr.app.arguments import output_path
from vaesr.files.atomic import cache_root, write_atomically
from vaesr.inference.networks import load_network
from vaesr.pretrained import (
    FAMILIES,
    FEATURES,
    PERCEPTUAL,
    convert_features,
    convert_perceptual,
    family_of,
    write_checkpoint,
    write_features,
    write_network,
    write_perceptual,
)
from vaesr.pretrained.kept import weight_file


def convert(args: argparse.Namespace) -> int:
    """Carries out `vaesr convert`; returns the exit code."""
    if args.name not in (*FEATURES, *PERCEPTUAL):
        return _convert_network(args)
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


def list_families() -> str:
    """Every way of writing a network down and whose it is, a line each."""
    width = max(map(len, FAMILIES))
    return "\n".join(f"  {name:{width}}  {family.name}" for name, family in FAMILIES.items())


def _convert_network(args: argparse.Namespace) -> int:
    """A network into a checkpoint for PyTorch."""
    if args.trunk or args.heads:
        raise ValueError(f"--trunk and --heads belong to metrics and content losses, not to {args.name}")
    if not args.output:
        raise ValueError("-o: say which file to write, .pth, .pt or .safetensors")
    output = output_path(args.output, (".pth", ".pt", ".safetensors"))
    run = load_network(args.name)
    family = args.family or run.config.get("origin", {}).get("family") or family_of(run.model)
    # What else a training keeps for its own use is no part of the network.
    statistics = {name: tree for name, tree in run.collections.items() if name == "batch_stats"}
    state = write_network(run.model, run.params[run.player], family, statistics)
    write_atomically(output, write_checkpoint(output, state, wrapper=FAMILIES[family].wrapper))
    count = sum(array.size for array in state.values())
    print(f"{args.name} -> {output}: {FAMILIES[family].name}, {len(state)} arrays, {count:,} numbers")
    return 0
