"""Batches of arrays that are in memory already: points of a curve, rows of a table."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaesr.data.sampling import Tree, check_batch_size, place
from vaesr.data.shuffle import MAX_EXAMPLES, epoch_and_offset, shuffle_index


class ArraySampler:
    """Examples from arrays with one leading axis; every epoch visits each once, in its own order.

    It has no bank: the arrays are made anew by whoever builds it, from a seed or a file of theirs.

    Args:
        arrays: `{name: [N, ...]}`, at least one; the batch has the same names and types.
        batch_size: examples a step over all devices, >= 1; may exceed N.

    Raises:
        ValueError: without arrays, or if their lengths differ or a number is out of range.
    """

    bank = None

    def __init__(self, arrays: Mapping[str, np.ndarray], batch_size: int) -> None:
        check_batch_size(batch_size)
        self.arrays = {name: np.asarray(array) for name, array in arrays.items()}
        lengths = {name: len(array) if array.ndim else 0 for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ValueError(f"ArraySampler: arrays must have one length of at least 1, got {lengths}")
        self.size, self.batch_size = next(iter(lengths.values())), batch_size
        if self.size >= MAX_EXAMPLES:
            raise ValueError(f"ArraySampler: at most {MAX_EXAMPLES - 1} examples, got {self.size}")

    @property
    def nbytes(self) -> int:
        """Bytes of `source()`."""
        return sum(array.nbytes for array in self.arrays.values())

    def draw(self, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """Which examples make batch `step`.

        Args:
            key: the run's data key.
            step: int32 scalar.
            position: `[B]` int32 places in the global batch; a shard asks for its own.

        Returns:
            {"index": `[B]` int32 in [0, size)}.
        """
        epoch, offset = epoch_and_offset(step, position, batch_size=self.batch_size, size=self.size)

        def one(epoch: Array, offset: Array) -> Array:
            return shuffle_index(jax.random.fold_in(key, epoch), offset, self.size)

        return {"index": jax.vmap(one)(epoch, offset)}

    def source(self, sharding: jax.sharding.Sharding | None = None) -> Tree:
        """The arrays on the device.

        Args:
            sharding: where to; None is the default device, replicated is meant otherwise.

        Returns:
            {name: `[N, ...]`}.
        """
        return {name: place(array, sharding) for name, array in self.arrays.items()}

    def gather(self, source: Tree, draw: dict[str, Array]) -> Tree:
        """Read the drawn examples on the device.

        Args:
            source: of `source()`.
            draw: of `draw`.

        Returns:
            {name: `[B, ...]`}.
        """
        return {name: jnp.take(array, draw["index"], axis=0, mode="clip") for name, array in source.items()}

    def gather_host(self, draw: dict[str, np.ndarray]) -> Tree:
        """Read the drawn examples on the host.

        Args:
            draw: of `draw`, as numpy.

        Returns:
            The same as `gather`, as numpy.
        """
        return {name: array[np.asarray(draw["index"])] for name, array in self.arrays.items()}

    def finish(self, raw: Tree, draw: dict[str, Array]) -> dict[str, Array]:
        """The examples as they are.

        Args:
            raw: of `gather` or `gather_host`.
            draw: of `draw`.

        Returns:
            `raw`.
        """
        return raw

    def __call__(self, source: Tree, *, key: Array, step: Array, position: Array) -> dict[str, Array]:
        return self.gather(source, self.draw(key, step, position))

    def host_batch(self, source: Tree, *, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """The batch of what `HostLoader` gathered.

        Args:
            source: {"raw", "draw"} of this step.
            key: not used: the drawing was done on the host.
            step: not used.
            position: not used.

        Returns:
            {name: `[B, ...]`}.
        """
        return source["raw"]


def blundell_curve(
    count: int, *, seed: int, low: float = 0.0, high: float = 0.5, noise: float = 0.02
) -> dict[str, np.ndarray]:
    """Draws points of y = x + 0.3 sin(2π(x + ε)) + 0.3 sin(4π(x + ε)) + ε.

    The noise ε sits inside the sines too: it is loud where the curve is steep.

    Args:
        count: number of points, at least 1.
        seed: of the random numbers.
        low: smallest x.
        high: largest x, above `low`.
        noise: standard deviation of ε, at least 0; 0 gives the curve itself at evenly spaced x.

    Returns:
        {"x": `[count, 1]` float32, "target": `[count]` float32}, in ascending order of x.

    Raises:
        ValueError: if a number is out of range.

    Source: Blundell et al., "Weight Uncertainty in Neural Networks", 2015, section 5.2.
    """
    if count < 1 or not low < high or noise < 0:
        raise ValueError(
            f"blundell_curve: count must be at least 1, low below high and noise at least 0, got {count}, "
            f"{low}, {high} and {noise}"
        )
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(low, high, count)) if noise else np.linspace(low, high, count)
    e = noise * rng.normal(size=count)
    target = x + 0.3 * np.sin(2 * np.pi * (x + e)) + 0.3 * np.sin(4 * np.pi * (x + e)) + e
    return {"x": x[:, None].astype(np.float32), "target": target.astype(np.float32)}
