"""Hashes of the files of a folder, by which one notices what has changed in them since."""

import functools
import hashlib
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence

# Larger files are read through only where their date is not that of their making: it would take minutes.
_ALWAYS_HASHED = 4 << 30


def hashes_of(paths: Iterable[pathlib.Path]) -> dict[str, list[str | int]]:
    """Hash and date of files by name, as the index of their folder keeps them."""
    return {path.name: [_digest(path), path.stat().st_mtime_ns] for path in paths}


def is_whole(folder: pathlib.Path, hashes: Mapping[str, Sequence[str | int]], remedy: str) -> bool:
    """Whether the folder's files are as `hashes_of` found them; if not, a line says so, and the remedy.

    Files that have no hash count as whole: there was a version without. OSError for a file that is gone.
    """
    for name, (expected, modified) in hashes.items():
        file = folder / name
        if file.parent != folder or not file.is_file():  # a stranger's index may name anything
            raise FileNotFoundError(f"{folder} has no file {name!r}")
        status = file.stat()
        if status.st_size > _ALWAYS_HASHED and status.st_mtime_ns == modified:
            continue
        if _digest(file) != expected:
            print(f"note: {file} is damaged; {remedy}.", file=sys.stderr)
            return False
    return True


def _digest(path: pathlib.Path) -> str:
    status = path.stat()
    return _digest_once(path, status.st_ino, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest_once(path: pathlib.Path, file: int, modified: int) -> str:
    """The file's hash, found once in a process unless the file changes or another takes its place."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
