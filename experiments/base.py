"""What every experiment shares: the command line and the run itself."""

import contextlib
import dataclasses
import functools
import itertools
import math
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.flags import ConfigT, RunConfig, cli, with_stored
from experiments.run_folder import UserError, claim, run_folder, write_config
from vaesr import data, reports, training

PyTree = Any
Evaluate = Callable[[dict[str, PyTree], PyTree], dict[str, float]]

# A dispatch longer than this brings nothing more, and makes stopping and logging coarse.
_MAX_STEPS_PER_DISPATCH = 50


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
        warm_start: `(params, variables) -> (params, variables)`: puts other runs' and networks' weights in
            the place of the initial ones.
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
    warm_start: Callable[[dict[str, PyTree], PyTree], tuple[dict[str, PyTree], PyTree]] | None = None


def open_images(config: RunConfig) -> data.Bank:
    """Open the run's data as images of one size.

    Args:
        config: says which data.

    Returns:
        The bank.

    Raises:
        UserError: if it holds photos of many sizes.
    """
    bank = data.open_bank(config.data, strict=config.strict)
    if bank.kind != "fixed":
        raise UserError(f"--data must hold images of one size; {config.data} holds photos of many sizes.")
    return bank


def bind(model: nn.Module, method: str) -> Callable[..., Any]:
    """One of a network's methods as a function of its parameters.

    Args:
        model: a Linen network whose only variables are parameters.
        method: its name.

    Returns:
        `(params, *inputs) -> outputs`.
    """
    return lambda params, *inputs: model.apply({"params": params}, *inputs, method=method)


def main(
    experiment: str,
    presets: Mapping[str, ConfigT],
    build: Callable[[ConfigT], Any],
    *,
    runner: Callable[[str, str, ConfigT, Callable[[ConfigT], Any]], bool] | None = None,
) -> None:
    """The command line of an experiment module.

    Exits with 0 when finished, 2 with one line on a mistake, 130 when a signal ended the training early.

    Args:
        experiment: the module's name, as "experiments.vae".
        presets: its named configurations.
        build: makes the `Experiment` of a configuration, or what `runner` wants.
        runner: carries it out; `run` by default, or `stages.run` for several trainings.
    """
    arguments = sys.argv[1:]
    presets, stored = with_stored(experiment, presets, arguments)
    preset, config = cli(presets, arguments)
    preset = stored or preset
    try:
        finished = (runner or run)(experiment, preset, config, build)
    except (UserError, training.NonFiniteError) as error:
        if config.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
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
        coordinator=config.coordinator,
        num_processes=config.num_processes,
        process_id=config.process_id,
        detect=config.distributed,
    )
    training.enable_compile_cache(data.cache_root() / "xla")
    workdir = run_folder(experiment, preset, config)
    _check_devices(config)
    claim(workdir, config)
    with training.stop_on_signals() as stop:
        return _run(experiment, preset, config, build, workdir, stop)


def _run(
    experiment: str,
    preset: str,
    config: ConfigT,
    build: Callable[[ConfigT], Experiment],
    workdir: pathlib.Path,
    stop: threading.Event,
) -> bool:
    first = jax.process_index() == 0
    began = time.perf_counter()
    try:
        system = build(config)
    except (
        ValueError,
        OSError,
        ImportError,
    ) as error:  # what the data and the model say of the configuration
        raise UserError(str(error)) from error
    if first:
        source = system.sampler.bank
        write_config(
            workdir, experiment, preset, config, model=system.model,
            bank=None if source is None else source.path.name,
        )  # fmt: skip
    state, finished = _train(workdir, config, system, first, stop)
    if not finished:
        step = int(state.step)
        saved = (
            f"the checkpoint is saved. --resume --workdir {workdir} goes on."
            if step
            else "nothing was saved."
        )
        _say(f"stopped at step {step}; {saved}", first)
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
    workdir: pathlib.Path, config: RunConfig, system: Experiment, first: bool, stop: threading.Event
) -> tuple[training.TrainState, bool]:
    mesh = training.make_mesh(fsdp=config.fsdp)

    def create(key: jax.Array) -> training.TrainState:
        return training.create_state(system.init, system.players, key=key, ema=system.ema_decay is not None)

    key = jax.random.key(config.seed)
    shapes = jax.eval_shape(create, key)
    shardings = training.state_shardings(shapes, mesh)
    on_device = config.data_on == "device"
    if config.data_on == "auto":
        on_device = training.from_first_process(str(int(data.fits_on_device(system.sampler)))) == "1"
    batches = system.sampler if on_device else system.sampler.host_batch
    train_step = training.make_train_step(
        system.players, accumulate=config.accumulate, ema_decay=system.ema_decay
    )
    with training.Checkpoints(workdir) as checkpoints:
        if config.resume and checkpoints.latest is not None:
            state = checkpoints.restore(shapes, shardings)
        else:
            initialise = jax.jit(create, out_shardings=shardings, compiler_options=training.quick_compile())
            state = initialise(key)
            if system.warm_start is not None:
                state = _start_from(system.warm_start(state.params, state.variables), state, shardings)
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
                state, step, sources, loop,
                checkpoints=checkpoints, writer=writer, evaluate=evaluate, stop=stop,
            )  # fmt: skip


def _start_from(
    start: tuple[PyTree, PyTree], state: training.TrainState, shardings: PyTree
) -> training.TrainState:
    """The state with other parameters and variables; the moving average starts from them too."""
    # Copies, here and below: the donated state must not hold one buffer twice.
    params, variables = jax.device_put(start, (shardings.params, shardings.variables), may_alias=False)
    return state.replace(
        params=params, variables=variables, ema=None if state.ema is None else jax.tree.map(jnp.copy, params)
    )


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
        yield itertools.repeat(system.sampler.source(training.replicated(mesh)))
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
    chosen = max(k for k in range(1, _MAX_STEPS_PER_DISPATCH + 1) if common % k == 0)
    if chosen < 5 <= log_every:
        _say(
            f"note: {chosen} training steps per dispatch, because --steps, --log-every, --eval-every and "
            f"--checkpoint-every (and step {start}) have no larger common divisor; rounder is faster.",
            jax.process_index() == 0,
        )
    return chosen


def _local(tree: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """The whole tree on this process's own device, where several processes share the run."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda x: x.addressable_data(0), _gather(mesh)(tree))


@functools.cache
def _gather(mesh: jax.sharding.Mesh) -> Callable[[PyTree], PyTree]:
    return jax.jit(lambda tree: tree, out_shardings=training.replicated(mesh))


def _check_devices(config: RunConfig) -> None:
    """Refuse sizes that the devices don't divide, before anything is computed."""
    devices = jax.device_count()
    if devices % config.fsdp:
        raise UserError(f"--fsdp {config.fsdp} must divide the number of devices, {devices}.")
    if config.parallel == "pmap" and (config.fsdp > 1 or jax.process_count() > 1):
        raise UserError("--parallel pmap replicates the state in one process; use --parallel jit.")
    if config.batch_size % (devices * config.accumulate):
        raise UserError(
            f"--batch-size {config.batch_size} must be a multiple of devices x --accumulate, "
            f"{devices} x {config.accumulate}."
        )


def _say(text: str, first: bool) -> None:
    if first:
        print(text, flush=True)
