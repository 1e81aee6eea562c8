"""`random:COUNTxHEIGHTxWIDTHxCHANNELS` and `random:photos`: images of no meaning, where only size counts."""

from __future__ import annotations

import json
import math
import re

import numpy as np

from vaesr.data.source import Source
from vaesr.data.splits import SPLITS
from vaesr.data.writer import BankWriter

_REVISION = 1  # raise it when other bytes are drawn
_BLOCK = 4096  # images drawn at a time
_CLASSES = 10
_PATCH = 4  # pixels a side of one grey level
_PHOTOS = {"train": 8, "validation": 2, "test": 2}


def find_random(spec: str, name: str) -> Source:
    """Find a source of random images: the same at every call and on every machine.

    `name` is "photos", 12 of several sizes in colour; or `COUNTxHEIGHTxWIDTHxCHANNELS`, with ten classes.
    """
    fingerprint = json.dumps(["random", _REVISION, name])
    if name == "photos":
        return Source(spec, fingerprint, _write_photos)
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3}", name):
        raise ValueError(
            f"data source {spec!r}: expected random:photos or random:COUNTxHEIGHTxWIDTHxCHANNELS, such as "
            "random:1000x28x28x1"
        )
    count, height, width, channels = map(int, name.split("x"))
    return Source(spec, fingerprint, lambda writer: _write_fixed(writer, count, (height, width, channels)))


def _write_fixed(writer: BankWriter, count: int, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    for first in writer.track(range(0, count, _BLOCK), math.ceil(count / _BLOCK)):
        images = _draw(rng, min(_BLOCK, count - first), *shape)
        writer.add(images, labels=rng.integers(0, _CLASSES, len(images)).tolist())


def _write_photos(writer: BankWriter) -> None:
    rng = np.random.default_rng(0)
    for number, split in enumerate(np.repeat(SPLITS, [_PHOTOS[name] for name in SPLITS]).tolist()):
        photo = _draw(rng, 1, 256 + 16 * number, 448 - 16 * number, 3)
        writer.add(photo, split=split, names=[f"photo_{number:02d}"])


def _draw(rng: np.random.Generator, count: int, height: int, width: int, channels: int) -> np.ndarray:
    """Patches of one level with a little noise: `[count, height, width, channels]` uint8."""
    coarse = (count, math.ceil(height / _PATCH), math.ceil(width / _PATCH), channels)
    levels = rng.integers(0, 224, coarse, np.uint8).repeat(_PATCH, 1).repeat(_PATCH, 2)[:, :height, :width]
    return levels + rng.integers(0, 32, levels.shape, np.uint8)
