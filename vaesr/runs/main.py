"""The command line of an experiment, and the run itself."""

import contextlib
import dataclasses
import functools
import inspect
import itertools
import json
import math
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vaesr import data, training
from vaesr.files.atomic import cache_root
from vaesr.files.rows import read_metrics
from vaesr.runs.config import Config
from vaesr.runs.experiment import Experiment, Stage
from vaesr.runs.flags import cli
from vaesr.runs.folder import (
    CONFIG,
    ConfigT,
    UserError,
    claim,
    in_words,
    is_bare,
    keep_config,
    run_folder,
    with_stored,
    write_config,
)
from vaesr.runs.lock import held

PyTree = Any
# `config -> Experiment`, or a generator function of `Stage`s.
Build = Callable[[ConfigT], Any]


def main(presets: Mapping[str, ConfigT], build: Build[ConfigT]) -> None:
    """The command line of an experiment: of the module that defines its presets' class.

    Exits with 0 when finished, 2 with one line on a mistake, 130 when a signal ended the training early.
    `build` makes the `Experiment` of a configuration; or, as a generator function, yields the `Stage`s of
    several trainings. What a generator does between two stages happens when the first is done.
    """
    arguments = sys.argv[1:]
    experiment = module_name(presets)
    presets, stored = with_stored(experiment, presets, arguments)
    preset, config = cli(presets, arguments)
    preset = stored or preset
    try:
        finished = run(experiment, preset, config, build)
    except (UserError, training.NonFiniteError, OSError) as error:
        if config.debug:
            raise
        print(f"error: {in_words(error)}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if config.debug or not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
            raise
        print(
            f"error: the memory does not suffice for --batch-size {config.batch_size}; make it smaller, or "
            "let --accumulate N split it.",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.exit(0 if finished else 130)


def module_name(presets: Mapping[str, Config]) -> str:
    """The experiment module that presets belong to, as "experiments.vae", also where it is the program."""
    module = sys.modules[type(next(iter(presets.values()))).__module__]
    if module.__name__ != "__main__":
        return module.__name__
    spec = getattr(module, "__spec__", None)
    return spec.name if spec else f"experiments.{pathlib.Path(str(module.__file__)).stem}"


def run(experiment: str, preset: str, config: ConfigT, build: Build[ConfigT]) -> bool:
    """Train, evaluate and report; everything lands in the run folder.

    Of several stages those that are finished are left out. `experiment` is the module's name, as
    "experiments.vae"; `preset` is part of the default run folder; `build` see `main`. False if a signal ended
    a training early: `--resume` goes on with it. UserError if a run folder holds another run, or what happens
    between stages is refused.
    """
    # Before anything touches a device.
    _refusing(
        lambda: training.initialize_distributed(
            coordinator=config.coordinator,
            num_processes=config.num_processes,
            process_id=config.process_id,
            detect=config.distributed,
        )
    )
    training.enable_compile_cache(cache_root() / "xla")
    workdir = run_folder(experiment, preset, config)
    with held(workdir), training.stop_on_signals() as stop:
        _refuse_stage(workdir)
        if inspect.isgeneratorfunction(build):
            return _run_stages(experiment, preset, config, build, workdir, stop)
        return _run_alone(experiment, preset, config, build, workdir, stop)


def _run_stages(
    experiment: str,
    preset: str,
    config: ConfigT,
    build: Build[ConfigT],
    workdir: pathlib.Path,
    stop: threading.Event,
) -> bool:
    """Several trainings one after the other; those that are finished are left out."""
    stages = build(dataclasses.replace(config, workdir=workdir))
    begun = False
    while (stage := _refusing(lambda: next(stages, None))) is not None:
        # A signal that came while the stage before was being measured.
        if begun and training.from_first_process("stop" if stop.is_set() else ""):
            words = f"stopped between two stages; --resume --workdir {workdir} goes on."
            _say(words, jax.process_index() == 0)
            return False
        begun = True
        if not isinstance(stage, Stage):
            if jax.process_index() == 0:
                _refusing(stage)
            continue
        folder = workdir / stage.folder
        # A stage that ended before its first checkpoint begins anew.
        resume = config.resume and (not is_bare(folder) or not stage.folder)
        own = dataclasses.replace(
            stage.config, workdir=folder, resume=resume, overwrite=config.overwrite and not stage.folder
        )
        if resume and _refusing(functools.partial(is_finished, folder, own.steps)):
            claim(folder, own)  # other flags are refused here, too
            if jax.process_index() == 0:
                keep_config(folder, own)
        elif not _run_alone(experiment, preset, own, stage.build, workdir, stop, stage=stage.folder):
            return False
    return True


def _refusing(step: Callable[[], Any]) -> Any:
    """What data, models and folders refuse is the user's to mend."""
    try:
        return step()
    except (ValueError, OSError, ImportError) as error:
        raise UserError(in_words(error)) from error


def is_finished(folder: pathlib.Path, steps: int) -> bool:
    """Whether the training of a run folder has taken all its `steps` and been measured."""
    if not (folder / "metrics.jsonl").exists() or not (folder / "report.html").exists():
        return False
    tested = any(row["split"] == "test" for row in read_metrics(folder))
    with training.Checkpoints(folder) as checkpoints:
        latest = checkpoints.latest
    return tested and latest is not None and latest >= steps


def _refuse_stage(workdir: pathlib.Path) -> None:
    """A stage of a run is gone on with from the whole run's folder, which knows what it is part of."""
    try:
        stage = json.loads((workdir / CONFIG).read_text("utf-8")).get("stage", "")
    except (OSError, ValueError, AttributeError):
        return  # `claim` says what is wrong with the folder
    if stage:
        root = workdir.absolute().parents[len(pathlib.PurePath(stage).parts) - 1]
        raise UserError(f"{workdir} holds one stage, {stage}, of the run in {root}: give --workdir {root}.")


def _run_alone(
    experiment: str,
    preset: str,
    config: ConfigT,
    build: Callable[[ConfigT], Experiment],
    root: pathlib.Path,
    stop: threading.Event,
    *,
    stage: str = "",
) -> bool:
    """One training in its run folder, which is `root`, or a stage's below it."""
    from vaesr import reports  # who loads a run draws nothing

    workdir = root / stage
    _check_devices(config)
    claim(workdir, config)
    first = jax.process_index() == 0
    began = time.perf_counter()
    system = _refusing(lambda: build(config))
    if system.sampler.bank is not None:
        # Not after hours, when the first of them is evaluated.
        _refusing(lambda: [system.sampler.bank.split(split) for split in ("train", "validation", "test")])
    _check_memory(config, system)
    if first:
        source = system.sampler.bank
        write_config(
            workdir, experiment, preset, config, model=system.model, stage=stage,
            bank=None if source is None else source.path.name,
        )  # fmt: skip
    state, finished = _train(workdir, config, system, first, stop)
    if not finished:
        step = int(state.step)
        saved = (
            f"the checkpoint is saved. --resume --workdir {root} goes on." if step else "nothing was saved."
        )
        _say(f"stopped at step {step}; {saved}", first)
        return False
    params, variables, step = best_or_latest(workdir, first)
    results = system.evaluate_test(params, variables)
    if first:
        seconds = time.perf_counter() - began
        with training.MetricsWriter(workdir, resume_step=int(state.step)) as writer:
            writer.write(step, "test", results)
        _draw(system, params, variables, workdir, step, results)
        page = reports.write_report(workdir)
        _say(reports.format_results(results), first)
        _say(f"test split, checkpoint of step {step}, {seconds:.0f} s in all. Look at {page}", first)
    if broken := [name for name, value in results.items() if math.isnan(value)]:
        raise training.NonFiniteError(
            f"{broken[0]} of the test split is no number: the training has gone wrong. Lower --optim.lr, or "
            "set --optim.clip-norm."
        )
    return True


def best_or_latest(workdir: pathlib.Path, first: bool) -> tuple[dict[str, PyTree], PyTree, int]:
    """What is measured in the end: the best parameters, or the latest if those are damaged by now."""
    try:
        return training.restore_params(workdir, "best")
    except ValueError as error:
        found = _refusing(lambda: training.restore_params(workdir, "latest"))
        if first:
            print(f"note: {error} Checkpoint {found[2]} is measured in its place.", file=sys.stderr)
        return found


def _train(
    workdir: pathlib.Path, config: Config, system: Experiment, first: bool, stop: threading.Event
) -> tuple[training.TrainState, bool]:
    mesh = training.make_mesh(fsdp=config.fsdp)

    create, key = system.create_state, jax.random.key(config.seed)
    shapes = _refusing(lambda: jax.eval_shape(create, key))
    shardings = training.state_shardings(shapes, mesh)
    on_device = config.data_on == "device"
    if config.data_on == "auto":
        on_device = training.from_first_process(str(int(data.fits_on_device(system.sampler)))) == "1"
    batches = system.sampler if on_device else system.sampler.host_batch
    train_step = _refusing(lambda: system.train_step(accumulate=config.accumulate))
    with _refusing(lambda: training.Checkpoints(workdir)) as checkpoints:
        if config.resume and checkpoints.latest is not None:
            state = _refusing(lambda: checkpoints.restore(shapes, shardings))
        else:
            quick = training.quick_compile(mesh.devices.flat[0].platform)
            initialise = jax.jit(create, out_shardings=shardings, compiler_options=quick)
            state = initialise(key)
            if system.warm_start is not None:
                state = _start_from(system.warm_start(state.params, state.variables), state, shardings)
        start = int(state.step)
        steps_per_dispatch = config.steps_per_dispatch or _choose_dispatch(config, create, start)
        step = _refusing(
            lambda: training.compile_step(
                train_step,
                mesh,
                state=shapes,
                batches=batches,
                batch_size=config.batch_size,
                streamed=not on_device,
                parallel=config.parallel,
                steps_per_dispatch=steps_per_dispatch,
            )
        )
        loop = _refusing(
            lambda: training.LoopConfig(
                steps=config.steps,
                steps_per_dispatch=steps_per_dispatch,
                log_every=min(config.log_every, config.steps),
                eval_every=config.eval_every,
                checkpoint_every=config.checkpoint_every,
            )
        )

        def evaluate(state: training.TrainState, step: int) -> training.Evaluation:
            params, variables = _local(state.eval_params, mesh), _local(state.variables, mesh)
            metrics = system.evaluate(params, variables)
            if first:
                _draw(system, params, variables, workdir, step, metrics)
            if system.best_by is None:
                return training.Evaluation(metrics)
            value = metrics[system.best_by.removeprefix("-")]
            return training.Evaluation(metrics, -value if system.best_by.startswith("-") else value)

        writer = training.MetricsWriter(workdir, resume_step=start, enabled=first)
        with writer, _sources(config, system, mesh, state, on_device, steps_per_dispatch) as sources:
            return training.fit(
                state, step, sources, loop,
                checkpoints=checkpoints, writer=writer, evaluate=evaluate, stop=stop,
            )  # fmt: skip


def _draw(
    system: Experiment, params: PyTree, variables: PyTree, workdir: pathlib.Path, step: int, metrics: Any
) -> None:
    """The pictures of an evaluation; of a network whose outputs are no numbers there are none."""
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        print(f"note: {broken[0]} is not finite at step {step}; no pictures are drawn.", file=sys.stderr)
    else:
        system.figures(params, variables, workdir / "figures", step)


def _start_from(
    start: tuple[PyTree, PyTree], state: training.TrainState, shardings: PyTree
) -> training.TrainState:
    """The state with other parameters and variables; the moving average starts from them too."""
    # Copies, here and below: the donated state must not hold one buffer twice.
    params, variables = jax.device_put(start, (shardings.params, shardings.variables), may_alias=False)
    return dataclasses.replace(
        state,
        params=params,
        variables=variables,
        ema=None if state.ema is None else jax.tree.map(jnp.copy, params),
    )


@contextlib.contextmanager
def _sources(
    config: Config,
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


def _choose_dispatch(config: Config, create: Callable[[jax.Array], Any], start: int) -> int:
    """K steps per dispatch: as many as the intervals allow, but one for convolutions on the CPU.

    `create` makes the state of a key; it has been traced with one, and is not traced again.
    """
    most = training.longest_dispatch(create, jax.random.key(0), platform=jax.default_backend())
    if most == 1:
        return 1
    log_every = min(config.log_every, config.steps)
    common = math.gcd(config.steps, config.eval_every, config.checkpoint_every, log_every, start)
    chosen = max(k for k in range(1, most + 1) if common % k == 0)
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


def _check_devices(config: Config) -> None:
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


def _check_memory(config: Config, system: Experiment) -> None:
    """Refuse batches that alone don't fit the memory: on a CPU the whole machine would have to do with it."""
    together = jax.device_count() * config.accumulate
    needed, there = data.batch_bytes(system.sampler, config.batch_size) / together, data.device_memory()
    if needed > there:
        raise UserError(
            f"--batch-size {config.batch_size} takes {needed / 2**30:.0f} GiB for its images alone, and "
            f"there are {there / 2**30:.0f}; make it smaller, or let --accumulate N split it."
        )


def _say(text: str, first: bool) -> None:
    if first:
        print(text, flush=True)
