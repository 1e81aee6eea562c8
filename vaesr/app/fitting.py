"""Learning the parameters of metrics from photographs: NIQE's pristine model, SFF's feature detector."""

import argparse
import pathlib

import numpy as np

from vaesr.app.arguments import output_path
from vaesr.data import Bank, open_bank
from vaesr.files.atomic import atomic_file
from vaesr.metrics import fit_niqe_model, fit_sff_detector


def fit(args: argparse.Namespace) -> int:
    """Carries out `vaesr fit`; returns the exit code."""
    output = output_path(args.output, (".npy" if args.metric == "sff" else ".npz",))
    photos = choose_photos(open_bank(args.data), args.split)
    (_fit_sff if args.metric == "sff" else _fit_niqe)(photos, output, args)
    return 0


def choose_photos(bank: Bank, splits: list[str]) -> dict[str, np.ndarray]:
    """The photos of some splits (no names: of all) by name, uint8 `[H, W, C]` each."""
    index = [i for split in splits for i in bank.split(split)] if splits else list(range(len(bank)))
    return {bank.names[i]: np.asarray(bank.image(int(i))) for i in sorted({int(i) for i in index})}


def _fit_sff(photos: dict[str, np.ndarray], output: pathlib.Path, args: argparse.Namespace) -> None:
    # The detector sees colour: photos without would teach it that there is none.
    colour = {n: p for n, p in photos.items() if p.shape[2] == 3 and (p != p[..., :1]).any()}
    if not colour:
        raise ValueError(f"{args.data} holds no colour photograph among its {len(photos)} images")
    detector = fit_sff_detector(colour.values(), seed=args.seed)
    with atomic_file(output) as temporary, open(temporary, "wb") as file:
        np.save(file, detector)
    grey = f" ({len(photos) - len(colour)} grey ones left out)" if len(colour) < len(photos) else ""
    print(f"SFF detector [8, 192] of {len(colour)} photographs{grey} -> {output}: {', '.join(colour)}")


def _fit_niqe(photos: dict[str, np.ndarray], output: pathlib.Path, args: argparse.Namespace) -> None:
    large = {n: p for n, p in photos.items() if min(p.shape[:2]) >= 96}
    model = fit_niqe_model(large.values(), sharpness=args.sharpness)
    with atomic_file(output) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, mean=model.mean, covariance=model.covariance)
    less = len(photos) - len(large)
    small = f" ({less} smaller than 96 pixels left out)" if less else ""
    print(f"NIQE model of {len(large)} photographs{small} -> {output}")
