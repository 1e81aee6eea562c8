"""Data sources by name: `embedded:`, `tfds:`, `folder:`, `idx:` and `npy:` strings to a packed bank."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable

from vaesr.data.bank import BANK_FORMAT, Bank, cache_root, load_bank
from vaesr.data.decode import DECODER_VERSION
from vaesr.data.writer import BankWriter, bank_writer

_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Source:
    """A source that was found but not decoded: what it is made of, and how to write it into a bank."""

    spec: str
    fingerprint: str
    write: Callable[[BankWriter], None]


def open_bank(
    spec: str,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    strict: bool = False,
    progress: bool = True,
    min_size: int = 16,
) -> Bank:
    """Open a data source; decode it into the cache first, if that was not done before.

    Args:
        spec: `"embedded:digits" | "embedded:digits8x8" | "embedded:photos" | "tfds:NAME[:CONFIG]" |
            "folder:PATH" |
            "idx:PATH" | "npy:PATH"`.
        cache_dir: where decoded data is kept; default `$VAESR_CACHE` or `~/.cache/vaesr`.
        strict: raise if any file had to be skipped or converted.
        progress: show a bar, and the report of skipped and converted files, on stderr while decoding.
        min_size: smallest side in pixels of a photo in a folder; smaller ones are skipped.

    Returns:
        The bank, memory-mapped.

    Raises:
        ValueError: if the string is no source, nothing in it is usable, or `strict` and something was amiss.
        FileNotFoundError: if the path is not there.
    """
    if min_size < 1:
        raise ValueError(f"min_size must be at least 1 pixel, got {min_size}")
    root = cache_root(cache_dir)
    source = find_source(spec, root=root, min_size=min_size)
    parts = json.dumps([BANK_FORMAT, DECODER_VERSION, source.fingerprint])
    key = hashlib.blake2b(parts.encode(), digest_size=12).hexdigest()
    slug = re.sub(r"[^A-Za-z0-9]+", "-", spec)[-40:].strip("-")
    target = root / "banks" / f"{slug}-{key}"
    bank = load_bank(target)
    if bank is None:
        with bank_writer(target.parent, spec, progress=progress) as writer:
            source.write(writer)
            bank = writer.commit(target)
        if progress:
            _print_report(bank)
    troubles = [entry for entry in bank.report if entry.action != "note"]
    if strict and troubles:
        lines = "".join(f"\n  {entry}" for entry in troubles)
        raise ValueError(
            f"strict: data source {spec!r} has {len(troubles)} files that are not plain RGB:{lines}"
        )
    return dataclasses.replace(bank, spec=spec)


def find_source(spec: str, *, root: pathlib.Path, min_size: int = 16) -> Source:
    """Look a source string up, without decoding.

    Args:
        spec: see `open_bank`.
        root: the cache folder (embedded sets are prepared there).
        min_size: smallest side of a photo, in pixels.

    Returns:
        The source.

    Raises:
        ValueError: if the string is no source; the message says which was perhaps meant.
        FileNotFoundError: if the path is not there.
    """
    from vaesr.data import arrays, folder, tfds_source

    scheme, colon, rest = spec.partition(":")
    finders: dict[str, Callable[[], Source]] = {
        "embedded": lambda: tfds_source.find_embedded(spec, rest, root),
        "tfds": lambda: tfds_source.find_tfds(spec, rest),
        "folder": lambda: folder.find_folder(spec, _path(spec, rest, "a folder of images"), min_size),
        "idx": lambda: arrays.find_idx(spec, _path(spec, rest, "a folder of IDX files")),
        "npy": lambda: arrays.find_npy(spec, _path(spec, rest, "an .npy file or a folder with train.npy")),
    }
    if not colon or scheme not in finders or not rest:
        raise ValueError(_unknown(spec, scheme, colon, rest, list(finders)))
    return finders[scheme]()


def _unknown(spec: str, scheme: str, colon: str, rest: str, known: list[str]) -> str:
    from vaesr.data.embedded import EMBEDDED

    guess = None
    close = difflib.get_close_matches(scheme, known, 1, 0.5)
    if not colon and spec in EMBEDDED:
        guess = f"embedded:{spec}"
    elif os.path.isdir(spec):
        guess = f"folder:{spec}"
    elif spec.endswith(".npy"):
        guess = f"npy:{spec}"
    elif close:
        guess = f"{close[0]}:{rest or ('digits' if close[0] == 'embedded' else 'NAME')}"
    hint = f"; did you mean {guess!r}?" if guess else ";"
    forms = ", ".join(f"embedded:{name}" for name in EMBEDDED)
    return (
        f"data source {spec!r} is not understood{hint} a source is one of {forms}, tfds:NAME, folder:PATH, "
        "idx:PATH, npy:PATH"
    )


def _path(spec: str, rest: str, what: str) -> pathlib.Path:
    path = pathlib.Path(rest).expanduser().absolute()
    if not path.exists():
        raise FileNotFoundError(f"data source {spec!r}: there is no {path}; expected {what}")
    return path


def stamp(path: pathlib.Path) -> list[object]:
    """What a cache key takes of a file: name, size and time of change.

    Args:
        path: a file.

    Returns:
        `[path, bytes, nanoseconds]`; of a file that cannot be looked at, the path and two nulls.
    """
    try:
        stat = path.stat()
    except OSError:
        return [str(path), None, None]
    return [str(path), stat.st_size, stat.st_mtime_ns]


def _print_report(bank: Bank) -> None:
    for entry in bank.report[:_SHOWN]:
        print(f"{bank.spec}: {entry}", file=sys.stderr)
    if len(bank.report) > _SHOWN:
        print(f"{bank.spec}: and {len(bank.report) - _SHOWN} more (bank.report has all)", file=sys.stderr)
