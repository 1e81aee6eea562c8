"""The trainings that users run, as they are measured: found by listing, built by their own `build`.

An experiment is measured with every preset whose name begins with `bench`. On accelerators a preset
`NAME_accelerator` stands in for `NAME`, or is one more where there is no `NAME`; on CPUs those are left out.
Presets read `random:` data, so that nothing but the core dependencies is needed. Of an experiment of several
stages each is a training; those before it are left as runs of zero steps for `build` to go on from.
"""

import dataclasses
import functools
import inspect
import pathlib
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import experiments
from vaesr import runs, training
from vaesr.runs.folder import write_config

_ACCELERATOR = "_accelerator"
# The most that numbers of these names are in a shrunk configuration.
_SMALL = {
    "batch_size": 4, "channels": 8, "growth": 4, "blocks": 1, "groups": 1, "reduction": 4, "hidden": 32,
    "latent": 4, "layers": 2, "codes": 16, "code_dim": 4, "res_channels": 4, "samples": 4,
    "condition_blocks": 1, "convs": 2,
}  # fmt: skip
_SMALL_SIDE, _SMALL_COUNT = 16, 64


@dataclasses.dataclass(frozen=True)
class Training:
    """One training of an experiment, before its first step.

    Attributes:
        title: the experiment, what its preset is called beside "bench", and the stage.
        config: the stage's configuration.
        folder: the stage's run folder below the whole run's; "" for the first or only one.
        build: makes the experiment of a configuration.
        experiment: what it made.
        state: initial state, of random numbers that numpy drew: compiling `init` takes longer than a step.
        batch: batch 0 of its sampler.
    """

    title: str
    config: runs.Config
    folder: str
    build: Callable[[Any], runs.Experiment]
    experiment: runs.Experiment
    state: training.TrainState
    batch: dict[str, jax.Array]

    @functools.cached_property
    def run(self) -> runs.Run:
        """The network that the training is for, with its initial parameters."""
        model = runs.build_model(self.experiment.model)
        config = {"model": self.experiment.model}
        return runs.Run(pathlib.Path(), model, self.state.params, self.state.variables, config, 0)

    @property
    def step(self) -> Callable[..., Any]:
        """The step as `run` makes it."""
        return self.experiment.train_step(accumulate=self.config.accumulate)

    def changed(self, change: Callable[[Any], Any]) -> "Training":
        """The same training of another configuration with the same state; itself if nothing is another."""
        config = change(self.config)
        if config == self.config:
            return self
        return dataclasses.replace(self, config=config, experiment=self.build(config))

    def in_float32(self) -> "Training":
        """The same training with float32 throughout."""
        wanted = self.config.dtype if self.config.compute_dtype == "float32" else "float32"
        return self.changed(lambda config: dataclasses.replace(config, dtype=wanted))

    def plain(self) -> "Training":
        """The same training with nothing computed twice, and convolutions in a form the platform chooses."""
        usual = {"remat": {True: False}, "conv_form": {"winograd": "auto", "patches": "auto"}}
        return self.changed(
            lambda config: _mapped(
                config, lambda name, value: usual[name].get(value, value) if name in usual else value
            )
        )


def bench_presets(module: ModuleType, *, accelerator: bool) -> dict[str, runs.Config]:
    """The presets of an experiment that are measured on a device.

    Configurations by what they are called beside "bench": "" for `bench` itself.
    """
    found = {name: config for name, config in module.PRESETS.items() if re.match(r"bench(_|$)", name)}
    large = {name.removesuffix(_ACCELERATOR): c for name, c in found.items() if name.endswith(_ACCELERATOR)}
    small = {name: config for name, config in found.items() if not name.endswith(_ACCELERATOR)}
    chosen = {**small, **large} if accelerator else small
    return {name.removeprefix("bench").removeprefix("_"): config for name, config in chosen.items()}


def names() -> list[str]:
    """What can be asked for: the experiments, and each of their measured presets.

    For example "vae", which is all of its presets, "vae.bench" and "vae.bench_iwae".
    """
    found = []
    for module in experiments.discover():
        short = module.__name__.rpartition(".")[2]
        presets = [bench_presets(module, accelerator=accelerator) for accelerator in (False, True)]
        known = dict.fromkeys(name for kind in presets for name in kind)
        found += [short, *(preset_name(short, name) for name in known)] if known else []
    return found


def preset_name(experiment: str, name: str) -> str:
    """What a measured preset, a key of `bench_presets`, is asked for as: for example "vae.bench_iwae"."""
    return f"{experiment}.bench" + (f"_{name}" if name else "")


def shrunk(config: Any) -> Any:
    """A configuration with small networks, batches and images: seconds in all, and figures mean nothing."""

    def small(name: str, value: Any) -> Any:
        if name == "features" and value == "random-vgg19":
            return "random"
        if name == "data" and (sizes := re.fullmatch(r"random:(\d+)x(\d+)x(\d+)x(\d+)", value)):
            count, height, width, channels = map(int, sizes.groups())
            sides = f"{min(height, _SMALL_SIDE)}x{min(width, _SMALL_SIDE)}"
            return f"random:{min(count, _SMALL_COUNT)}x{sides}x{channels}"
        if name == "patch":
            return min(value, 32 // getattr(config, "scale", 4))
        if name in _SMALL and type(value) is int:
            return min(value, _SMALL[name])
        if name in ("hidden", "groups") and isinstance(value, tuple):  # of layers, of scales
            return tuple(min(number, _SMALL[name]) for number in value)
        return value

    return _mapped(config, small)


def _mapped(part: Any, change: Callable[[str, Any], Any]) -> Any:
    """A configuration with every field `change(name, value)`, at every level."""
    values = {}
    for field in dataclasses.fields(part):
        before = getattr(part, field.name)
        if field.init and field.name not in ("parent", "name"):  # Linen's own
            inner = dataclasses.is_dataclass(before)
            after = _mapped(before, change) if inner else change(field.name, before)
            if after != before:
                values[field.name] = after
    if not values:
        return part
    return part.clone(**values) if isinstance(part, nn.Module) else dataclasses.replace(part, **values)


def trainings(module: ModuleType, name: str, config: Any, workdir: pathlib.Path) -> Iterator[Training]:
    """The trainings of a preset, one at a time: each is built when it is asked for.

    `name` is a key of `bench_presets`, `workdir` an empty folder for what the stages leave.
    """
    title = " ".join(filter(None, [module.__name__.rpartition(".")[2], name]))
    if not inspect.isgeneratorfunction(module.build):
        yield _start(title, runs.Stage("", config, module.build))
        return
    for stage in module.build(dataclasses.replace(config, workdir=workdir)):
        if isinstance(stage, runs.Stage):  # what is called between stages is no training
            found = _start(f"{title} {stage.folder}".rstrip(), stage)
            yield found
            _leave(found, module.__name__, name, workdir / stage.folder)


def _start(title: str, stage: runs.Stage) -> Training:
    experiment = stage.build(stage.config)
    state, sampler = initial_state(experiment, seed=stage.config.seed), experiment.sampler
    position = jnp.arange(sampler.batch_size, dtype=jnp.int32)
    quick = training.quick_compile(jax.default_backend())
    draw = jax.jit(sampler.__call__, compiler_options=quick)
    batch = draw(
        sampler.source(), key=training.data_key(state.key), step=jnp.int32(0), position=position
    )  # fmt: skip
    return Training(title, stage.config, stage.folder, stage.build, experiment, state, batch)


def _leave(done: Training, experiment: str, preset: str, folder: pathlib.Path) -> None:
    """A run folder with the initial state as its best checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, experiment, preset, done.config, model=done.experiment.model, bank=None)
    with training.Checkpoints(folder) as checkpoints:
        checkpoints.save(done.state, step=0, score=0.0)


def initial_state(experiment: runs.Experiment, *, seed: int) -> training.TrainState:
    """The state of step 0, of random numbers by the shapes of `init`; no warm start.

    `seed` is of the numbers and of the run's key.
    """
    shapes = jax.eval_shape(experiment.init, jax.random.key(0))
    rng = np.random.default_rng(seed + 1)
    params, variables = jax.tree_util.tree_map_with_path(functools.partial(_fill, rng), shapes)
    filled = dataclasses.replace(experiment, init=lambda _: (params, variables))
    return filled.create_state(jax.random.key(seed))


def _fill(rng: np.random.Generator, path: Any, leaf: Any) -> jax.Array:
    """Numbers in the range of usual initial ones, by what a parameter is called."""
    names = [getattr(part, "key", None) for part in path]
    if "rho" in names:  # softplus of it is a deviation of 0.05
        values = np.full(leaf.shape, -2.97)
    elif names[-1] in ("var", "scale"):
        values = np.ones(leaf.shape)
    elif names[-1] == "log_length":  # about what `init` gives
        values = np.full(leaf.shape, -0.53)
    elif names[-1] == "slope":
        values = np.full(leaf.shape, 0.25)
    elif names[-1] in ("codes", "u"):
        values = rng.standard_normal(leaf.shape)
    elif len(leaf.shape) < 2 or names[-1] in ("mean", "bias", "sums", "counts"):
        values = np.zeros(leaf.shape)
    else:
        values = rng.standard_normal(leaf.shape, np.float32) * np.prod(leaf.shape[:-1]) ** -0.5
    return jnp.asarray(values, leaf.dtype)
