"""A source that was found: what it is made of, and how to decode it into a bank."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

from vaesr.data.writer import BankWriter


@dataclasses.dataclass(frozen=True)
class Source:
    """A source that was found but not decoded: what it is made of, and how to write it into a bank."""

    spec: str
    fingerprint: str
    write: Callable[[BankWriter], None]


def stamp(path: pathlib.Path) -> list[object]:
    """What a cache key takes of a file: `[path, bytes, nanoseconds of its change]`.

    Of a file that cannot be looked at, the path and two nulls.
    """
    try:
        stat = path.stat()
    except OSError:
        return [str(path), None, None]
    return [str(path), stat.st_size, stat.st_mtime_ns]
