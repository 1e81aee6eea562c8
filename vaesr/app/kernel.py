"""`vaesr kernel`: the blur of photos, estimated from each alone, as files and as pictures."""

import argparse
import pathlib
import traceback

import numpy as np

from vaesr import inference
from vaesr.app import batch
from vaesr.app.status import Status
from vaesr.files import images
from vaesr.files.kernels import write_kernel
from vaesr.imaging import fit_kernel
from vaesr.reports import save_image

_AT_ONCE = 16  # trainings


def kernel(args: argparse.Namespace) -> int:
    """Carries out `vaesr kernel`; returns the exit code."""
    folder = pathlib.Path(args.output).expanduser()
    if folder.is_file():
        raise batch.UsageError(f"-o: {args.output!r} is a file; give a folder for the kernels")
    batch.check_writable(folder)
    try:
        found = {path.resolve(): path for pattern in args.image for path in batch.find_inputs(pattern)}
    except batch.UsageError as error:  # which names an option that there is not here
        raise batch.UsageError(str(error).removeprefix("-i: ")) from error
    paths = list(found.values())
    names = unique_names(paths)
    for path in paths:
        for target in _targets(folder, names[path]):
            if target.resolve() in found or target.is_dir():
                raise batch.UsageError(f"-o: {target} is there already and no result of ours; another folder")
    if args.skip_existing:
        kept = [path for path in paths if all(t.exists() for t in _targets(folder, names[path]))]
        if kept:
            print(f"{len(kept)} of {len(paths)} kernels are there already: skipped")
        paths = [path for path in paths if path not in kept]
    failed: list[tuple[str, str]] = []
    with Status((float(len(paths)) or 1.0,), quiet=args.quiet) as status:
        status.begin("estimating kernels")
        each = max(1, _AT_ONCE // args.seeds)
        for first in range(0, len(paths), each):
            some, pictures = [], []
            for path in paths[first : first + each]:
                try:
                    pictures.append(colour_of(images.read_photo(path).pixels))
                    inference.check_photo(pictures[-1])
                    some.append(path)
                except (ValueError, OSError, ImportError) as error:
                    pictures = pictures[: len(some)]
                    failed.append((str(path), str(error)))
                    if args.debug:
                        traceback.print_exception(error)

            def tell(share: float, done: int = first, count: int = len(some)) -> None:
                status.progress(round(1000 * (done + share * count)), 1000 * len(paths), unit="")

            estimates = inference.estimate_kernels(
                pictures,
                scale=args.scale,
                seeds=args.seeds,
                steps=args.steps,
                mode=args.mode,
                seed=args.seed,
                progress=tell,
            )
            for path, estimate in zip(some, estimates, strict=True):
                try:
                    write_kernel(folder, names[path], estimate.kernel, scale=args.scale)
                    save_image(folder / f"{names[path]}.png", drawn(estimate.kernel, args.scale))
                except OSError as error:
                    failed.append((str(path), str(error)))
                    continue
                agreement = estimate.agreement_db
                words = f"agreement {agreement:.0f} dB" if np.isfinite(agreement) else ""
                notes = "; ".join(note for note in (words, estimate.note) if note)
                if not args.quiet:
                    line = f"{path.name}: {folder / names[path]}.npz" + (f" [{notes}]" if notes else "")
                    status.say(line)
    return batch.report(args.command, failed, len(paths))


def _targets(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """The files of a photo's results."""
    return [folder / f"{name}{ending}" for ending in (".npz", ".mat", ".png")]


def unique_names(paths: list[pathlib.Path]) -> dict[pathlib.Path, str]:
    """The name of each result: the photo's without its ending, or with it where two would be alike."""
    stems = [path.stem for path in paths]
    found: dict[pathlib.Path, str] = {}
    for path, stem in zip(paths, stems, strict=True):
        name = stem if stems.count(stem) == 1 else f"{stem}_{path.suffix[1:]}"
        number, own = 2, name
        while own in found.values():
            own, number = f"{name}_{number}", number + 1
        found[path] = own
    return found


def colour_of(pixels: np.ndarray) -> np.ndarray:
    """A photo's colours as 8-bit RGB: grey in all three, without transparency, of 16 bits the upper 8."""
    colour = pixels[..., :-1] if pixels.shape[2] in (2, 4) else pixels
    if colour.dtype == np.uint16:
        colour = np.round(colour / 257).astype(np.uint8)
    return np.repeat(colour, 3, axis=2) if colour.shape[2] == 1 else colour


def drawn(kernel: np.ndarray, scale: int, *, zoom: int = 16) -> np.ndarray:
    """A kernel in grey, its largest entry white: uint8 `[H, W, 3]`."""
    plane = fit_kernel(kernel, len(kernel), scale=scale)
    plane = np.clip(plane / plane.max(), 0.0, 1.0)
    large = np.kron(np.round(255 * plane**0.5).astype(np.uint8), np.ones((zoom, zoom), np.uint8))
    return np.repeat(large[..., None], 3, axis=2)
