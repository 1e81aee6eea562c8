"""Learning the parameters of metrics from photographs: NIQE's pristine model, SFF's feature detector."""

import argparse
import io
import pathlib

import numpy as np

from vaesr.data import Bank, open_bank
from vaesr.inference.reading import output_path
from vaesr.metrics import fit_niqe_model, fit_sff_detector
from vaesr.reports.canvas import write_atomically


def fit(args: argparse.Namespace) -> int:
    """Carries out `vaesr fit`.

    Args:
        args: parsed arguments.

    Returns:
        The exit code.
    """
    output = output_path(args.output, (".npy" if args.metric == "sff" else ".npz",))
    bank = open_bank(args.data)
    photos = choose_photos(bank, args.split)
    if args.metric == "sff":
        _fit_sff(photos, output, args)
    else:
        _fit_niqe(photos, output, args)
    return 0


def choose_photos(bank: Bank, splits: list[str]) -> dict[str, np.ndarray]:
    """The photos of some splits by name.

    Args:
        bank: images of any size.
        splits: names of splits; an empty list is all.

    Returns:
        uint8 `[H, W, C]` each.

    Raises:
        ValueError: if the bank has no such split.
    """
    index = [i for split in splits for i in bank.split(split)] if splits else list(range(len(bank)))
    return {bank.names[i]: np.asarray(bank.image(int(i))) for i in sorted({int(i) for i in index})}


def _fit_sff(photos: dict[str, np.ndarray], output: pathlib.Path, args: argparse.Namespace) -> None:
    # The detector sees colour: photos without would teach it that there is none.
    colour = {n: p for n, p in photos.items() if p.shape[2] == 3 and (p != p[..., :1]).any()}
    if not colour:
        raise ValueError(f"{args.data} holds no colour photograph among its {len(photos)} images")
    buffer = io.BytesIO()
    np.save(buffer, fit_sff_detector(colour.values(), seed=args.seed))
    write_atomically(output, buffer.getvalue())
    grey = f" ({len(photos) - len(colour)} grey ones left out)" if len(colour) < len(photos) else ""
    print(f"SFF detector [8, 192] of {len(colour)} photographs{grey} -> {output}: {', '.join(colour)}")


def _fit_niqe(photos: dict[str, np.ndarray], output: pathlib.Path, args: argparse.Namespace) -> None:
    large = {n: p for n, p in photos.items() if min(p.shape[:2]) >= 96}
    model = fit_niqe_model(large.values(), sharpness=args.sharpness)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, mean=model.mean, covariance=model.covariance)
    write_atomically(output, buffer.getvalue())
    small = (
        f" ({len(photos) - len(large)} smaller than 96 pixels left out)" if len(large) < len(photos) else ""
    )
    print(f"NIQE model of {len(large)} photographs{small} -> {output}")
