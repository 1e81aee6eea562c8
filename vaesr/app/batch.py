"""Upscaling of files: what goes in, where it goes, and what happens when one of many is broken."""

import contextlib
import dataclasses
import functools
import glob
import mimetypes
import os
import pathlib
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vaesr.app import video
from vaesr.app.status import Status
from vaesr.files import images
from vaesr.files.extras import pillow
from vaesr.files.metadata import Metadata
from vaesr.files.opening import has_alpha, is_deep_grey
from vaesr.files.png16 import is_png16
from vaesr.inference.tiling import bind_upscaler
from vaesr.inference.upscaling import upscale
from vaesr.runs.load import Run

Say = Callable[[str], None]
_MARKED = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "JPEG2000", "ICO")
_MOST_PIXELS = 10**9  # of a result that nobody confirmed


class UsageError(ValueError):
    """A command that cannot be carried out as given; nothing was done."""


@dataclasses.dataclass
class Job:
    """One file to be upscaled.

    `size` is `(height, width)` from the file's header, None where that cannot be read; `bits` 8 or 16;
    `channels` 1 to 4; `named`, that the target's name was given; `note` says why it is of another format than
    asked; `done`, that the target is there already and is to be kept; `moving`, that it is a video.
    """

    source: pathlib.Path
    target: pathlib.Path
    size: tuple[int, int] | None = None
    bits: int = 8
    channels: int = 3
    named: bool = False
    note: str = ""
    done: bool = False
    moving: bool = False


def find_inputs(
    pattern: str, endings: Sequence[str] = images.READABLE, *, recursive: bool = False
) -> list[pathlib.Path]:
    """Lists the files that `-i` means, in the order of their names; a UsageError where there are none.

    The pattern is a file (whatever its extension), a folder (its image files, those in folders within only if
    `recursive`), or a glob pattern such as `"photos/*.jpg"` or `"photos/**/*.png"`. `endings`, lower case,
    say which of a folder's or a pattern's files count, and with them those that are images by their content,
    or by what their extension is known for: they are named as failed if they can't be read. What is hidden
    never does.
    """
    path = pathlib.Path(pattern).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        inner = path.rglob("*") if recursive else path.iterdir()
        found = [p for p in inner if p.is_file() and not _is_hidden(p.relative_to(path))]
    else:
        found = [pathlib.Path(p) for p in glob.glob(str(path), recursive=True) if os.path.isfile(p)]
        if not found:
            kind = "no file matches" if glob.has_magic(pattern) else "there is no file or folder"
            raise UsageError(f"-i: {kind} {pattern!r}")
    pictures = sorted(p for p in found if not p.name.startswith(".") and _is_picture(p, endings))
    if not pictures:
        kinds = "image files or videos" if ".mp4" in endings else "image files"
        raise UsageError(f"-i: {pattern!r} holds no {kinds} ({', '.join(endings)})")
    return pictures


def _is_picture(path: pathlib.Path, endings: Sequence[str]) -> bool:
    known, _ = mimetypes.guess_type(path.name)
    if path.suffix.lower() in endings or (known or "").startswith("image/"):
        return True
    # A film's extension, or a text's, says enough.
    return known is None and looks_like_image(path)


def looks_like_image(path: pathlib.Path) -> bool:
    """Whether a file begins as images do; of a format whose beginning tells it."""
    pil = pillow("Image")
    pil.init()
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")
            pil.open(file, formats=[name for name in _MARKED if name in pil.OPEN])
    except Exception:  # whatever hostile bytes make Pillow raise
        return False
    return True


def _is_hidden(path: pathlib.Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def plan_jobs(
    patterns: str | Sequence[str],
    output: str,
    *,
    suffix: str = "out",
    extension: str = "auto",
    skip_existing: bool = False,
    recursive: bool = False,
) -> list[Job]:
    """Decides where every result goes before anything is computed; a UsageError where that is impossible.

    `patterns` are one or several of what `find_inputs` takes; with `recursive` the results of folders within
    a folder go to folders of the same names. The output is a folder; or, with one input file, a file name
    that ends in a writable extension, an image's for an image and a video's for a video. The suffix is put
    after the name with an underscore, "" for none. The extension is "png", "jpg", "webp", "tiff", or "auto"
    for the input's own (PNG where that is none of
    them); an image that the format cannot hold (transparency in JPEG, 16 bits in WebP) becomes PNG. Videos
    keep theirs where it can be written, and become `.mkv` where not. No two jobs have the same target, none
    has its own or another's source as target; with `skip_existing` those whose target is there are marked.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    destination = pathlib.Path(output).expanduser()
    within: dict[pathlib.Path, pathlib.Path] = {}  # of every source, the folder of its result
    for pattern in patterns:
        root = pathlib.Path(pattern).expanduser()
        for path in find_inputs(pattern, (*images.READABLE, *video.READABLE), recursive=recursive):
            inner = path.relative_to(root).parent if recursive and root.is_dir() else pathlib.Path()
            # Run twice with the results' folder within, those of the first time are no inputs of the second.
            made = recursive and root.is_dir() and path.resolve().is_relative_to(destination.resolve())
            if not made or root.resolve().is_relative_to(destination.resolve()):
                within.setdefault(path, inner)
    sources, explicit = list(within), {pathlib.Path(pattern).expanduser() for pattern in patterns}
    one_file = len(patterns) == 1 and pathlib.Path(patterns[0]).expanduser().is_file()
    ending = destination.suffix.lower()
    single = ending in (*images.WRITABLE, *video.READABLE) and not destination.is_dir()
    if ending and not single and not destination.exists() and not output.endswith(("/", os.sep)):
        known = ", ".join((*images.WRITABLE, *video.WRITABLE))
        raise UsageError(f"-o: {output!r} ends in none of {known}; end the name of a new folder in /")
    if single and one_file:
        writable = video.WRITABLE if _is_video(sources[0]) else images.WRITABLE
        if ending not in writable:
            raise UsageError(f"-o: {sources[0].name} becomes {', '.join(writable)}, not {destination.name!r}")
    if single and not one_file:
        raise UsageError(f"-o: {output!r} is a file name, but -i names several images; give a folder")
    if destination.is_file() and not single:
        raise UsageError(f"-o: {output!r} is a file, but neither an image file name nor a folder")
    if single and extension != "auto":
        raise UsageError(f"--ext: the name {destination.name!r} says the format already; leave --ext out")
    if not single and suffix and any(p.parent.resolve() == destination.resolve() for p in sources):
        # Run twice on one folder, the results of the first time are no inputs of the second.
        sources = [p for p in sources if p in explicit or not p.stem.endswith("_" + suffix)]
    if os.sep in suffix or "/" in suffix:
        raise UsageError(f"--suffix: {suffix!r} must not hold a path separator")
    places = [destination if single else destination / within[source] for source in sources]
    jobs = [_job(s, place, single, suffix, extension) for s, place in zip(sources, places, strict=True)]
    if not jobs:
        raise UsageError(f"-i: {', '.join(patterns)} holds only results (names that end in _{suffix})")
    _part_collisions(jobs, suffix)
    inputs = {p.resolve() for p in sources}
    for job in jobs:
        if job.target.resolve() in inputs:
            raise UsageError(
                f"-o: {job.target} would overwrite an input; choose another folder or a --suffix"
            )
        job.done = skip_existing and job.target.exists()
    for folder in {job.target.parent for job in jobs if not job.done}:
        check_writable(folder)
    for job in jobs:
        if job.target.is_dir():
            raise UsageError(f"-o: {job.target}, where a result would go, is a folder")
    return jobs


def check_writable(folder: pathlib.Path) -> None:
    """Refuses a place for results before anything is computed; nothing is made there."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UsageError(f"-o: {there} is a file, so {folder} can't be a folder of results")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UsageError(f"-o: {folder} can't be written: {error.strerror or error}") from error


def fit_formats(jobs: list[Job], factor: float, *, suffix: str) -> None:
    """Makes targets PNGs where their format does not hold the result; a UsageError of a given name."""
    for job in jobs:
        if job.moving or job.done:
            continue
        side = round(min(factor * max(job.size or (1,)), 1e12))
        reason = images.fits(job.target.suffix.lower(), job.channels, job.bits, side)
        if reason and job.named:
            raise UsageError(f"-o: {job.source.name}: {reason}; give a name that ends in .png")
        if reason:
            job.target, job.note = job.target.with_suffix(".png"), f"{reason}: written as PNG"
    _part_collisions([job for job in jobs if not job.done], suffix)


def check_sizes(jobs: Sequence[Job], factor: float) -> str | None:
    """Tells of the largest result that is beyond a gigapixel; None where there is none."""
    sized = [(job.size[0] * job.size[1], job) for job in jobs if job.size and not job.done]
    if not sized:
        return None
    pixels, job = max(sized, key=lambda found: found[0])
    if pixels * min(factor, 1e9) ** 2 <= _MOST_PIXELS or job.size is None:
        return None
    height, width = (round(min(side * factor, 1e12)) for side in job.size)
    return (
        f"{job.source.name} becomes {width}x{height}, {width * height / 1e9:.1f} gigapixels "
        f"({width * height * 3 * job.bits / 8 / 2**30:.0f} GiB of memory)"
    )


def _is_video(path: pathlib.Path) -> bool:
    return path.suffix.lower() in video.READABLE


def _job(source: pathlib.Path, destination: pathlib.Path, single: bool, suffix: str, extension: str) -> Job:
    if _is_video(source):
        own = source.suffix.lower()
        ending, note = (own, "") if own in video.WRITABLE else (".mkv", f"{own} written as Matroska")
        name = f"{source.stem}_{suffix}" if suffix else source.stem
        target = destination if single else destination / (name + ending)
        return Job(source, target, note="" if single else note, moving=True)
    size, channels, bits = look(source)
    if single:
        return Job(source, destination, size, bits, channels, named=True)
    own = source.suffix.lower()
    wanted = (
        (own if own in images.WRITABLE else ".png")
        if extension == "auto"
        else "." + extension.lstrip(".").lower()
    )
    if wanted not in images.WRITABLE:
        raise UsageError(
            f"--ext: must be auto, {', '.join(e[1:] for e in images.WRITABLE)}, got {extension!r}"
        )
    reason = images.fits(wanted, channels, bits)
    name = f"{source.stem}_{suffix}" if suffix else source.stem
    target = destination / (name + (".png" if reason else wanted))
    return Job(source, target, size, bits, channels, note=f"{reason}: written as PNG" if reason else "")


def look(path: pathlib.Path) -> tuple[tuple[int, int] | None, int, int]:
    """Reads the header: `(height, width)`, channels and bits; None, 3 and 8 where there is none to read."""
    image_module = pillow("Image")
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")
            head = file.read(26)
            file.seek(0)
            image = image_module.open(file)
            bits = 16 if is_png16(head) or is_deep_grey(image) or images.is_tiff16(image) else 8
            channels = 4 if has_alpha(image) else 3 if image.mode[:2] != "I;" else 1
            return (image.height, image.width), channels, bits
    except Exception:  # whatever hostile bytes make Pillow raise
        return None, 3, 8


def _part_collisions(jobs: list[Job], suffix: str) -> None:
    """a.png and a.jpg would both become a_out.png: they become a_png_out.png and a_jpg_out.png."""
    counts = Counter(str(job.target).lower() for job in jobs)  # as file systems that ignore case see it
    for job in jobs:
        if counts[str(job.target).lower()] > 1:
            stem = f"{job.source.stem}_{job.source.suffix[1:]}" + (f"_{suffix}" if suffix else "")
            job.target = job.target.with_name(stem + job.target.suffix)
    taken: set[str] = set()
    for job in jobs:  # the same name from two folders of a glob, or a name made above
        number, stem = 2, job.target.stem
        while str(job.target).lower() in taken:
            job.target = job.target.with_name(f"{stem}_{number}{job.target.suffix}")
            number += 1
        taken.add(str(job.target).lower())


def upscale_files(
    run: Run,
    jobs: Sequence[Job],
    *,
    scale: float | None = None,
    tile: int | None = None,
    tile_pad: int | None = None,
    self_ensemble: bool = False,
    precision: Literal["own", "float16", "float32"] = "own",
    alpha: Any = "bicubic",
    crf: int = 16,
    metadata: Metadata = "all",
    say: Say | None = None,
    status: Status | None = None,
    on_error: Callable[[Exception], None] | None = None,
) -> list[tuple[Job, str]]:
    """Upscales files one after another; a broken one does not stop the rest.

    For `scale`, tiles, `self_ensemble` and `alpha` see `upscale`; for `crf`, of videos, `upscale_video`; for
    `metadata`, of images, `read_photo`. `precision` is "float16", "float32" in full (`Run.precise`), or the
    network's own, which on accelerators may be bfloat16; CPUs compute in full float32 whatever it says, and
    so are images of 16 bits. `say` gets a line for each file (default: as the status prints them), `status`
    what is going on, `on_error` each exception as it is caught. Returns `(job, reason)` of those that failed;
    nothing of them is left on disk, but what could be read of a damaged video. A ValueError where the run
    holds no upscaler.
    """
    todo = [job for job in jobs if not job.done]
    with contextlib.ExitStack() as stack:
        status = status or stack.enter_context(Status(quiet=True))
        status.expect([job.size and job.size[0] * job.size[1] for job in todo])
        run = dataclasses.replace(run, on_compile=status.compiling)
        precise = run.precise()
        if precision == "float32" or jax.default_backend() == "cpu":
            run = precise
        elif precision == "float16":
            run = run.with_dtype(jnp.float16)
        bind_upscaler(run, scale)  # a run of another kind is refused before the first file
        # Few sizes: each whole. Many: windows of few shapes, so that compilation does not outweigh the work.
        several = len({job.size for job in todo if not job.moving}) > 3
        knobs = {"scale": scale, "tile": tile, "tile_pad": tile_pad, "self_ensemble": self_ensemble}
        photos = {**knobs, "alpha": alpha, "several_sizes": several, "metadata": metadata}
        failed: list[tuple[Job, str]] = []
        for job in todo:
            began = time.perf_counter()
            status.begin(job.source.name)
            try:
                if job.moving:
                    report = functools.partial(status.progress, unit="picture")
                    clip_knobs: dict[str, Any] = {**knobs, "crf": crf, "progress": report}
                    clip = video.upscale_video(run, job.source, job.target, **clip_knobs)
                    done: Done = clip.before, clip.after, (f"{clip.frames} pictures", *clip.notes)
                    if clip.lost:
                        whole = clip.frames + clip.lost
                        failed.append((job, f"is damaged: {clip.lost} of {whole} pictures are lost"))
                else:
                    network = precise if job.bits == 16 else run
                    done = upscale_photo(network, job, **photos, progress=status.progress)
            except (ValueError, OSError, MemoryError, RuntimeError, ImportError, ArithmeticError) as error:
                reason = " ".join((str(error) or type(error).__name__).split())
                failed.append((job, reason))
                if on_error:
                    on_error(error)
            else:
                (say or status.say)(line_of(job, *done, time.perf_counter() - began))
            status.finish()
    return failed


# Height and width before and after, and notes.
Done = tuple[Sequence[int], Sequence[int], Sequence[str]]


def upscale_photo(run: Run, job: Job, *, metadata: Metadata = "all", **knobs: Any) -> Done:
    """Upscales one image file; knobs as of `upscale`, and `metadata` as of `read_photo`.

    Returns the shape before, the shape after, and notes of what was changed in reading. A ValueError where
    the file is no image, or the network fails on it; a MemoryError where the device's memory does not
    suffice.
    """
    photo, result = _upscaled(run, job, metadata, knobs)
    return photo.pixels.shape, result.shape, photo.notes


def upscale_for_show(run: Run, job: Job, **knobs: Any) -> tuple[images.Photo, np.ndarray]:
    """As `upscale_photo`; gives the photo as it was read, and the pixels that were written."""
    return _upscaled(run, job, "all", knobs)


def _upscaled(
    run: Run, job: Job, metadata: Metadata, knobs: dict[str, Any]
) -> tuple[images.Photo, np.ndarray]:
    photo = images.read_photo(job.source, metadata=metadata)
    result = upscale(run, photo.pixels, **knobs)
    images.write_photo(job.target, dataclasses.replace(photo, pixels=result))
    return photo, result


def report(command: str, failed: Sequence[tuple[str, str]], total: int) -> int:
    """Names the files that failed; the command's exit code."""
    if not failed:
        return 0
    print(f"vaesr {command}: {len(failed)} of {total} files failed:", file=sys.stderr)
    for name, why in failed:
        print(f"  {name}: {why}", file=sys.stderr)
    return 1


def line_of(
    job: Job, before: Sequence[int], after: Sequence[int], notes: Sequence[str], seconds: float
) -> str:
    """What is told of a file that is done."""
    sizes = f"{before[1]}x{before[0]} -> {after[1]}x{after[0]}"
    text = f"{job.source.name}: {sizes} {job.target} ({seconds:.1f} s)"
    notes = [note for note in (*notes, job.note) if note]
    return text + (f" [{'; '.join(notes)}]" if notes else "")
