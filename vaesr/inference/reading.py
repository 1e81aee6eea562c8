"""What the `vaesr` command reads from its arguments: numbers, sizes, and where a result is to go."""

import argparse
import pathlib
from collections.abc import Sequence


def size(text: str) -> tuple[int, int]:
    """Reads the pixels of an image.

    Args:
        text: for example `"640x480"`.

    Returns:
        `(height, width)`.

    Raises:
        ArgumentTypeError: if it is not two whole numbers above 0 with an x between.
    """
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, for example 640x480, got {text!r}")
    return int(height), int(width)


def words(text: str) -> tuple[str, ...]:
    """Reads words with commas between.

    Args:
        text: for example `"cpu,cuda"`.

    Returns:
        The words.
    """
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _number(text: str, kind: type, least: float, above: bool, words: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {words}, got {text!r}") from None
    if not (value > least if above else value >= least) or value == float("inf"):
        raise argparse.ArgumentTypeError(f"must be {words}, got {text!r}")
    return value


def positive(text: str) -> float:
    """Reads a number above 0.

    Args:
        text: the number.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: if it is not.
    """
    return _number(text, float, 0, True, "a number above 0")


def not_negative(text: str) -> float:
    """Reads a number of at least 0.

    Args:
        text: the number.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: if it is not.
    """
    return _number(text, float, 0, False, "a number of at least 0")


def from_0_to_1(text: str) -> float:
    """Reads a number in [0, 1].

    Args:
        text: the number.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: if it is not.
    """
    value = _number(text, float, 0, False, "a number in [0, 1]")
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be a number in [0, 1], got {text!r}")
    return value


def share(text: str) -> float:
    """Reads a number in (0, 1].

    Args:
        text: the number.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: if it is not.
    """
    value = _number(text, float, 0, True, "a number in (0, 1]")
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be a number in (0, 1], got {text!r}")
    return value


def whole(text: str) -> int:
    """Reads a whole number of at least 0.

    Args:
        text: the number.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: if it is not.
    """
    return int(_number(text, int, 0, False, "a whole number of at least 0"))


def count(text: str) -> int:
    """Reads a whole number of at least 1.

    Args:
        text: the number.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: if it is not.
    """
    return int(_number(text, int, 1, False, "a whole number of at least 1"))


def crf(text: str) -> int:
    """Reads the quality of a video encoder.

    Args:
        text: the number.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: if it is no whole number from 0 to 51.
    """
    wanted = "a whole number from 0 to 51"
    value = int(_number(text, int, 0, False, wanted))
    if value > 51:
        raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}")
    return value


def output_path(text: str, endings: Sequence[str]) -> pathlib.Path:
    """Checks where a result is to go, before it is computed.

    Args:
        text: the path.
        endings: allowed extensions, lower case with the dot.

    Returns:
        The path.

    Raises:
        ValueError: on another extension or a folder.
    """
    path = pathlib.Path(text).expanduser()
    if path.suffix.lower() not in endings:
        raise ValueError(f"the output must end in {', '.join(endings)}, got {text!r}")
    if path.is_dir():
        raise ValueError(f"the output {text!r} is a folder")
    return path
