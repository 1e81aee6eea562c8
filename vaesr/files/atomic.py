"""Files that are whole or not there, how they are called, and where what is made once is kept."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator


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
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part" + path.suffix)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        # mkstemp makes private files; give the ones everybody else's programs would make.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def legible(name: str | os.PathLike[str]) -> str:
    """A file's name, or text with one, as text that can be written: bytes that are no UTF-8 as `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """The absolute path of what is kept, not created: `cache_dir`, `$VAESR_CACHE` or `~/.cache/vaesr`."""
    chosen = cache_dir or os.environ.get("VAESR_CACHE") or pathlib.Path.home() / ".cache" / "vaesr"
    return pathlib.Path(chosen).expanduser().absolute()
