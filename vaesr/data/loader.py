"""The host path: a background thread gathers the next steps' examples from the memory map and places them."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Array

from vaesr.data.sampling import Sampler, Tree

_POLL_SECONDS = 0.1


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class HostLoader:
    """Endless iterator of per-step sources for `sampler.host_batch`, double-buffered on the device.

    Each item is `{"raw": uint8 examples, "draw": int32}` whose leaves begin with the batch axis; with
    `steps_per_dispatch` K > 1 they begin with [K, B], to be scanned. The items are those of the device path,
    bit for bit, whatever the sharding or the number of processes: each process gathers only its own devices'
    examples.

    Use it in a `with`, or call `close`; the thread also ends when the loader is garbage.

    `key` is the run's data key, as the device path gets it; resuming is starting at `start_step` (at least
    0). `steps_per_dispatch` and `prefetch`, the items made ahead, are at least 1. The sharding is of the
    batch axis, e.g. `NamedSharding(mesh, P("data"))` (a TypeError on another kind); None is the default
    device.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        key: Array,
        start_step: int = 0,
        steps_per_dispatch: int = 1,
        sharding: jax.sharding.NamedSharding | None = None,
        prefetch: int = 2,
    ) -> None:
        for name, value, least in (
            ("start_step", start_step, 0),
            ("steps_per_dispatch", steps_per_dispatch, 1),
            ("prefetch", prefetch, 1),
        ):
            if value < least:
                raise ValueError(f"HostLoader: {name} must be at least {least}, got {value}")
        if sharding is not None and not isinstance(sharding, jax.sharding.NamedSharding):
            raise TypeError(f"HostLoader: sharding must be a NamedSharding, got {type(sharding).__name__}")
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=prefetch)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        make = _maker(sampler, key, steps_per_dispatch, sharding)
        # The thread holds no reference to the loader: else a forgotten loader could never be collected.
        self._thread = threading.Thread(
            target=_work,
            args=(make, start_step, steps_per_dispatch, self._queue, self._stop),
            name="vaesr-loader",
            daemon=True,
        )
        self._finalizer = weakref.finalize(self, _end, self._stop, self._queue, self._thread)
        self._thread.start()

    def __iter__(self) -> Iterator[Tree]:
        return self

    def __next__(self) -> Tree:
        if self._error is not None:
            raise self._error
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if isinstance(item, _Failure):
                self._error = item.error
                self.close()
                raise item.error
            return item
        raise StopIteration

    def close(self) -> None:
        """End the thread and drop what it made; harmless when repeated."""
        self._finalizer()

    def __enter__(self) -> HostLoader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _end(stop: threading.Event, items: queue.Queue[Any], thread: threading.Thread) -> None:
    stop.set()
    if thread is not threading.current_thread():
        thread.join()
    while True:
        try:
            items.get_nowait()
        except queue.Empty:
            return


def _work(
    make: Callable[[int], Tree], step: int, stride: int, items: queue.Queue[Any], stop: threading.Event
) -> None:
    while not stop.is_set():
        try:
            item = make(step)
        except BaseException as error:  # the consumer raises it
            item = _Failure(error)
        while not stop.is_set():
            try:
                items.put(item, timeout=_POLL_SECONDS)
                break
            except queue.Full:
                continue
        if isinstance(item, _Failure):
            return
        step += stride


def _drawing_device() -> jax.Device | None:
    """The host's CPU; None, the default device, where `JAX_PLATFORMS` leaves JAX without a CPU backend."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _maker(
    sampler: Sampler, key: Array, steps: int, sharding: jax.sharding.NamedSharding | None
) -> Callable[[int], Tree]:
    """The function step -> item; drawing runs on the host's CPU, whatever the accelerator is doing."""
    device = _drawing_device()
    typed = jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key)
    words = np.asarray(jax.random.key_data(key) if typed else key)
    implementation = jax.random.key_impl(key) if typed else None
    batch = sampler.batch_size

    @jax.jit
    def draw(words: Array, first: Array) -> dict[str, Array]:
        local = words if implementation is None else jax.random.wrap_key_data(words, impl=implementation)
        return jax.vmap(lambda step: sampler.draw(local, step, jax.numpy.arange(batch)))(
            first + np.arange(steps, dtype=np.int32)
        )  # fmt: skip

    def make(step: int) -> Tree:
        with jax.default_device(device):
            drawn = {name: np.asarray(value) for name, value in draw(words, np.int32(step)).items()}
        return _place(sampler, drawn, steps, sharding)

    return make


def _place(
    sampler: Sampler, drawn: dict[str, np.ndarray], steps: int, sharding: jax.sharding.NamedSharding | None
) -> Tree:
    """Gather the examples of this process's devices and put them there. `drawn` leaves are `[K, B]`."""

    def gather(part: slice) -> Tree:
        several = [
            sampler.gather_host({name: value[k, part] for name, value in drawn.items()}) for k in range(steps)
        ]
        return jax.tree.map(lambda *leaves: np.stack(leaves) if steps > 1 else leaves[0], *several)

    if sharding is None:
        draw = {name: value if steps > 1 else value[0] for name, value in drawn.items()}
        return jax.device_put({"raw": gather(slice(None)), "draw": draw})
    batch = sampler.batch_size
    spec = jax.sharding.PartitionSpec(*sharding.spec[:1])
    rows = jax.sharding.NamedSharding(sharding.mesh, spec)
    over_steps = jax.sharding.PartitionSpec(None, *spec) if steps > 1 else spec
    stacked = jax.sharding.NamedSharding(sharding.mesh, over_steps)
    parts = rows.addressable_devices_indices_map((batch,))
    spans = {device: index[0].indices(batch)[:2] for device, index in parts.items() if index}
    # Devices that hold the same examples (an fsdp or model axis) share one gathering.
    gathered = {span: gather(slice(*span)) for span in sorted(set(spans.values()))}

    def assemble(*leaves: np.ndarray) -> Array:
        by_span = dict(zip(gathered, leaves, strict=True))
        axis = 1 if steps > 1 else 0
        shape = (*leaves[0].shape[:axis], batch, *leaves[0].shape[axis + 1 :])
        on_device = [jax.device_put(by_span[span], device) for device, span in spans.items()]
        return jax.make_array_from_single_device_arrays(shape, stacked, on_device)

    steps_kept = slice(None) if steps > 1 else 0
    trees = [
        {"raw": raw, "draw": {name: value[steps_kept, slice(*span)] for name, value in drawn.items()}}
        for span, raw in gathered.items()
    ]
    return jax.tree.map(assemble, *trees)
