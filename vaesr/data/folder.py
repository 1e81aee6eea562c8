"""`folder:PATH`: photographs of any size and format below a folder."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from vaesr.data.source import Source, stamp
from vaesr.data.splits import split_name
from vaesr.data.writer import BankWriter
from vaesr.files.decode import decode_image
from vaesr.files.extras import pillow
from vaesr.files.opening import ImageFileError

# A file with another ending is none of our business; one of these that cannot be read is reported.
IMAGE_ENDINGS = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp",
    ".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif",
})  # fmt: skip


def find_folder(spec: str, path: pathlib.Path, min_size: int) -> Source:
    """List the image files below a folder; sides below `min_size` pixels are not accepted."""
    if not path.is_dir():
        raise NotADirectoryError(f"data source {spec!r}: {path} is a file; expected a folder of images")
    pillow("Image")  # that it is missing is said before the files are listed
    files = sorted(_walk(path))
    if not files:
        raise ValueError(
            f"data source {spec!r}: no file below {path} has an image's ending "
            f"({', '.join(sorted(IMAGE_ENDINGS))})"
        )
    fingerprint = json.dumps(["folder", min_size, [stamp(file) for file in files]])
    return Source(spec, fingerprint, lambda writer: _write(writer, path, files, min_size))


def _walk(path: pathlib.Path) -> Iterator[pathlib.Path]:
    for folder, subfolders, names in os.walk(path, followlinks=False):
        subfolders[:] = [name for name in subfolders if not name.startswith((".", "__MACOSX"))]
        for name in names:
            if not name.startswith(".") and pathlib.PurePath(name).suffix.lower() in IMAGE_ENDINGS:
                yield pathlib.Path(folder) / name


def _read(file: pathlib.Path, min_size: int) -> tuple[np.ndarray, list[str]] | str:
    """Pixels and notes, or the reason why not."""
    if file.exists() and not file.is_file():  # reading it might never end
        return "is a pipe, a socket or a device, no file"
    try:
        data = file.read_bytes()
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    try:
        return decode_image(data, min_size=min_size)
    except ImageFileError as error:
        return str(error)


def _write(writer: BankWriter, root: pathlib.Path, files: list[pathlib.Path], min_size: int) -> None:
    # Pillow lets go of the interpreter lock while it decodes. A few files at a time bound the memory.
    workers = min(8, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        groups = (files[first : first + 2 * workers] for first in range(0, len(files), 2 * workers))
        read = itertools.chain.from_iterable(
            pool.map(lambda file: (file, _read(file, min_size)), g) for g in groups
        )
        for file, result in writer.track(read, len(files)):
            relative = file.relative_to(root)
            name = relative.as_posix()
            if isinstance(result, str):
                writer.note(name, "skipped", result)
                continue
            image, notes = result
            if notes:
                writer.note(name, "converted", "; ".join(notes))
            split = split_name(relative.parts[0]) if len(relative.parts) > 1 else None
            writer.add(image[None], split=split, names=[name])
