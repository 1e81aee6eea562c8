"""`vaesr evaluate`: images beside their references, a run beside the truth, metrics beside people."""

import argparse
import csv
import io
import json
import math
import pathlib
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vaesr import __version__
from vaesr.app import batch
from vaesr.app.against_people import against_people, print_table, read_weights
from vaesr.app.comparisons import Item, Loaded, Measurement, measure_items
from vaesr.app.metric_names import Metric, find_metrics, read_protocol
from vaesr.app.pairing import match_files, read_comparable, read_pair
from vaesr.data import SubjectiveDatabase, read_subjective
from vaesr.files import images
from vaesr.files.atomic import legible, write_atomically
from vaesr.imaging import imresize, quantise
from vaesr.inference.networks import load_network
from vaesr.inference.tiling import bind_upscaler
from vaesr.inference.upscaling import upscale
from vaesr.reports import comparison_strip, scores_page
from vaesr.reports.scores import Column, Row, Table
from vaesr.reports.strips import largest_sum


def evaluate(args: argparse.Namespace) -> int:
    """Carries out `vaesr evaluate`; returns the exit code.

    It is 1 if an image failed or has no partner, or the results cannot be written.
    """
    output = pathlib.Path(args.output).expanduser()
    if output.is_file():
        raise ValueError(f"-o: {args.output!r} is a file; give a folder for the results")
    given = [name for name in ("input", "run", "iqa") if getattr(args, name)]
    if len(given) != 1:
        raise ValueError(
            "give one of -i (images to judge), --run (a network to judge) and --iqa (a database)"
        )
    if args.run and not args.reference:
        raise ValueError("--run needs -r, the images that it is to make again from small ones")
    no_reference = args.input and not args.reference
    chosen = args.metrics or ("niqe" if no_reference else "psnr,ssim")
    chosen = find_metrics(
        chosen, read_protocol(args.protocol), niqe_model=args.niqe_model, sff_detector=args.sff_detector
    )
    needing = [metric.name for metric in chosen if metric.needs_reference]
    if no_reference and needing:
        raise ValueError(f"{', '.join(needing)} needs references: give them with -r")
    weights = read_weights(args.weights, chosen)
    batch.check_writable(output)
    database, problems = None, []
    if args.iqa:
        database = read_subjective(args.iqa)
        items = [_pair_item(str(number), p.reference, p.distorted) for number, p in enumerate(database.pairs)]
        title = f"{database.name}: {len(items)} rated images"
    elif args.run:
        items = _run_items(args, output / "upscaled")
        title = legible(f"{args.run} on {args.reference}")
    elif no_reference:
        paths = batch.find_inputs(args.input)
        items, title = [_single_item(_unique(paths)[p], p) for p in paths], legible(args.input)
    else:
        matches = match_files(args.reference, args.input)
        names = _unique([image for _, image in matches.pairs])
        items = [_pair_item(names[image], reference, image) for reference, image in matches.pairs]
        title = legible(f"{args.input} against {args.reference}")
        problems += [f"{path.name}: no image belongs to this reference" for path in matches.without_image]
        problems += [f"{path.name}: no reference belongs to this image" for path in matches.without_reference]
        if not items:
            raise ValueError(f"no file of {args.input} has the name of one of {args.reference}")
    failed: list[tuple[str, str]] = []
    on_error = traceback.print_exception if args.debug else None
    measured = list(measure_items(items, chosen, failed=failed, threads=not args.run, on_error=on_error))
    problems = [legible(line) for line in (*problems, *(f"{name}: {reason}" for name, reason in failed))]
    if not measured:
        raise ValueError(f"nothing could be compared: {problems[0]}")
    problems += _finish(args, output, title, chosen, measured, problems, database, weights)
    for line in problems:
        print(f"vaesr evaluate: {line}", file=sys.stderr)
    return 1 if problems else 0


def _unique(paths: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Names of files, with their folder where two are called alike."""
    counts = Counter(path.name for path in paths)
    return {p: legible(p.name if counts[p.name] == 1 else p) for p in paths}


def _size(path: pathlib.Path) -> tuple[int, int]:
    return batch.look(path)[0] or (0, 0)


def _pair_item(name: str, reference: pathlib.Path, image: pathlib.Path) -> Item:
    return Item(name, lambda: read_pair(reference, image), _size(image))


def _single_item(name: str, path: pathlib.Path) -> Item:
    def load() -> Loaded:
        image, notes = read_comparable(path)
        return image, image, notes

    return Item(name, load, _size(path))


def _run_items(args: argparse.Namespace, folder: pathlib.Path) -> list[Item]:
    """References, made small by bicubic and large again by the run; what it makes is kept in a folder."""
    run = load_network(args.run, which=args.which).precise()
    network = bind_upscaler(run, args.scale)
    paths = batch.find_inputs(args.reference)
    names = _unique(paths)
    several = len({_size(path) for path in paths}) > 3

    stems = Counter(path.stem.lower() for path in paths)

    def item(number: int, path: pathlib.Path) -> Item:
        # Two references of one stem must not take each other's place.
        stem = path.stem if stems[path.stem.lower()] == 1 else f"{path.stem}_{number}"
        target = folder / f"{stem}.png"
        made: list[pathlib.Path] = []

        def load() -> Loaded:
            image, notes = read_comparable(path)
            height, width = (n // network.scale * network.scale for n in image.shape[:2])
            hr = image[:height, :width]
            if min(hr.shape[:2]) < network.scale:
                raise images.ImageFileError(f"is too small for scale {network.scale}")
            if not made:
                lr = quantise(imresize(jnp.asarray(hr), 1 / network.scale))
                large = quantise(jnp.asarray(upscale(network, lr, several_sizes=several)))
                images.write_photo(target, images.Photo(np.rint(np.asarray(large) * 255).astype(np.uint8)))
                made.append(target)
            # What was written is what is judged, and shown without being made again.
            sr, _ = read_comparable(target)
            if hr.shape != image.shape:
                notes = [*notes, f"cut to {width}x{height}"]
            return hr, sr, notes

        return Item(names[path], load, _size(path))

    return [item(number, path) for number, path in enumerate(paths, 1)]


def _finish(
    args: argparse.Namespace,
    output: pathlib.Path,
    title: str,
    chosen: Sequence[Metric],
    measured: list[Measurement],
    problems: Sequence[str],
    database: SubjectiveDatabase | None,
    weights: dict[str, float],
) -> list[str]:
    """Prints the means, and writes `scores.csv`, `scores.json` and `report.html`.

    Returns a line if they can't be written: what was measured is on the terminal by then.
    """
    first = chosen[0]

    def badness(one: Measurement) -> float:
        value = one.scores[first.name]
        return math.inf if math.isnan(value) else value if first.higher_is_better else -value

    order = sorted(measured, key=badness)
    labels = {v.item.name: v.item.name for v in measured}
    tables: list[Table] = []
    result: dict[str, Any] = {
        "vaesr": __version__,
        "what": title,
        "metrics": {metric.name: _summary(metric, measured) for metric in chosen},
    }
    if database is not None:
        labels = {
            str(i): legible(f"{p.distorted.name} ({p.distortion})" if p.distortion else p.distorted.name)
            for i, p in enumerate(database.pairs)
        }
        table, figures = against_people(
            chosen, measured, database, fit=args.fit, k=args.rrf_k, weights=weights
        )
        tables.append(table)
        result["database"] = {"name": database.name, "scale": database.scale, "agreement": figures}
        print_table(table)
    for metric in chosen:
        summary = result["metrics"][metric.name]
        mean = "none" if summary["mean"] is None else f"{summary['mean']:.4f}"
        unit = f" {metric.unit}" if metric.unit else ""
        same = f", {summary['identical']} identical" if summary["identical"] else ""
        none = f", none for {summary['missing']}" if summary["missing"] else ""
        print(f"{metric.name}: {mean}{unit} ({metric.protocol}{same}{none})")
    result["images"] = [
        {
            "name": labels[v.item.name],
            **{name: _plain(value) for name, value in v.scores.items()},
            "width": v.size[1],
            "height": v.size[0],
            "remarks": v.notes,
        }
        for v in order
    ]
    result["problems"] = list(problems)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    rated = [] if database is None else ["subjective"]
    writer.writerow(["image", *(metric.name for metric in chosen), *rated, "width", "height", "remarks"])
    for v in order:
        score = [] if database is None else [database.pairs[int(v.item.name)].score]
        values = [f"{v.scores[metric.name]:.7g}" for metric in chosen]
        name, remarks = _cell(labels[v.item.name]), _cell("; ".join(v.notes))
        writer.writerow([name, *values, *score, v.size[1], v.size[0], remarks])
    rows = [Row(labels[v.item.name], v.scores, "; ".join(v.notes)) for v in order]
    page = scores_page(
        title,
        f"{len(rows)} images, the worst by {first.name} first. vaesr {__version__}.",
        [Column(j.name, j.unit, j.higher_is_better, j.protocol) for j in chosen],
        rows,
        tables=tables,
        pictures=[_picture(v, labels[v.item.name], chosen) for v in order[: args.pictures]],
        problems=problems,
    )
    files = {
        "scores.csv": buffer.getvalue(),
        "scores.json": json.dumps(result, indent=1, allow_nan=False) + "\n",
        "report.html": page,
    }
    for name, text in files.items():
        try:
            write_atomically(output / name, text.encode())
        except OSError as error:
            return [legible(f"cannot write {output / name}: {error.strerror or error}")]
    print(f"{len(measured)} images -> {output / 'report.html'}, scores.csv, scores.json")
    return []


def _cell(text: str) -> str:
    """A table's cell that spreadsheets show and don't compute: file names may begin as formulas do."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _plain(value: float) -> float | str | None:
    """A number that JSON can hold."""
    return None if math.isnan(value) else "identical" if math.isinf(value) else value


def _summary(metric: Metric, measured: Sequence[Measurement]) -> dict[str, Any]:
    values = np.array([v.scores[metric.name] for v in measured])
    finite = values[np.isfinite(values)]
    return {
        "mean": float(finite.mean()) if len(finite) else None,
        "standard_deviation": float(finite.std()) if len(finite) else None,
        "number": len(finite),
        "identical": int(np.isinf(values).sum()),
        "missing": int(np.isnan(values).sum()),
        "unit": metric.unit,
        "protocol": metric.protocol,
        "higher_is_better": metric.higher_is_better,
    }


def _picture(one: Measurement, name: str, chosen: Sequence[Metric]) -> tuple[str, np.ndarray]:
    """The detail where the images differ most."""
    reference, image, _ = one.item.load()
    scores = ", ".join(
        f"{j.name} {'identical' if math.isinf(s) else f'{s:.4g}'}"
        for j in chosen
        if not math.isnan(s := one.scores[j.name])
    )
    if min(reference.shape[:2]) < 8:
        return f"{name}: {scores}", np.full((8, 8, 3), 255, np.uint8)
    if reference is image:
        strip = comparison_strip([("image", image)] * 2, captions=["", ""])
        return f"{name}: {scores}", strip[:, : strip.shape[1] * 2 // 3]
    apart = np.abs(reference - image)
    size = min(96, *apart.shape[:2])
    peak = max(float(apart.max()), 1e-6)
    strip = comparison_strip(
        [("reference", reference), ("image", image), ("difference", apart / peak)],
        captions=["", "", f"white is {255 * peak:.0f} of 255"],
        crop=largest_sum(apart.sum(axis=2, dtype=np.float64), (size, size)),
        crop_size=size,
    )
    return f"{name}: {scores}", strip
