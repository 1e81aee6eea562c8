"""Sampling: images of VAEs in one pass, and maps of codes, where remembering the layers' rows saves work.

The VAEs are those that training is measured of; a peer's `sampler` draws the same, see `benchmarks.peers`.
"""

import functools
import pathlib
import tempfile
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import experiments
from benchmarks import flops, timing, trainings
from benchmarks.options import Options
from benchmarks.peers import torch_common
from benchmarks.steps import agree
from vaesr import forms
from vaesr.inference import autoregressive
from vaesr.models import Autoencoder
from vaesr.models.pixelcnn import PixelCNN
from vaesr.models.pixelsnail import PixelSNAIL

_BATCH, _LARGE_BATCH = 64, 512  # images drawn at once, on CPUs and on accelerators


def names() -> list[str]:
    """What can be asked for: VAEs' experiments, each of their measured presets, and "priors"."""
    found = ["priors"]
    for accelerator in (False, True):
        for short, name, _ in _presets(accelerator):
            found += [short, trainings.preset_name(short, name)]
    return list(dict.fromkeys(found))


def cases(options: Options) -> Iterator[timing.Case]:
    """Images of each VAE; both priors, with the cache and without."""
    yield from _vaes(options)
    if options.wants("priors"):
        yield from _priors(options)


def _vaes(options: Options) -> Iterator[timing.Case]:
    measured: list[Any] = []
    modules = {module.__name__.rpartition(".")[2]: module for module in experiments.discover()}
    for short, name, config in _presets(options.accelerator):
        by_name = trainings.preset_name(short, name) in options.models
        network = (config.model, config.data, config.dtype)
        # Presets that train one network in several ways draw the same.
        if not by_name and (not options.wants(short) or network in measured):
            continue
        measured.append(network)
        config = trainings.shrunk(config) if options.smoke else config
        with tempfile.TemporaryDirectory() as folder:
            for trained in trainings.trainings(modules[short], name, config, pathlib.Path(folder)):
                # Several networks trained side by side draw what one of them draws.
                if len(trained.state.params) == 1 and "params" not in trained.experiment.model:
                    yield _images(trained, short, options)


def _presets(accelerator: bool) -> Iterator[tuple[str, str, Any]]:
    """The experiment, the preset's key in `trainings.bench_presets` and the configuration, of every VAE."""
    for module in experiments.discover():
        for name, config in trainings.bench_presets(module, accelerator=accelerator).items():
            if isinstance(getattr(config, "model", None), Autoencoder):
                yield module.__name__.rpartition(".")[2], name, config


def _images(trained: trainings.Training, experiment: str, options: Options) -> timing.Case:
    """A batch of mean images for noise that is drawn inside the program; weights are its arguments."""
    model, collections = trained.run.model, jax.device_put(trained.run.collections)
    batch = 4 if options.smoke else _LARGE_BATCH if options.accelerator else _BATCH
    shape = (batch, model.latent)
    to_image = functools.partial(model.apply, method="mean_image")
    last: list[jax.Array] = []

    @jax.jit
    def draw(weights: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key, own = jax.random.split(key)
        return key, to_image(weights, jax.random.normal(own, shape))

    def sample(calls: int) -> None:
        key = jax.random.key(0)
        for _ in range(calls):
            key, images = draw(collections, key)
        last[:] = [jax.block_until_ready(images)]

    def check() -> dict[str, bool]:
        return {"images_finite": bool(jnp.isfinite(last[0]).all())}

    with forms.only("tpu"):  # convolutions in their plain form
        work = flops.count(to_image, collections, jnp.zeros(shape)).total
    sides = [timing.Side("vaesr", "vaesr", sample, batch, work_per_step=work, check=check)]
    network = type(model).__name__
    case = timing.Case(
        "sample", f"{trained.title}: {network}, batch {batch}, {trained.config.compute_dtype}", sides
    )
    peer = torch_common.peer_of(experiment, options, case)
    if peer is not None:
        _add_torch(case, peer, trained, batch, work, options)
    return case


def _add_torch(
    case: timing.Case,
    peer: ModuleType,
    trained: trainings.Training,
    batch: int,
    work: float,
    options: Options,
) -> None:
    """Check that torch makes our images of our noise, then add its modes to the case."""
    if not hasattr(peer, "sampler"):
        return
    torch_common.load(options.threads)
    noise = np.asarray(jax.random.normal(jax.random.key(1), (batch, trained.run.model.latent)))
    with torch_common.exact(), jax.default_matmul_precision("highest"):
        exact = trained.in_float32()
        sampler = peer.sampler(exact, torch_common.How(exact=True), batch)
        if sampler is None:
            return
        ours = exact.run.apply(noise, method="mean_image")
        case.parity = agree(np.asarray(ours), sampler.of(noise), our_losses=[], their_losses=[])
    for layout in peer.LAYOUTS:
        for mode, compile_mode in torch_common.modes(options):
            how = torch_common.How(layout, trained.config.compute_dtype == "bfloat16", compile_mode)
            theirs = peer.sampler(trained, how, batch)
            case.sides.append(torch_common.side(f"torch {mode} {layout}", theirs, batch, work))


def _priors(options: Options) -> Iterator[timing.Case]:
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
