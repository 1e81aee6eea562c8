"""`vaesr upscale -n zssr` and `-n kernelgan`: a network for each photo, trained on it, many at once."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vaesr import inference
from vaesr.app import batch
from vaesr.app.kernel import colour_of
from vaesr.app.status import Status
from vaesr.files import images
from vaesr.files.metadata import Metadata
from vaesr.inference.upscaling import join_channels, split_channels

NAMES = ("zssr", "kernelgan")
"""What -n calls them."""
_NOISE = 0.0125  # the authors' for real photos


@dataclasses.dataclass
class _Read:
    job: batch.Job
    photo: images.Photo
    began: float


def upscale_files(
    jobs: Sequence[batch.Job],
    *,
    estimate: bool,
    scale: float | None = None,
    kernel: np.ndarray | None = None,
    noise: float | None = None,
    steps: int = 3000,
    metadata: Metadata = "all",
    at_once: int = 8,
    status: Status,
    say: Callable[[str], None] | None = None,
    on_error: Callable[[Exception], None] | None = None,
) -> list[tuple[batch.Job, str]]:
    """Upscales photos, some at a time; a broken one does not stop the rest.

    `estimate` their kernels first, or take `kernel` for all, or else the bicubic one. `scale` is 2, 3 or 4,
    or what is reached from the next of these by bicubic resizing; None is 2. `noise` is the strength of what
    real photos have, 1 being usual; None takes the photos for clean. `steps` are the most of a training.
    Returns `(job, reason)` of those that failed; every photo is written as soon as it is done.
    """
    todo = [job for job in jobs if not job.done]
    failed: list[tuple[batch.Job, str]] = []

    def fail(job: batch.Job, error: Exception) -> None:
        failed.append((job, " ".join((str(error) or type(error).__name__).split())))
        if on_error is not None:
            on_error(error)

    status.expect([job.size[0] * job.size[1] if job.size else None for job in todo])
    for first in range(0, len(todo), at_once):
        read: list[_Read] = []
        for job in todo[first : first + at_once]:
            try:
                if job.moving:
                    raise ValueError(
                        "is a video: -n zssr and -n kernelgan train for each picture, photos only"
                    )
                photo = images.read_photo(job.source, metadata=metadata)
                height, width = photo.pixels.shape[:2]
                if min(height, width) < inference.SMALLEST:
                    raise ValueError(f"is {width}x{height}; a network learns from 8x8 pixels on")
                if estimate:
                    inference.check_photo(colour_of(photo.pixels))
                read.append(_Read(job, photo, time.perf_counter()))
            except (ValueError, OSError, ImportError) as error:
                fail(job, error)
                status.finish()
        status.begin(f"{len(read)} photos" if len(read) > 1 else read[0].job.source.name if read else "")
        done = _upscaled(
            read, estimate=estimate, scale=scale, kernel=kernel, noise=noise, steps=steps, status=status
        )
        broken: Exception | None = None  # of the training, which is one for all that are left
        for one in read:
            try:
                if broken is not None:
                    raise broken
                try:
                    pixels, notes = next(done)
                except (ValueError, MemoryError, RuntimeError) as error:
                    broken = error
                    raise
                images.write_photo(one.job.target, dataclasses.replace(one.photo, pixels=pixels))
            except (ValueError, OSError, MemoryError, RuntimeError, ImportError) as error:
                fail(one.job, error)
            else:
                seconds = time.perf_counter() - one.began
                line = batch.line_of(one.job, one.photo.pixels.shape, pixels.shape, notes, seconds)
                (say or status.say)(line)
            status.finish()
    return failed


def _upscaled(
    read: Sequence[_Read],
    *,
    estimate: bool,
    scale: float | None,
    kernel: np.ndarray | None,
    noise: float | None,
    steps: int,
    status: Status,
) -> Iterator[tuple[np.ndarray, tuple[str, ...]]]:
    """The pixels and notes of photos that were read."""
    factor = 2.0 if scale is None else scale
    whole = network_scale(factor, estimate=estimate)
    parts = [split_channels(one.photo.pixels) for one in read]
    notes: list[tuple[str, ...]] = [one.photo.notes for one in read]
    kernels: list[np.ndarray | None] = [kernel] * len(read)
    if estimate:

        def tell(share: float) -> None:
            status.stage(f"estimating kernels, {100 * share:.0f} %")

        found = list(
            inference.estimate_kernels(
                [colour_of(one.photo.pixels) for one in read], scale=whole, steps=steps, progress=tell
            )
        )
        kernels = [each.kernel for each in found]
        notes = [(*own, each.note) if each.note else own for own, each in zip(notes, found, strict=True)]

    def told(share: float) -> None:
        status.progress(round(100 * share), 100, unit="percent")

    results = inference.upscale_zero_shot(
        [part.rgb for part in parts], scale=whole, kernels=kernels, manner=None if noise is None else "real",
        noise=None if noise is None else _NOISE * noise, steps=steps, progress=told,
    )  # fmt: skip
    for one, part, own, result in zip(read, parts, notes, results, strict=True):
        height, width = (max(1, round(n * factor)) for n in one.photo.pixels.shape[:2])
        yield join_channels(part, result.pixels, (height, width)), own


def network_scale(factor: float, *, estimate: bool) -> int:
    """The scale that a network is trained for: the least from which a factor is reached by making smaller."""
    there = (2, 4) if estimate else (2, 3, 4)
    if factor > there[-1]:
        raise batch.UsageError(f"-s: {factor:g} is more than {there[-1]}, which is the most here")
    return next(scale for scale in there if scale >= factor)


def check(args: object, names: Sequence[str]) -> None:
    """Refuses options that mean nothing where a network is trained for each photo."""
    given = [flag for flag, name in names_of(names) if getattr(args, name, None) not in (None, False)]
    if given:
        raise batch.UsageError(f"{', '.join(given)}: means nothing with a network for each photo (-n zssr)")


def names_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Flags and the names that the parser has for them."""
    return [(f"--{name.replace('_', '-')}", name) for name in names]


def read_kernel(path: str) -> np.ndarray:
    """Reads --kernel."""
    from vaesr.files.kernels import read_kernel as read

    try:
        return read(pathlib.Path(path))
    except (ValueError, OSError) as error:
        raise batch.UsageError(f"--kernel: {error}") from error
