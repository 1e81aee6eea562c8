"""`vaesr evaluate`: images beside their references, a run beside the truth, metrics beside people."""

import argparse
import csv
import dataclasses
import io
import json
import math
import pathlib
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaesr import __version__
from vaesr.data import SubjectiveDatabase, read_subjective
from vaesr.imaging import imresize, quantise
from vaesr.inference import files, images
from vaesr.inference.judges import Judge, find_judges, read_protocol, score_batch
from vaesr.inference.pairing import match_files, read_comparable, read_pair
from vaesr.inference.runs import load_run
from vaesr.inference.upscaling import network_of, upscale
from vaesr.metrics import agreement, borda_fusion, isotonic_calibration, reciprocal_rank_fusion
from vaesr.reports import comparison_strip, scores_page
from vaesr.reports.canvas import write_atomically
from vaesr.reports.scores import Column, Row, Table

# Two images of one shape and remarks.
Loaded = tuple[np.ndarray, np.ndarray, list[str]]
# Decoded ahead of what is being scored.
_AHEAD = 16


@dataclasses.dataclass(frozen=True)
class Item:
    """One comparison.

    Attributes:
        name: unique among all.
        load: reads both images.
        size: `(height, width)` as far as it is known without reading, to put equal ones together.
    """

    name: str
    load: Callable[[], Loaded]
    size: tuple[int, int]


@dataclasses.dataclass
class Verdict:
    """What came of one comparison.

    Attributes:
        item: the comparison.
        scores: by the metrics' names.
        size: `(height, width)`.
        notes: remarks.
    """

    item: Item
    scores: dict[str, float]
    size: tuple[int, int]
    notes: list[str]


def evaluate(args: argparse.Namespace) -> int:
    """Carries out `vaesr evaluate`.

    Args:
        args: parsed arguments.

    Returns:
        The exit code: 1 if an image failed or has no partner.
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
    judges = find_judges(
        chosen, read_protocol(args.protocol), niqe_model=args.niqe_model, sff_detector=args.sff_detector
    )
    needing = [judge.name for judge in judges if judge.needs_reference]
    if no_reference and needing:
        raise ValueError(f"{', '.join(needing)} needs references: give them with -r")
    database, problems = None, []
    if args.iqa:
        database = read_subjective(args.iqa)
        items = [_pair_item(str(number), p.reference, p.distorted) for number, p in enumerate(database.pairs)]
        title = f"{database.name}: {len(items)} rated images"
    elif args.run:
        items, title = _run_items(args, output / "upscaled"), f"{args.run} on {args.reference}"
    elif no_reference:
        paths = files.find_inputs(args.input)
        items, title = [_single_item(_unique(paths)[p], p) for p in paths], str(args.input)
    else:
        matches = match_files(args.reference, args.input)
        names = _unique([image for _, image in matches.pairs])
        items = [_pair_item(names[image], reference, image) for reference, image in matches.pairs]
        title = f"{args.input} against {args.reference}"
        problems += [f"{path.name}: no image belongs to this reference" for path in matches.without_image]
        problems += [f"{path.name}: no reference belongs to this image" for path in matches.without_reference]
        if not items:
            raise ValueError(f"no file of {args.input} has the name of one of {args.reference}")
    failed: list[tuple[str, str]] = []
    on_error = traceback.print_exception if args.debug else None
    verdicts = list(score_items(items, judges, failed=failed, threads=not args.run, on_error=on_error))
    problems += [f"{name}: {reason}" for name, reason in failed]
    if not verdicts:
        raise ValueError(f"nothing could be compared: {problems[0]}")
    _finish(args, output, title, judges, verdicts, problems, database)
    for line in problems:
        print(f"vaesr evaluate: {line}", file=sys.stderr)
    return 1 if problems else 0


def _unique(paths: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Names of files, with their folder where two are called alike."""
    counts = Counter(path.name for path in paths)
    return {p: p.name if counts[p.name] == 1 else str(p) for p in paths}


def _size(path: pathlib.Path) -> tuple[int, int]:
    return files.look(path)[0] or (0, 0)


def _pair_item(name: str, reference: pathlib.Path, image: pathlib.Path) -> Item:
    return Item(name, lambda: read_pair(reference, image), _size(image))


def _single_item(name: str, path: pathlib.Path) -> Item:
    def load() -> Loaded:
        image, notes = read_comparable(path)
        return image, image, notes

    return Item(name, load, _size(path))


def _run_items(args: argparse.Namespace, folder: pathlib.Path) -> list[Item]:
    """References, made small by bicubic and large again by the run; what it makes is kept in a folder."""
    run = load_run(args.run, args.which).precise()
    network = network_of(run, args.scale)
    paths = files.find_inputs(args.reference)
    names = _unique(paths)
    several = len({_size(path) for path in paths}) > 3

    def item(path: pathlib.Path) -> Item:
        def load() -> Loaded:
            image, notes = read_comparable(path)
            height, width = (n // network.scale * network.scale for n in image.shape[:2])
            hr = image[:height, :width]
            if min(hr.shape[:2]) < network.scale:
                raise images.ImageFileError(f"is too small for scale {network.scale}")
            lr = quantise(imresize(jnp.asarray(hr), 1 / network.scale))
            sr = np.asarray(quantise(jnp.asarray(upscale(network, lr, several_sizes=several))))
            stored = np.rint(sr * 255).astype(np.uint8)
            images.write_photo(folder / f"{path.stem}.png", images.Photo(stored))
            if hr.shape != image.shape:
                notes = [*notes, f"cut to {width}x{height}"]
            return hr, sr, notes

        return Item(names[path], load, _size(path))

    return [item(path) for path in paths]


def score_items(
    items: Sequence[Item],
    judges: Sequence[Judge],
    *,
    failed: list[tuple[str, str]],
    threads: bool = True,
    on_error: Callable[[Exception], Any] | None = None,
) -> Iterator[Verdict]:
    """Scores comparisons, those of one shape in batches, while further ones are being decoded.

    Args:
        items: the comparisons.
        judges: the metrics.
        failed: gets the name and the reason of those that could not be read.
        threads: decode in threads; not for items that compute.
        on_error: gets each exception as it is caught.

    Yields:
        The verdicts, equal sizes together.
    """
    ordered = sorted(items, key=lambda item: item.size)
    bar = files.progress_bar(len(items))
    waiting: list[tuple[Item, Loaded]] = []
    # The largest batch of the present shape: a smaller last one is filled up instead of compiled anew.
    compiled = 0
    try:
        for item, loaded in _load(ordered, threads):
            if isinstance(loaded, Exception):
                failed.append((item.name, " ".join((str(loaded) or type(loaded).__name__).split())))
                if on_error:
                    on_error(loaded)
            else:
                if waiting and waiting[0][1][0].shape != loaded[0].shape:
                    yield from _score(waiting, judges, compiled)
                    waiting, compiled = [], 0
                waiting.append((item, loaded))
                if len(waiting) >= _batch_size(loaded[0].shape):
                    compiled = len(waiting)
                    yield from _score(waiting, judges, compiled)
                    waiting = []
            if bar is not None:
                bar.update(1)
        if waiting:
            yield from _score(waiting, judges, compiled)
    finally:
        if bar is not None:
            bar.close()


def _batch_size(shape: Sequence[int]) -> int:
    pixels = 1 << (24 if jax.default_backend() != "cpu" else 20)
    return max(1, min(64, pixels // (shape[0] * shape[1])))


def _load(items: Sequence[Item], threads: bool) -> Iterable[tuple[Item, Loaded | Exception]]:
    def attempt(item: Item) -> Loaded | Exception:
        try:
            return item.load()
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            return error

    if not threads:
        yield from ((item, attempt(item)) for item in items)
        return
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(attempt, item) for item in items[:_AHEAD]]
        for number, item in enumerate(items):
            loaded = running[number].result()
            running[number] = None  # type: ignore[call-overload]
            if number + _AHEAD < len(items):
                running.append(pool.submit(attempt, items[number + _AHEAD]))
            yield item, loaded


def _score(
    waiting: Sequence[tuple[Item, Loaded]], judges: Sequence[Judge], compiled: int
) -> Iterator[Verdict]:
    fill = max(0, compiled - len(waiting))
    stacks = [
        np.stack([loaded[side] for _, loaded in waiting] + [waiting[-1][1][side]] * fill) for side in (0, 1)
    ]
    scores, refused = score_batch(judges, *stacks)
    for row, (item, (reference, _, notes)) in enumerate(waiting):
        of_row = {name: float(values[row]) for name, values in scores.items()}
        size = (reference.shape[0], reference.shape[1])
        yield Verdict(item, of_row, size, [*notes, *(f"no {name}" for name in refused)])


def _finish(
    args: argparse.Namespace,
    output: pathlib.Path,
    title: str,
    judges: Sequence[Judge],
    verdicts: list[Verdict],
    problems: Sequence[str],
    database: SubjectiveDatabase | None,
) -> None:
    """Writes `scores.csv`, `scores.json` and `report.html`, and prints the means."""
    first = judges[0]

    def badness(verdict: Verdict) -> float:
        value = verdict.scores[first.name]
        return math.inf if math.isnan(value) else value if first.higher_is_better else -value

    order = sorted(verdicts, key=badness)
    labels = {v.item.name: v.item.name for v in verdicts}
    tables: list[Table] = []
    result: dict[str, Any] = {
        "vaesr": __version__,
        "what": title,
        "metrics": {judge.name: _summary(judge, verdicts) for judge in judges},
    }
    if database is not None:
        labels = {
            str(i): f"{p.distorted.name} ({p.distortion})" if p.distortion else p.distorted.name
            for i, p in enumerate(database.pairs)
        }
        table, figures = _against_people(args, judges, verdicts, database)
        tables.append(table)
        result["database"] = {"name": database.name, "scale": database.scale, "agreement": figures}
        _print_table(table)
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
    writer.writerow(["image", *(judge.name for judge in judges), *rated, "width", "height", "remarks"])
    for v in order:
        score = [] if database is None else [database.pairs[int(v.item.name)].score]
        values = [f"{v.scores[judge.name]:.7g}" for judge in judges]
        writer.writerow([labels[v.item.name], *values, *score, v.size[1], v.size[0], "; ".join(v.notes)])
    rows = [Row(labels[v.item.name], v.scores, "; ".join(v.notes)) for v in order]
    page = scores_page(
        title,
        f"{len(rows)} images, the worst by {first.name} first. vaesr {__version__}.",
        [Column(j.name, j.unit, j.higher_is_better, j.protocol) for j in judges],
        rows,
        tables=tables,
        pictures=[_picture(v, labels[v.item.name], judges) for v in order[: args.pictures]],
        problems=problems,
    )
    write_atomically(output / "scores.csv", buffer.getvalue().encode())
    write_atomically(output / "scores.json", (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(output / "report.html", page.encode())
    for judge in judges:
        summary = result["metrics"][judge.name]
        mean = "none" if summary["mean"] is None else f"{summary['mean']:.4f}"
        unit = f" {judge.unit}" if judge.unit else ""
        same = f", {summary['identical']} identical" if summary["identical"] else ""
        none = f", none for {summary['missing']}" if summary["missing"] else ""
        print(f"{judge.name}: {mean}{unit} ({judge.protocol}{same}{none})")
    print(f"{len(verdicts)} images -> {output / 'report.html'}, scores.csv, scores.json")


def _plain(value: float) -> float | str | None:
    """A number that JSON can hold."""
    return None if math.isnan(value) else "identical" if math.isinf(value) else value


def _summary(judge: Judge, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    values = np.array([v.scores[judge.name] for v in verdicts])
    finite = values[np.isfinite(values)]
    return {
        "mean": float(finite.mean()) if len(finite) else None,
        "standard_deviation": float(finite.std()) if len(finite) else None,
        "number": len(finite),
        "identical": int(np.isinf(values).sum()),
        "missing": int(np.isnan(values).sum()),
        "unit": judge.unit,
        "protocol": judge.protocol,
        "higher_is_better": judge.higher_is_better,
    }


def _picture(verdict: Verdict, name: str, judges: Sequence[Judge]) -> tuple[str, np.ndarray]:
    """The detail where the images differ most."""
    reference, image, _ = verdict.item.load()
    scores = ", ".join(
        f"{j.name} {'identical' if math.isinf(s) else f'{s:.4g}'}"
        for j in judges
        if not math.isnan(s := verdict.scores[j.name])
    )
    if min(reference.shape[:2]) < 8:
        return f"{name}: {scores}", np.full((8, 8, 3), 255, np.uint8)
    if reference is image:
        strip = comparison_strip([("image", image)] * 2, captions=["", ""])
        return f"{name}: {scores}", strip[:, : strip.shape[1] * 2 // 3]
    apart = np.abs(reference - image)
    size = min(96, *apart.shape[:2])
    sums = np.pad(apart.sum(axis=2, dtype=np.float64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    boxes = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    top, left = np.unravel_index(boxes.argmax(), boxes.shape)
    peak = max(float(apart.max()), 1e-6)
    strip = comparison_strip(
        [("reference", reference), ("image", image), ("difference", apart / peak)],
        captions=["", "", f"white is {255 * peak:.0f} of 255"],
        crop=(int(top), int(left)),
        crop_size=size,
    )
    return f"{name}: {scores}", strip


def _against_people(
    args: argparse.Namespace,
    judges: Sequence[Judge],
    verdicts: Sequence[Verdict],
    database: SubjectiveDatabase,
) -> tuple[Table, dict[str, Any]]:
    """Correlations of every metric and of their fusions with the subjective scores."""
    pairs = [database.pairs[int(v.item.name)] for v in verdicts]
    people = np.array([pair.score for pair in pairs])
    scores = np.array([[v.scores[judge.name] for v in verdicts] for judge in judges])
    # What PSNR says of identical images: more than of any other.
    ceiling = np.where(np.isfinite(scores), scores, -np.inf).max(axis=1, keepdims=True)
    scores = np.where(np.isposinf(scores), ceiling + 1, scores)
    # Scores by name, and whether higher is better.
    ours = {j.name: (row, j.higher_is_better) for j, row in zip(judges, scores, strict=True)}
    whole = np.isfinite(scores).all(axis=1)
    members = [judge for judge, held in zip(judges, whole, strict=True) if held]
    if len(members) > 1:
        table, directions = scores[whole], [j.higher_is_better for j in members]
        joined = "+".join(judge.name for judge in members)
        weights = _weights(args.weights, members)
        fused = np.asarray(
            reciprocal_rank_fusion(table, higher_is_better=directions, k=args.rrf_k, weights=weights), float
        )
        borda = np.asarray(borda_fusion(table, higher_is_better=directions, weights=weights), float)
        calibrated = isotonic_calibration(fused, table[0], higher_is_better=directions[0])
        ours[f"rrf{args.rrf_k:g}({joined})"] = fused, True
        ours[f"borda({joined})"] = borda, True
        ours[f"rrf{args.rrf_k:g}({joined}), in units of {members[0].name}"] = calibrated, directions[0]
    figures: dict[str, Any] = {}
    rows = []
    for name, (values, higher) in ours.items():
        held = np.isfinite(values)
        if held.sum() < 5 or np.ptp(values[held]) == 0:
            continue
        found = agreement(values[held], people[held], fit=args.fit)
        by_kind = {}
        for kind in sorted({pair.distortion for pair in pairs} - {""}):
            chosen = held & np.array([pair.distortion == kind for pair in pairs])
            if chosen.sum() > 4 and np.ptp(values[chosen]) > 0 and np.ptp(people[chosen]) > 0:
                by_kind[kind] = agreement(values[chosen], people[chosen], fit="none").srcc
        figures[name] = {
            "plcc": found.plcc,
            "srcc": found.srcc,
            "krcc": found.krcc,
            "rmse": None if math.isnan(found.rmse) else found.rmse,
            "fit": found.fit,
            "fit_parameters": found.parameters,
            "number": found.number,
            "higher_is_better": higher,
            "srcc_by_distortion": by_kind,
        }
        rows.append((name, found.plcc, abs(found.srcc), abs(found.krcc), found.rmse, float(found.number)))
    rows.sort(key=lambda row: -row[2])
    head = ("metric", f"PLCC ({args.fit})", "|SRCC|", "|KRCC|", "RMSE", "images")
    return Table(f"Agreement with people ({database.scale})", head, rows), figures


def _weights(text: str, members: Sequence[Judge]) -> np.ndarray | None:
    if not text:
        return None
    try:
        given = {k.strip().replace("-", "_"): float(v) for k, v in (p.split("=") for p in text.split(","))}
    except ValueError:
        raise ValueError(f"--weights must be of the form ssim=1,vsi=2, got {text!r}") from None
    names = [judge.name for judge in members]
    if set(given) - set(names) or min(given.values()) < 0:
        raise ValueError(f"--weights must name some of {', '.join(names)}, at least 0 each, got {text!r}")
    return np.array([given.get(name, 1.0) for name in names])


def _print_table(table: Table) -> None:
    width = max(len(str(row[0])) for row in table.rows) if table.rows else 6
    print(table.title)
    print("  ".join([table.head[0].ljust(width), *(f"{name:>16}" for name in table.head[1:])]))
    for name, *values in table.rows:
        cells = [f"{value:>16.4f}" if isinstance(value, float) else f"{value:>16}" for value in values[:-1]]
        print("  ".join([str(name).ljust(width), *cells, f"{float(values[-1]):>16.0f}"]))
