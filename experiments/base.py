"""What every experiment shares: the flags, the command line, the run folder and the run itself."""

import contextlib
import dataclasses
import difflib
import itertools
import json
import math
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp

import vaesr
from vaesr import data, reports, training

PyTree = Any
Evaluate = Callable[[dict[str, PyTree], PyTree], dict[str, float]]
ConfigT = TypeVar("ConfigT", bound="RunConfig")

# These say where and how fast a run goes, not what it computes: they may change when it resumes.
_FREE_FIELDS = {
    "workdir", "resume", "overwrite", "steps", "eval_every", "checkpoint_every", "log_every", "parallel",
    "fsdp", "data_on", "steps_per_dispatch", "coordinator", "num_processes", "process_id", "strict",
}  # fmt: skip
# A dispatch longer than this brings nothing more, and makes stopping and logging coarse.
_MAX_STEPS_PER_DISPATCH = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The flags that every experiment shares."""

    # Source: embedded:NAME, tfds:NAME, folder:PATH, idx:PATH or npy:PATH.
    data: str
    # Training steps.
    steps: int
    # Examples per step, over all devices.
    batch_size: int
    # Seed of the initial weights, the noise and the order of the data.
    seed: int = 0
    # Run folder; runs/EXPERIMENT/PRESET by default.
    workdir: pathlib.Path | None = None
    # Go on from the run folder's latest checkpoint.
    resume: bool = False
    # Delete what the run folder holds first.
    overwrite: bool = False
    # Steps between checkpoints.
    checkpoint_every: int = 1000
    # Steps between evaluations on the validation split.
    eval_every: int = 1000
    # Steps between rows of training metrics.
    log_every: int = 100
    # Partition one program over the devices, or map one program per device.
    parallel: Literal["jit", "pmap"] = "jit"
    # Devices that share one copy of parameters and optimizer state.
    fsdp: int = 1
    # Micro-batches per step, whose gradients are averaged.
    accumulate: int = 1
    # Compute type; "auto" is bfloat16 on GPUs and TPUs, float32 on CPUs.
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    # Keep the data on the device, or gather each batch on the host; "auto" decides by size.
    data_on: Literal["auto", "device", "host"] = "auto"
    # Training steps per call of the compiled program; 0 decides by backend and model.
    steps_per_dispatch: int = 0
    # Refuse data with any problem instead of reporting and leaving it out.
    strict: bool = False
    # host:port of process 0 of a run of several processes; Slurm, Open MPI and TPU pods need none.
    coordinator: str | None = None
    # Number of processes, with --coordinator.
    num_processes: int | None = None
    # This process's number from 0, with --coordinator.
    process_id: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "checkpoint_every",
            "eval_every",
            "log_every",
            "fsdp",
            "accumulate",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}.")
        if self.batch_size % self.accumulate:
            raise ValueError(f"--accumulate {self.accumulate} must divide --batch-size {self.batch_size}.")
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite contradict each other; give one of them.")

    @property
    def compute_dtype(self) -> str:
        """The compute type's name, "auto" resolved for the default backend."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything `run` needs to know of a system; plain callables.

    Attributes:
        model: description for `vaesr.inference.load_run`, from `inference.describe_model`.
        init: `key -> (params, variables)`, `params = {player: tree}`.
        players: as for `training.make_train_step`.
        sampler: a `data` sampler; says what a batch is.
        evaluate: `(params, variables) -> metrics` on the validation split.
        score: validation metric that chooses the best checkpoint; "-NAME" where smaller is better.
        finish: `(params, variables) -> metrics` on the test split, with the best checkpoint.
        figures: `(params, variables, directory, step)`: writes pictures into a folder.
        ema_decay: decay of the parameters' moving average; None keeps none.
        warm_start: `params -> params`: replaces initial parameters by those of another run.
    """

    model: dict[str, Any]
    init: Callable[[jax.Array], tuple[dict[str, PyTree], PyTree]]
    players: Mapping[str, training.Player]
    sampler: Any
    evaluate: Evaluate
    score: str
    finish: Evaluate
    figures: Callable[[dict[str, PyTree], PyTree, pathlib.Path, int], None]
    ema_decay: float | None = None
    warm_start: Callable[[dict[str, PyTree]], dict[str, PyTree]] | None = None


class UserError(Exception):
    """A mistake in what the user asked for; shown as one line, without a traceback."""


def cli(presets: Mapping[str, ConfigT], arguments: list[str] | None = None) -> tuple[str, ConfigT]:
    """Read `[PRESET] [--field value]` from the command line.

    Args:
        presets: named configurations; "default" is used where none is named.
        arguments: the words after the module's name; `sys.argv[1:]` by default.

    Returns:
        `(preset, config)`.
    """
    try:
        import tyro
    except ImportError:
        sys.exit('the experiments need more packages: pip install "vaesr[experiments]"')
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "default"
    if name not in presets:
        near = difflib.get_close_matches(name, presets, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        sys.exit(f"there is no preset {name!r}{hint} The presets are: {', '.join(presets)}.")
    module = sys.modules[type(presets[name]).__module__]
    spec = getattr(module, "__spec__", None)
    config = tyro.cli(
        type(presets[name]),
        prog=f"python -m {spec.name if spec else module.__name__} [{'|'.join(presets)}]",
        description=module.__doc__,
        default=presets[name],
        args=arguments,
    )
    return name, config


def main(experiment: str, presets: Mapping[str, ConfigT], build: Callable[[ConfigT], Experiment]) -> None:
    """The command line of an experiment module: mistakes become one line and exit code 2.

    Args:
        experiment: the module's name, as "experiments.vae".
        presets: its named configurations.
        build: makes the `Experiment` of a configuration.
    """
    try:
        preset, config = cli(presets)
        finished = run(experiment, preset, config, build)
    except (UserError, ValueError, FileNotFoundError, training.NonFiniteError) as error:
        if "--debug" in sys.argv:
            raise
        sys.exit(f"error: {error}")
    sys.exit(0 if finished else 130)


def run(experiment: str, preset: str, config: ConfigT, build: Callable[[ConfigT], Experiment]) -> bool:
    """Train, evaluate and report; everything lands in the run folder.

    Args:
        experiment: the module's name, as "experiments.vae".
        preset: the preset's name; part of the default run folder.
        config: the configuration.
        build: makes the `Experiment`.

    Returns:
        False if a signal ended the training early; `--resume` goes on.

    Raises:
        UserError: if the run folder holds another run.
    """
    training.initialize_distributed(
        coordinator=config.coordinator, num_processes=config.num_processes, process_id=config.process_id
    )
    training.enable_compile_cache(data.cache_root() / "xla")
    workdir = config.workdir or pathlib.Path("runs") / experiment.rpartition(".")[2] / preset
    first = jax.process_index() == 0
    _prepare_folder(workdir, config, first)
    began = time.perf_counter()
    system = build(config)
    if first:
        _write_config(workdir, experiment, preset, config, system)
    state, finished = _train(workdir, config, system, first)
    if not finished:
        _say(f"stopped at step {int(state.step)}; the checkpoint is saved. --resume goes on.", first)
        return False
    params, variables, step = training.restore_params(workdir, "best")
    results = system.finish(params, variables)
    if first:
        seconds = time.perf_counter() - began
        with training.MetricsWriter(workdir, resume_step=int(state.step)) as writer:
            writer.write(step, "test", results)
        system.figures(params, variables, workdir / "figures", step)
        page = reports.write_report(workdir)
        width = max(map(len, results))
        _say("\n".join(f"  {name:<{width}}  {value:.4f}" for name, value in results.items()), first)
        _say(f"test split, checkpoint of step {step}, {seconds:.0f} s in all. Look at {page}", first)
    return True


def _train(
    workdir: pathlib.Path, config: RunConfig, system: Experiment, first: bool
) -> tuple[training.TrainState, bool]:
    mesh = training.make_mesh(fsdp=config.fsdp)

    def create(key: jax.Array) -> training.TrainState:
        return training.create_state(system.init, system.players, key=key, ema=system.ema_decay is not None)

    key = jax.random.key(config.seed)
    shapes = jax.eval_shape(create, key)
    shardings = training.state_shardings(shapes, mesh)
    on_device = config.data_on == "device" or (
        config.data_on == "auto" and data.fits_on_device(system.sampler)
    )
    batches = system.sampler if on_device else system.sampler.host_batch
    train_step = training.make_train_step(
        system.players, accumulate=config.accumulate, ema_decay=system.ema_decay
    )
    with training.Checkpoints(workdir) as checkpoints:
        if config.resume and checkpoints.latest is not None:
            state = checkpoints.restore(shapes, shardings)
        else:
            state = jax.jit(create, out_shardings=shardings)(key)
            if system.warm_start is not None:
                state = _start_from(system.warm_start(state.params), state, shardings)
        start = int(state.step)
        steps_per_dispatch = config.steps_per_dispatch or _choose_dispatch(config, system, start)
        step = training.compile_step(
            train_step,
            mesh,
            state=shapes,
            batches=batches,
            batch_size=config.batch_size,
            streamed=not on_device,
            parallel=config.parallel,
            steps_per_dispatch=steps_per_dispatch,
        )
        loop = training.LoopConfig(
            steps=config.steps,
            steps_per_dispatch=steps_per_dispatch,
            log_every=min(config.log_every, config.steps),
            eval_every=config.eval_every,
            checkpoint_every=config.checkpoint_every,
        )

        def evaluate(state: training.TrainState, step: int) -> training.Evaluation:
            params, variables = _local(state.eval_params, mesh), _local(state.variables, mesh)
            metrics = system.evaluate(params, variables)
            if first:
                system.figures(params, variables, workdir / "figures", step)
            value = metrics[system.score.removeprefix("-")]
            return training.Evaluation(metrics, -value if system.score.startswith("-") else value)

        writer = training.MetricsWriter(workdir, resume_step=start, enabled=first)
        with writer, _sources(config, system, mesh, state, on_device, steps_per_dispatch) as sources:
            return training.fit(
                state, step, sources, loop, checkpoints=checkpoints, writer=writer, evaluate=evaluate
            )


def _start_from(params: PyTree, state: training.TrainState, shardings: PyTree) -> training.TrainState:
    """The state with other parameters; the moving average starts from them too."""
    params = jax.device_put(params, shardings.params)
    # A copy: the donated state must not hold one buffer twice.
    return state.replace(params=params, ema=None if state.ema is None else jax.tree.map(jnp.copy, params))


@contextlib.contextmanager
def _sources(
    config: RunConfig,
    system: Experiment,
    mesh: jax.sharding.Mesh,
    state: training.TrainState,
    on_device: bool,
    steps_per_dispatch: int,
) -> Iterator[Iterator[PyTree]]:
    """What each dispatch gets: the resident bank again and again, or the host's batches one by one."""
    if on_device:
        sharding = training.replicated(mesh) if config.parallel == "jit" else None
        yield itertools.repeat(system.sampler.source(sharding))
        return
    loader = data.HostLoader(
        system.sampler,
        key=training.data_key(_local(state.key, mesh)),
        start_step=int(state.step),
        steps_per_dispatch=steps_per_dispatch,
        sharding=training.batch_sharding(mesh) if config.parallel == "jit" else None,
    )
    with loader:
        yield loader


def _choose_dispatch(config: RunConfig, system: Experiment, start: int) -> int:
    """K steps per dispatch: as many as the intervals allow, but one for convolutions on the CPU."""
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and training.contains_convolution(system.init, jax.random.key(0)):
        return 1  # XLA:CPU runs convolution gradients inside a loop 15-30 times slower
    log_every = min(config.log_every, config.steps)
    common = math.gcd(config.steps, config.eval_every, config.checkpoint_every, log_every, start)
    return max(k for k in range(1, _MAX_STEPS_PER_DISPATCH + 1) if common % k == 0)


def _local(tree: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """The whole tree on this process's own device, where several processes share the run."""
    if jax.process_count() == 1:
        return tree
    whole = jax.jit(lambda x: x, out_shardings=training.replicated(mesh))(tree)
    return jax.tree.map(lambda x: x.addressable_data(0), whole)


def _as_json(config: RunConfig) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The fields in which two configurations differ, as `name: old -> new`, those left out that may."""
    free = set(_FREE_FIELDS)
    if new.get("optim", {}).get("schedule") == "cosine":
        free.remove("steps")  # the learning rate of every step depends on it
    pairs = [(n, old.get(n), new.get(n)) for n in {**old, **new} if n not in free]
    found = []
    while pairs:
        name, before, after = pairs.pop(0)
        if isinstance(before, dict) and isinstance(after, dict):
            pairs += [(f"{name}.{n}", before.get(n), after.get(n)) for n in {**before, **after}]
        elif before != after:
            found.append(f"{name}: {before!r} -> {after!r}")
    return found


def _prepare_folder(workdir: pathlib.Path, config: RunConfig, first: bool) -> None:
    """Refuse, empty or check the run folder, before anything is computed."""
    stored = workdir / "config.json"
    if not workdir.exists() or not any(workdir.iterdir()):
        if config.resume:
            raise UserError(f"{workdir} holds no run to resume; leave --resume out to start one.")
    elif config.resume:
        if not stored.exists():
            raise UserError(f"{workdir} holds no config.json; it isn't a run folder that could be resumed.")
        different = _differences(json.loads(stored.read_text())["config"], _as_json(config))
        if different:
            raise UserError(
                f"{workdir} holds a run with another configuration: {'; '.join(different)}. Give the same "
                "fields, or another --workdir."
            )
    elif config.overwrite:
        if not stored.exists():
            raise UserError(f"{workdir} is not empty and not a run folder; --overwrite won't delete it.")
        if first:
            shutil.rmtree(workdir)
    else:
        raise UserError(
            f"{workdir} already holds a run. --resume goes on with it, --overwrite deletes it, "
            "--workdir DIR puts this one elsewhere."
        )
    if first:
        workdir.mkdir(parents=True, exist_ok=True)


def _write_config(
    workdir: pathlib.Path, experiment: str, preset: str, config: RunConfig, system: Experiment
) -> None:
    content = {
        "experiment": experiment,
        "preset": preset,
        "config": _as_json(config),
        "model": system.model,
        "environment": {
            "vaesr": vaesr.__version__,
            "jax": jax.__version__,
            "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        },
    }
    temporary = workdir / "config.json.tmp"
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(workdir / "config.json")


def _say(text: str, first: bool) -> None:
    if first:
        print(text, flush=True)
