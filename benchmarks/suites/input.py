"""Input pipelines alone: small images, and patch pairs with their bicubic reduction.

Ours draws batches on the device from resident data, or on the host from the memory map; torch's does it with
a DataLoader, and for images with its best, a gather from resident data. Batches are made and dropped.
"""

import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.banks import make_bank
from benchmarks.options import Options
from benchmarks.peers import torch_common
from vaesr.data import HostLoader, ImageSampler, PairSampler

PER_DISPATCH = 20


def cases(options: Options) -> Iterator[timing.Case]:
    """Images of 28x28, and pairs for EDSR; their data lies in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        yield _image_case(options, pathlib.Path(folder))
        yield _pair_case(options, pathlib.Path(folder))


def _image_case(options: Options, folder: pathlib.Path) -> timing.Case:
    count, batch_size = (512, 16) if options.smoke else (60_000, 128)
    bank = make_bank(folder, [(28, 28)] * count, 1)
    sampler = ImageSampler(bank, "train", batch_size)
    case = timing.Case("input", f"{count} images 28x28, batch {batch_size}", _our_sides(sampler))
    if _torch_wanted(case, options):
        from benchmarks.peers import torch_input

        torch_common.load(options.threads)
        case.parity = _image_parity(sampler)
        for workers in _workers(options):
            draw = torch_input.image_loader(bank.pixels, batch_size=batch_size, workers=workers)
            case.sides.append(_torch_side(f"torch DataLoader, {workers} workers", draw, batch_size))
        gather = torch_input.image_gather(bank.pixels, batch_size=batch_size)
        case.sides.append(_torch_side("torch resident gather", gather, batch_size))
    return case


def _pair_case(options: Options, folder: pathlib.Path) -> timing.Case:
    sizes = [(120, 160)] * 2 if options.smoke else [(1020, 1356)] * 8 + [(1356, 1020)] * 8
    patch, batch_size = (12, 2) if options.smoke else (48, 16)
    scale = 2
    bank = make_bank(folder, sizes, 3)
    sampler = PairSampler(bank, "train", batch_size, scale=scale, patch=patch)
    name = f"patch pairs x{scale}, LR {patch}, flips and turns, bicubic, batch {batch_size}"
    case = timing.Case("input", name, _our_sides(sampler))
    if _torch_wanted(case, options):
        from benchmarks.peers import torch_input

        torch_common.load(options.threads)
        case.parity = _pair_parity(bank, scale, patch)
        photos = [bank.image(i) for i in range(len(bank))]
        for workers in _workers(options):
            draw = torch_input.pair_loader(
                photos, patch=patch, scale=scale, batch_size=batch_size, workers=workers
            )
            case.sides.append(_torch_side(f"torch DataLoader, {workers} workers", draw, batch_size))
    return case


def _our_sides(sampler: Any) -> list[timing.Side]:
    """The device path, one batch and several a dispatch, and the host path."""
    size, several = sampler.batch_size, f"{PER_DISPATCH} batches a dispatch"
    return [
        timing.Side("vaesr resident, 1 batch a dispatch", "vaesr", _resident(sampler), size),
        timing.Side(f"vaesr resident, {several}", "vaesr", _scanned(sampler), size, PER_DISPATCH),
        _host(sampler, "vaesr host loader, 1 batch a dispatch", 1),
        _host(sampler, f"vaesr host loader, {several}", PER_DISPATCH),
    ]


def _resident(sampler: Any) -> Callable[[int], None]:
    source, key = sampler.source(), jax.random.key(0)
    position = jnp.arange(sampler.batch_size, dtype=jnp.int32)

    @jax.jit
    def draw(source: Any, step: jax.Array) -> tuple[Any, jax.Array]:
        return sampler(source, key=key, step=step, position=position), step + 1

    step = jnp.int32(0)

    def run(calls: int) -> None:
        nonlocal step
        batch = None
        for _ in range(calls):
            batch, step = draw(source, step)
        jax.block_until_ready((batch, step))

    return run


def _scanned(sampler: Any) -> Callable[[int], None]:
    """As inside the training step. The batch is carried, so that none of it can be left out."""
    source, key = sampler.source(), jax.random.key(0)
    position = jnp.arange(sampler.batch_size, dtype=jnp.int32)

    @jax.jit
    def draw(source: Any, step: jax.Array) -> tuple[Any, jax.Array]:
        def at(step: jax.Array) -> Any:
            return sampler(source, key=key, step=step, position=position)

        def one(carry: tuple[Any, jax.Array], _: None) -> tuple[tuple[Any, jax.Array], None]:
            return (at(carry[1]), carry[1] + 1), None

        return jax.lax.scan(one, (_zeros(at, step), step), None, length=PER_DISPATCH)[0]

    step = jnp.int32(0)

    def run(calls: int) -> None:
        nonlocal step
        for _ in range(calls):
            _, step = draw(source, step)
        jax.block_until_ready(step)

    return run


def _zeros(function: Callable[..., Any], *args: Any) -> Any:
    """An empty batch of the shape that a function gives."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *args))


def _host(sampler: Any, name: str, several: int) -> timing.Side:
    """Regions read from the memory map by the loader's thread, finished on the device."""
    key = jax.random.key(0)
    loader = HostLoader(sampler, key=key, steps_per_dispatch=several)
    position = jnp.arange(sampler.batch_size, dtype=jnp.int32)

    @jax.jit
    def finish(source: Any) -> Any:
        def one(source: Any) -> Any:
            return sampler.host_batch(source, key=key, step=jnp.int32(0), position=position)

        if several == 1:
            return one(source)
        empty = _zeros(one, jax.tree.map(lambda leaf: leaf[0], source))
        return jax.lax.scan(lambda _, part: (one(part), None), empty, source)[0]

    def run(calls: int) -> None:
        batch = None
        for _ in range(calls):
            batch = finish(next(loader))
        jax.block_until_ready(batch)

    return timing.Side(name, "vaesr", run, sampler.batch_size, several, close=loader.close)


def _image_parity(sampler: Any) -> dict[str, Any]:
    """The same images as floats, ours from the device path and torch's from the memory map."""
    import torch

    position = jnp.arange(sampler.batch_size, dtype=jnp.int32)
    draw = sampler.draw(jax.random.key(0), jnp.int32(3), position)
    ours = np.asarray(sampler.finish(sampler.gather(sampler.source(), draw), draw)["image"])
    theirs = (
        torch.from_numpy(np.array(sampler.gather_host(jax.device_get(draw))["image"])).float().div_(255.0)
    )
    return _parity(ours, theirs.numpy())


def _pair_parity(bank: Any, scale: int, patch: int) -> dict[str, Any]:
    """The same regions reduced by both, before rounding to 8 bits."""
    import torch

    from benchmarks.peers import torch_input

    sampler = PairSampler(bank, "train", 2, scale=scale, patch=patch, augment=False, quantise_lr=False)
    draw = sampler.draw(jax.random.key(0), jnp.int32(3), jnp.arange(2, dtype=jnp.int32))
    raw = sampler.gather_host(jax.device_get(draw))
    ours = np.asarray(sampler.finish(jnp.asarray(raw), draw)["x_lr"])
    region = torch.from_numpy(raw.transpose(0, 3, 1, 2).copy()).float().div_(255.0)
    return _parity(ours, torch_input.reduce(region, scale).numpy().transpose(0, 2, 3, 1))


def _parity(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    output = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return {"output": output, "passed": bool(output <= 1e-4)}


def _torch_wanted(case: timing.Case, options: Options) -> bool:
    if "torch" not in options.peers:
        return False
    if not torch_common.available():
        case.absent.append(("torch", torch_common.ABSENT))
        return False
    return True


def _workers(options: Options) -> list[int]:
    """Worker processes worth a row; their CPU time is not this process's, only the wall clock sees it."""
    return [0] if options.clock == "cpu" or options.smoke else [0, 2]


def _torch_side(name: str, draw: Callable[[int], Any], images: int) -> timing.Side:
    def run(calls: int) -> None:
        draw(calls)
        torch_common.wait()

    return timing.Side(name, "torch", run, images)
