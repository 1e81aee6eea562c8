"""What the `vaesr` command reads from its arguments: numbers, sizes, and where a result is to go."""

import argparse
import contextlib
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import TypeVar

N = TypeVar("N", int, float)


def size(text: str) -> tuple[int, int]:
    """Reads the pixels of an image, for example `"640x480"`, as `(height, width)`."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, for example 640x480, got {text!r}")
    return int(height), int(width)


def devices(text: str) -> tuple[int, ...]:
    """Reads numbers of GPUs, for example `"0,1"`; `"-1"` is the CPU, and alone."""
    with contextlib.suppress(ValueError):
        found = tuple(int(word) for word in text.split(","))
        if found == (-1,) or (min(found) >= 0 and len(set(found)) == len(found)):
            return found
    raise argparse.ArgumentTypeError(
        f"must be numbers of GPUs such as 0 or 0,1, or -1 for the CPU, got {text!r}"
    )


def words(text: str) -> tuple[str, ...]:
    """Reads words with commas between, for example `"cpu,cuda"`."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def number(
    kind: Callable[[str], N], what: str, *, least: float, above: bool = False, most: float = math.inf
) -> Callable[[str], N]:
    """Makes a reader of finite numbers from `least` (or `above` it) to `most`; errors ask for `what`."""

    def read(text: str) -> N:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if (value > least if above else value >= least) and value <= most and value != math.inf:
                return value
        raise argparse.ArgumentTypeError(f"must be {what}, got {text!r}")

    return read


positive = number(float, "a number above 0", least=0, above=True)
not_negative = number(float, "a number of at least 0", least=0)
from_0_to_1 = number(float, "a number in [0, 1]", least=0, most=1)
share = number(float, "a number in (0, 1]", least=0, above=True, most=1)
whole = number(int, "a whole number of at least 0", least=0)
count = number(int, "a whole number of at least 1", least=1)
images = number(int, "a whole number from 1 to 10 million", least=1, most=10**7)
port = number(int, "a whole number from 1 to 65535", least=1, most=65535)
noise = number(float, "a number in [0, 20]", least=0, most=20)
crf = number(int, "a whole number from 0 to 51", least=0, most=51)


def output_path(text: str, endings: Sequence[str]) -> pathlib.Path:
    """Checks where a result is to go, before it is computed; `endings` are lower case with the dot."""
    path = pathlib.Path(text).expanduser()
    if path.suffix.lower() not in endings:
        raise ValueError(f"the output must end in {', '.join(endings)}, got {text!r}")
    if path.is_dir():
        raise ValueError(f"the output {text!r} is a folder")
    return path
