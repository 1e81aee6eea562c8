"""Batches of arrays that are in memory already: points of a curve, rows of a table."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaesr.data.sampling import Sampler, Tree, check_batch_size
from vaesr.data.shuffle import MAX_EXAMPLES, epoch_and_offset, shuffle_index


class ArraySampler(Sampler):
    """Examples from arrays with one leading axis; every epoch visits each once, in its own order.

    It has no bank: the arrays, `{name: [N, ...]}`, are made anew by whoever builds it, from a seed or a file
    of theirs; the batch has the same names and types. `batch_size`, over all devices and at least 1, may
    exceed N; `members` `[n]` int are the examples that are meant, None is all.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], batch_size: int, *, members: np.ndarray | None = None
    ) -> None:
        check_batch_size(batch_size)
        self.arrays = {name: np.asarray(array) for name, array in arrays.items()}
        lengths = {name: len(array) if array.ndim else 0 for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ValueError(
                f"{type(self).__name__}: arrays must have one length of at least 1, got {lengths}"
            )
        self._members = np.arange(next(iter(lengths.values()))) if members is None else members
        self.size, self.batch_size = len(self._members), batch_size
        if self.size >= MAX_EXAMPLES:
            raise ValueError(f"{type(self).__name__}: at most {MAX_EXAMPLES - 1} examples, got {self.size}")

    @property
    def nbytes(self) -> int:
        """Bytes of `source()`."""
        return self.size * sum(array[0].nbytes for array in self.arrays.values())

    def resident(self) -> dict[str, np.ndarray]:
        """The members' rows: {name: `[n, ...]`}."""
        return {name: array[self._members] for name, array in self.arrays.items()}

    def draw(self, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """Which members make batch `step`: {"index": `[B]` int32 in [0, size)}."""
        epoch, offset = epoch_and_offset(step, position, batch_size=self.batch_size, size=self.size)

        def one(epoch: Array, offset: Array) -> Array:
            return shuffle_index(jax.random.fold_in(key, epoch), offset, self.size)

        return {"index": jax.vmap(one)(epoch, offset)}

    def gather(self, source: Tree, draw: dict[str, Array]) -> Tree:
        """Their rows: {name: `[B, ...]`}."""
        return {name: jnp.take(array, draw["index"], axis=0, mode="clip") for name, array in source.items()}

    def gather_host(self, draw: dict[str, np.ndarray]) -> Tree:
        """The same as `gather`, as numpy."""
        index = self._members[np.asarray(draw["index"])]
        return {name: array[index] for name, array in self.arrays.items()}

    def finish(self, raw: Tree, draw: dict[str, Array]) -> dict[str, Array]:
        """The rows as they are."""
        return raw


def blundell_curve(
    count: int, *, seed: int, low: float = 0.0, high: float = 0.5, noise: float = 0.02
) -> dict[str, np.ndarray]:
    """Draws points of y = x + 0.3 sin(2π(x + ε)) + 0.3 sin(4π(x + ε)) + ε, in ascending order of x.

    The noise ε, of standard deviation `noise`, sits inside the sines too: it is loud where the curve is
    steep. With 0 these are points of the curve itself at evenly spaced x from `low` to `high`, which is above
    it. `count` is at least 1. Returns {"x": `[count, 1]` float32, "target": `[count]` float32}. Source:
    Blundell et al., "Weight Uncertainty in Neural Networks", 2015, section 5.2.
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
