"""Data sources by name: `embedded:`, `tfds:`, `folder:`, `idx:`, `npy:` and `random:` strings to a bank."""

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

from vaesr.data import arrays, folder, random_source, tfds_source
from vaesr.data.bank import BANK_FORMAT, Bank, load_bank
from vaesr.data.embedded import EMBEDDED
from vaesr.data.source import Source
from vaesr.data.squares import Square
from vaesr.data.writer import bank_writer
from vaesr.files.atomic import cache_root
from vaesr.files.decode import DECODER_VERSION

_SHOWN = 20
# What may stand behind a scheme, where not any name.
_EXAMPLES = {"embedded": "digits", "random": "photos"}


def open_bank(
    spec: str,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    strict: bool = False,
    progress: bool = True,
    min_size: int = 16,
    square: Square | None = None,
) -> Bank:
    """Open a data source; decode it into the cache first, if that was not done before.

    `spec` is `"embedded:digits" | "embedded:digits8x8" | "embedded:photos" | "tfds:NAME[:CONFIG]" |
    "folder:PATH" | "idx:PATH" | "npy:PATH" | "random:photos" | "random:COUNTxHEIGHTxWIDTHxCHANNELS"`. Decoded
    data is kept in `cache_dir`, by default `$VAESR_CACHE` or `~/.cache/vaesr`. `strict` raises if any file
    had to be skipped or converted; `progress` shows a bar, and the report of such files, on stderr while
    decoding. Photos of a folder with a side below `min_size` pixels are skipped. With a `square` all images
    become squares of one size. A ValueError if the string
    is no source or nothing in it is usable, a FileNotFoundError if the path is not there.
    """
    if min_size < 1:
        raise ValueError(f"min_size must be at least 1 pixel, got {min_size}")
    root = cache_root(cache_dir)
    source = find_source(spec, root=root, min_size=min_size)
    parts = [BANK_FORMAT, DECODER_VERSION, source.fingerprint]
    if square is not None:
        parts.append(json.dumps(dataclasses.astuple(square)))
    key = hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()
    slug = re.sub(r"[^A-Za-z0-9]+", "-", spec)[-40:].strip("-")
    target = root / "banks" / f"{slug}-{key}"
    bank = load_bank(target)
    if bank is None:
        with bank_writer(target.parent, spec, progress=progress, square=square) as writer:
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
    """Look a source string (see `open_bank`) up, without decoding; embedded sets are prepared in `root`.

    A ValueError if the string is no source says which was perhaps meant; a FileNotFoundError if the path is
    not there.
    """
    scheme, colon, rest = spec.partition(":")
    finders: dict[str, Callable[[], Source]] = {
        "embedded": lambda: tfds_source.find_embedded(spec, rest, root),
        "tfds": lambda: tfds_source.find_tfds(spec, rest),
        "folder": lambda: folder.find_folder(spec, _path(spec, rest, "a folder of images"), min_size),
        "idx": lambda: arrays.find_idx(spec, _path(spec, rest, "a folder of IDX files")),
        "npy": lambda: arrays.find_npy(spec, _path(spec, rest, "an .npy file or a folder with train.npy")),
        "random": lambda: random_source.find_random(spec, rest),
    }
    if not colon or scheme not in finders or not rest:
        raise ValueError(_unknown(spec, scheme, colon, rest, list(finders)))
    return finders[scheme]()


def _unknown(spec: str, scheme: str, colon: str, rest: str, known: list[str]) -> str:
    guess = None
    close = difflib.get_close_matches(scheme, known, 1, 0.5)
    if not colon and spec in EMBEDDED:
        guess = f"embedded:{spec}"
    elif os.path.isdir(spec):
        guess = f"folder:{spec}"
    elif spec.endswith(".npy"):
        guess = f"npy:{spec}"
    elif close:
        guess = f"{close[0]}:{rest or _EXAMPLES.get(close[0], 'NAME')}"
    hint = f"; did you mean {guess!r}?" if guess else ";"
    forms = ", ".join(f"embedded:{name}" for name in EMBEDDED)
    return (
        f"data source {spec!r} is not understood{hint} a source is one of {forms}, tfds:NAME, folder:PATH, "
        "idx:PATH, npy:PATH, random:photos, random:COUNTxHEIGHTxWIDTHxCHANNELS"
    )


def _path(spec: str, rest: str, what: str) -> pathlib.Path:
    path = pathlib.Path(rest).expanduser().absolute()
    if not path.exists():
        raise FileNotFoundError(f"data source {spec!r}: there is no {path}; expected {what}")
    return path


def _print_report(bank: Bank) -> None:
    for entry in bank.report[:_SHOWN]:
        print(f"{bank.spec}: {entry}", file=sys.stderr)
    if len(bank.report) > _SHOWN:
        print(f"{bank.spec}: and {len(bank.report) - _SHOWN} more (bank.report has all)", file=sys.stderr)
