"""Files that are whole or not there, how they are called, and where what is made once is kept."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator

_unfinished: set[pathlib.Path] = set()


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part.

    Missing parent folders are made; where it fails nothing is left behind.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Lets a file be written at leisure under another name, and gives it its own once it is complete.

    Yields the path to write: an empty file beside it with the same extension. Missing parent folders are
    made; nothing is left behind, whatever was raised.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.part{path.suffix}")
    with _until_finished(temporary):
        temporary.touch(exist_ok=False)
        yield temporary
        temporary.replace(path)


@contextlib.contextmanager
def scratch_folder(parent: str | os.PathLike[str] | None = None) -> Iterator[pathlib.Path]:
    """A new hidden folder, in the system's place for such or in `parent`, that is gone afterwards."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=".", dir=parent))
    with _until_finished(folder):
        yield folder


@contextlib.contextmanager
def _until_finished(path: pathlib.Path) -> Iterator[None]:
    _unfinished.add(path)
    try:
        yield
    finally:
        _remove(path)
        _unfinished.discard(path)


def remove_unfinished() -> None:
    """Removes what is being written at the moment: for who ends the process where it stands."""
    for path in list(_unfinished):
        _remove(path)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def legible(name: str | os.PathLike[str]) -> str:
    """A file's name, or text with one, as text that can be written: bytes that are no UTF-8 as `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """The absolute path of what is kept, not created: `cache_dir`, `$VAESR_CACHE` or `~/.cache/vaesr`."""
    chosen = cache_dir or os.environ.get("VAESR_CACHE") or pathlib.Path.home() / ".cache" / "vaesr"
    return pathlib.Path(chosen).expanduser().absolute()
