"""Digests of the files of a folder, by which one notices what has changed in them since."""

import hashlib
import pathlib
from collections.abc import Callable, Mapping


def digest(path: pathlib.Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_changed(
    folder: pathlib.Path, expected: Mapping[str, str], *, read: Callable[[pathlib.Path], str] = digest
) -> str:
    """The first of the files `{name: digest}` that is gone, unreadable or not as it was; "" where all are.

    Names may be a stranger's: only files found within `folder` are looked at, and those that links there lead
    to; a name that a terminal would not show, or obey, is returned as Python writes it. `read` gives a file's
    digest.
    """
    try:
        own = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    except OSError:  # a folder that may not be listed
        own = {}
    for name, known in sorted(expected.items()):
        try:
            if name not in own or read(own[name]) != known:
                return _shown(name)
        except OSError:
            return _shown(name)
    return ""


def _shown(name: str) -> str:
    return name if name and name.isprintable() else repr(name)
