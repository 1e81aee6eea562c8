"""Packages that only some uses need, imported when they are; and the bytes of image files by Pillow."""

import importlib
import io
from typing import Any

import numpy as np


def extra(module: str, need: str, group: str) -> Any:
    """Imports what an extra of ours brings, or says what needs it and how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{need}: pip install "vaesr[{group}]"') from error


def pillow(name: str) -> Any:
    """Imports one module of Pillow, for example `"Image"`, or says how to get it."""
    return extra(f"PIL.{name}", "pictures need Pillow", "experiments")


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    """The bytes of an image file of one of Pillow's formats, such as "PNG"; `[H, W]` or `[H, W, C]`."""
    buffer = io.BytesIO()
    pillow("Image").fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()
