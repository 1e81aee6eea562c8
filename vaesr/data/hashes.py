"""Whether the files of a bank's folder are as they were written, without reading gigabytes each time."""

import functools
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence

from vaesr.files.digests import digest, first_changed

# Larger files are read through only where their date is not that of their making: it would take minutes.
_ALWAYS_HASHED = 4 << 30


def hashes_of(paths: Iterable[pathlib.Path]) -> dict[str, list[str | int]]:
    """Hash and date of files by name, as the index of their folder keeps them."""
    return {path.name: [_digest(path), path.stat().st_mtime_ns] for path in paths}


def is_whole(folder: pathlib.Path, hashes: Mapping[str, Sequence[str | int]], remedy: str) -> bool:
    """Whether the folder's files are as `hashes_of` found them; if not, a line says so, and the remedy.

    Files that have no hash count as whole: there was a version without.
    """
    known = {name: (str(expected), modified) for name, (expected, modified) in hashes.items()}

    def read(path: pathlib.Path) -> str:
        expected, modified = known[path.relative_to(folder).as_posix()]
        status = path.stat()
        believed = status.st_size > _ALWAYS_HASHED and status.st_mtime_ns == modified
        return expected if believed else _digest(path)

    expected = {name: expected for name, (expected, _) in known.items()}
    if name := first_changed(folder, expected, read=read):
        print(f"note: {name} of {folder} is damaged; {remedy}.", file=sys.stderr)
    return not name


def _digest(path: pathlib.Path) -> str:
    status = path.stat()
    return _digest_once(path, status.st_ino, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest_once(path: pathlib.Path, file: int, modified: int) -> str:
    """The file's hash, found once in a process unless the file changes or another takes its place."""
    return digest(path)
