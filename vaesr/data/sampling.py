"""Batches of whole images, on the device or from the host: each a pure function of (key, step, position)."""

from __future__ import annotations

import os
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaesr.data.bank import Bank
from vaesr.data.shuffle import MAX_EXAMPLES, epoch_and_offset, shuffle_index
from vaesr.imaging import to_float

Tree = Any  # a pytree of arrays


class Sampler(Protocol):
    """What the training loop and `HostLoader` need of a sampler.

    Batch `step` is a pure function of (key, step, position): the same whichever device, process or path
    makes it.

    - `sampler(source, key=, step=, position=)` is the device path: `finish(gather(source, draw(...)),
    draw)`, all
      inside the compiled step, `source = sampler.source()` being the pixels.
    - `sampler.host_batch(source, key=, step=, position=)` is the host path: `source` is what `HostLoader`
    yields.
    """

    bank: Bank | None  # None: made of arrays in memory
    batch_size: int

    @property
    def nbytes(self) -> int:
        """Bytes of `source()`."""

    def draw(self, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """Where to read each example and how to augment it: int32 arrays `[B]`."""

    def source(self, sharding: jax.sharding.Sharding | None = None) -> Tree:
        """The pixels, on the device."""

    def gather(self, source: Tree, draw: dict[str, Array]) -> Tree:
        """Raw uint8 examples on the device."""

    def gather_host(self, draw: dict[str, np.ndarray]) -> Tree:
        """The same examples from the memory map."""

    def finish(self, raw: Tree, draw: dict[str, Array]) -> dict[str, Array]:
        """Raw examples to a float batch."""

    def __call__(self, source: Tree, *, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """The device path."""

    def host_batch(self, source: Tree, *, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """The host path."""


def place(array: np.ndarray, sharding: jax.sharding.Sharding | None) -> Array:
    """Put a host array on the device(s), the same on every process.

    Args:
        array: any.
        sharding: where to; None is the default device.

    Returns:
        The device array.
    """
    if sharding is None:
        return jnp.asarray(array)
    # Not device_put: across processes it would first compare the whole array between them.
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


class ImageSampler:
    """Whole images of one size; every epoch visits each example once, in its own order.

    Args:
        bank: a bank whose images have one size.
        split: "train", "validation" or "test".
        batch_size: examples a step over all devices, >= 1.
        flips: mirror half of the images left-right.

    Raises:
        ValueError: if the bank holds sizes that differ, has no such split, or a number is out of range.
    """

    def __init__(self, bank: Bank, split: str, batch_size: int, *, flips: bool = False) -> None:
        check_batch_size(batch_size)
        if bank.kind != "fixed":
            raise ValueError(
                f"ImageSampler: data source {bank.spec!r} holds images of different sizes; "
                "use PairSampler, or resize the files to one size"
            )
        self.bank, self.split, self.batch_size, self.flips = bank, split, batch_size, flips
        self._index = bank.split(split)
        if len(self._index) >= MAX_EXAMPLES:
            raise ValueError(f"ImageSampler: at most {MAX_EXAMPLES - 1} examples, got {len(self._index)}")
        self._places = np.arange(len(bank.pixels), dtype=np.int32)

    @property
    def size(self) -> int:
        """Examples an epoch."""
        return len(self._index)

    @property
    def steps_per_epoch(self) -> float:
        """Steps an epoch, as a fraction: epochs follow each other without a gap."""
        return self.size / self.batch_size

    @property
    def nbytes(self) -> int:
        """Bytes of `source()`."""
        integers = 4 if self.bank.labels is None else 8
        return self.size * (int(np.prod(self.bank.pixels.shape[1:])) + integers)

    def source(self, sharding: jax.sharding.Sharding | None = None) -> Tree:
        """The pixels, numbers and labels of the split on the device.

        Args:
            sharding: where to; None is the default device, replicated is meant otherwise.

        Returns:
            {"image": `[n, H, W, C]` uint8, "index": `[n]` int32 places in the bank, "label": `[n]` int32 if
            there are labels}.
        """
        return {name: place(array[self._index], sharding) for name, array in self._arrays().items()}

    def _arrays(self) -> dict[str, np.ndarray]:
        labels = {} if self.bank.labels is None else {"label": self.bank.labels}
        return {"image": self.bank.pixels, "index": self._places} | labels

    def draw(self, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """Which examples make batch `step`.

        Args:
            key: the run's data key.
            step: int32 scalar.
            position: `[B]` int32 places in the global batch; a shard asks for its own.

        Returns:
            {"index": `[B]` int32 in [0, size), "flip": `[B]` int32 0 or 1 if `flips`}.
        """
        epoch, offset = epoch_and_offset(step, position, batch_size=self.batch_size, size=self.size)
        order_key, flip_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)

        def one(epoch: Array, offset: Array) -> Array:
            return shuffle_index(jax.random.fold_in(order_key, epoch), offset, self.size)

        draw = {"index": jax.vmap(one)(epoch, offset)}
        if self.flips:
            bits = random_words(flip_key, step, position, 1)[:, 0]
            draw["flip"] = (bits >> 31).astype(jnp.int32)
        return draw

    def gather(self, source: Tree, draw: dict[str, Array]) -> Tree:
        """Read the drawn examples on the device.

        Args:
            source: of `source()`.
            draw: of `draw`.

        Returns:
            {"image": `[B, H, W, C]` uint8, "index": `[B]` int32 places in the bank, "label": `[B]` int32 if
            any}.
        """
        return {name: jnp.take(array, draw["index"], axis=0, mode="clip") for name, array in source.items()}

    def gather_host(self, draw: dict[str, np.ndarray]) -> Tree:
        """Read the drawn examples from the memory map.

        Args:
            draw: of `draw`, as numpy.

        Returns:
            The same as `gather`, as numpy.
        """
        index = self._index[np.asarray(draw["index"])]
        return {name: np.asarray(array[index]) for name, array in self._arrays().items()}

    def finish(self, raw: Tree, draw: dict[str, Array]) -> dict[str, Array]:
        """Raw examples to a batch.

        Args:
            raw: of `gather` or `gather_host`.
            draw: of `draw`.

        Returns:
            {"image": `[B, H, W, C]` float32 in [0, 1], "index": `[B]` int32 places in the bank, which say
            which image it is whatever the split, "label": `[B]` int32 if any}.
        """
        image = raw["image"]
        if self.flips:
            image = jnp.where(draw["flip"][:, None, None, None] == 1, jnp.flip(image, 2), image)
        return raw | {"image": to_float(image)}

    def __call__(self, source: Tree, *, key: Array, step: Array, position: Array) -> dict[str, Array]:
        draw = self.draw(key, step, position)
        return self.finish(self.gather(source, draw), draw)

    def host_batch(self, source: Tree, *, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """The batch of what `HostLoader` gathered.

        Args:
            source: {"raw", "draw"} of this step.
            key: not used: the drawing was done on the host.
            step: not used.
            position: not used.

        Returns:
            As `finish`.
        """
        return self.finish(source["raw"], source["draw"])


def random_words(key: Array, step: Array, position: Array, count: int) -> Array:
    """Random bits that belong to one example of one step.

    Args:
        key: one key.
        step: int32 scalar.
        position: `[B]` int32 places in the global batch.
        count: words an example.

    Returns:
        `[B, count]` uint32.
    """
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(lambda place: jax.random.bits(jax.random.fold_in(step_key, place), (count,), jnp.uint32))(
        position
    )


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch size that is no positive integer.

    Args:
        batch_size: to be checked.

    Raises:
        ValueError: with the value.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer >= 1, got {batch_size!r}")


def fits_on_device(bank: Bank | Sampler, *, fraction: float = 0.25) -> bool:
    """Whether the pixels may live on the device, or are to be read from disk by `HostLoader`.

    Args:
        bank: anything with `nbytes`: a bank, or (better, one split only) a sampler.
        fraction: of the device's memory (on the CPU backend of the machine's) that may go to data, in (0, 1].

    Returns:
        True if `nbytes` is within that.

    Raises:
        ValueError: if `fraction` is out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fits_on_device: fraction must be in (0, 1], got {fraction}")
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / len(jax.local_devices())
    else:
        stats = device.memory_stats() or {}
        memory = stats.get("bytes_limit", 8 * 2**30)  # a backend that does not say: assume a small card
    return bank.nbytes <= fraction * memory
