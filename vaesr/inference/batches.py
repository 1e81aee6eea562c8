"""Many inputs through a compiled function, some at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vaesr.runs.load import Run


def in_batches(
    function: Callable[..., Sequence[Any]], arrays: Sequence[np.ndarray], batch_size: int
) -> list[np.ndarray]:
    """Calls a function on pieces of one shape (the last is filled up), so that it compiles once.

    Args:
        function: maps pieces `[batch, ...]` of every array to arrays that begin with that axis.
        arrays: `[N, ...]` each, with N at least 1; memory maps are read piece by piece.
        batch_size: examples in a piece, at least 1.

    Returns:
        What the function gives, `[N, ...]` each.

    Raises:
        ValueError: if `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    total = len(arrays[0])
    size = min(batch_size, total)
    pieces = []
    for first in range(0, total, size):
        index = np.minimum(first + np.arange(size), total - 1)
        outputs = function(*(array[index] for array in arrays))
        pieces.append([np.asarray(output)[: total - first] for output in outputs])
    return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def encode_in_batches(run: Run, images: Any, batch_size: int, *, method: str = "encode") -> list[np.ndarray]:
    """Gives what a model's `encode` makes of images.

    Args:
        run: of a model with `encode` and `image_shape`.
        images: `[N, H, W, C]` of the model's shape; floats in [0, 1] or uint8.
        batch_size: images encoded at once, at least 1.
        method: that takes its place.

    Returns:
        `[N, ...]` each.

    Raises:
        ValueError: if the images don't fit the model, or `batch_size` is below 1.
    """
    shape = tuple(run.model.image_shape)
    if np.ndim(images) != 4 or tuple(images.shape[1:]) != shape or not len(images):
        raise ValueError(
            f"images must be [N, {', '.join(map(str, shape))}] for this model, got {np.shape(images)}"
        )

    def encode(batch: np.ndarray) -> Any:
        unit = batch.astype(np.float32) / np.float32(255 if batch.dtype == np.uint8 else 1)
        found = run.apply(unit, method=method)
        return found if isinstance(found, tuple) else (found,)

    return in_batches(encode, [np.asarray(images)], batch_size)
