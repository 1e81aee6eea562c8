"""Sampling maps of codes: what remembering the layers' rows saves, in time and in operations."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import flops, timing
from benchmarks.options import Options
from vaesr.inference import autoregressive
from vaesr.models.pixelcnn import PixelCNN
from vaesr.models.pixelsnail import PixelSNAIL


def cases(options: Options) -> Iterator[timing.Case]:
    """Both priors, with the cache and without."""
    side, batch = (32, 16) if options.accelerator else (16, 4)
    cnn = PixelCNN(shape=(side, side), codes=256, channels=64, layers=6, kernel=5, head=128)
    snail = PixelSNAIL(
        shape=(side, side), codes=256, channels=64, blocks=2, layers=2, kernel=3, heads=4, dropout=0.0
    )  # fmt: skip
    if options.smoke:
        cnn = cnn.clone(shape=(3, 3), codes=8, channels=8, layers=2, head=8)
        snail, batch = snail.clone(shape=(3, 3), codes=8, channels=8, blocks=1), 2
    for model in (cnn, snail):
        yield _case(model, batch)


def _case(model: Any, batch: int) -> timing.Case:
    codes = jnp.zeros((batch, *model.shape), jnp.int32)
    params = jax.jit(lambda key: model.init(key, codes))(jax.random.key(0))["params"]
    keys = jax.random.split(jax.random.key(1), batch)
    drawn, sides = [], []
    for name, draw in (("cached", autoregressive._cached), ("naive", autoregressive._naive)):
        call = functools.partial(draw, model, 0)
        arguments = (params, keys, None, (), jnp.float32(1.0))
        drawn.append(call(*arguments))
        work = flops.count(call, *arguments).total
        sides.append(
            timing.Side(
                f"vaesr {name}" if name == "cached" else name,
                "vaesr" if name == "cached" else "naive",
                functools.partial(_run, call, arguments),
                images_per_step=batch,
                work_per_step=work,
                note=f"{model.__class__.__name__} {name}: {work / 1e9:.3g} GFLOP",
            )
        )
    same = bool((drawn[0] == drawn[1]).all())
    size = f"{model.shape[0]}x{model.shape[1]} codes, {model.channels} channels, batch {batch}"
    parity = {"passed": same, "output": 0.0 if same else 1.0, "losses": 0.0}
    return timing.Case("sample", f"{type(model).__name__} {size}", sides, parity)


def _run(call: Any, arguments: tuple[Any, ...], calls: int) -> None:
    for _ in range(calls):
        result = call(*arguments)
    jax.block_until_ready(result)
