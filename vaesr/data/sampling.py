"""Batches, each a pure function of (key, step, position): what a sampler says, and what is alike in all."""

from __future__ import annotations

import math
import os
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaesr.data.bank import Bank

Tree = Any  # a pytree of arrays


class Sampler(Protocol):
    """What the training loop and `HostLoader` need of a sampler.

    Batch `step` is the same whichever device, process or path makes it. A sampler derives from this and says
    what an example is: `nbytes`, `resident`, `draw`, `gather`, `gather_host` and `finish`. Two paths follow:

    - `sampler(source, key=, step=, position=)` is the device's, all inside the compiled step, `source =
      sampler.source()` being the pixels.
    - `sampler.host_batch(source, key=, step=, position=)` is the host's: of what `HostLoader` yields.
    """

    bank: Bank | None = None  # None: made of arrays in memory
    batch_size: int

    @property
    def nbytes(self) -> int:
        """Bytes of pixels in `source()`, found without making it."""

    def resident(self) -> dict[str, np.ndarray]:
        """What `source()` places."""

    def draw(self, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """Where to read each example of batch `step` and how to augment it: integers that begin with `[B]`.

        `key` is the run's data key, `step` an int32 scalar; `position` `[B]` int32 are places in the global
        batch: a shard asks for its own.
        """

    def gather(self, source: Tree, draw: dict[str, Array]) -> Tree:
        """Raw examples on the device, of `source()` and `draw()`."""

    def gather_host(self, draw: dict[str, np.ndarray]) -> Tree:
        """The same examples from the memory map, as numpy."""

    def finish(self, raw: Tree, draw: dict[str, Array]) -> dict[str, Array]:
        """Raw examples to a batch."""

    def source(self, sharding: jax.sharding.Sharding | None = None) -> dict[str, Array]:
        """The arrays of `resident` on the default device, or as the sharding says (replicated is meant)."""
        return {name: _place(array, sharding) for name, array in self.resident().items()}

    def __call__(self, source: Tree, *, key: Array, step: Array, position: Array) -> dict[str, Array]:
        draw = self.draw(key, step, position)
        return self.finish(self.gather(source, draw), draw)

    def host_batch(self, source: Tree, *, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """The batch of {"raw", "draw"} that `HostLoader` gathered; the drawing was done on the host."""
        return self.finish(source["raw"], source["draw"])


def _place(array: np.ndarray, sharding: jax.sharding.Sharding | None) -> Array:
    """Put a host array on the device(s), the same on every process."""
    if sharding is None:
        return jnp.asarray(array)
    # Not device_put: across processes it would first compare the whole array between them.
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def random_words(key: Array, step: Array, position: Array, count: int) -> Array:
    """Random bits that belong to one example of one step: `[B, count]` uint32.

    `key` is one key, `step` an int32 scalar, `position` `[B]` int32 are places in the global batch.
    """
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(lambda place: jax.random.bits(jax.random.fold_in(step_key, place), (count,), jnp.uint32))(
        position
    )


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch size that is no positive integer."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer >= 1, got {batch_size!r}")


def fits_on_device(bank: Bank | Sampler, *, fraction: float = 0.25) -> bool:
    """Whether the pixels may live on the device, or are to be read from disk by `HostLoader`.

    That is, whether `nbytes` (of a bank, or better, one split only, of a sampler) is within `fraction`, in
    (0, 1], of the device's memory (on the CPU backend of the machine's).
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fits_on_device: fraction must be in (0, 1], got {fraction}")
    return bank.nbytes <= fraction * device_memory()


def device_memory() -> float:
    """Bytes of one local device's memory; on the CPU backend its share of the machine's."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / len(jax.local_devices())
    # A backend that does not say: assume a small card.
    return (device.memory_stats() or {}).get("bytes_limit", 8 * 2**30)


def batch_bytes(sampler: Sampler, batch_size: int) -> int:
    """How much a batch of the sampler's takes, found by one example."""

    def drawn(position: Array) -> dict[str, Array]:
        return sampler.draw(jax.random.key(0), jnp.int32(0), position)

    # The first example that there is: of all data that may be large, no more is read.
    shapes = jax.eval_shape(drawn, jax.ShapeDtypeStruct((1,), jnp.int32))
    first = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
    batch = jax.eval_shape(sampler.finish, sampler.gather_host(first), first)
    return batch_size * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch))
