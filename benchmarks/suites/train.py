"""Training steps as users train with them, on one batch and with their data; beside torch where it can.

Which trainings these are, `benchmarks.trainings` says; a peer is a file `benchmarks/peers/torch_NAME.py` of
an experiment's name, see `benchmarks.peers`.
"""

import math
import pathlib
import tempfile
from collections.abc import Iterator
from types import ModuleType

import jax
import numpy as np

import experiments
from benchmarks import timing, trainings
from benchmarks.options import Options
from benchmarks.peers import torch_common
from benchmarks.steps import PARITY_STEPS, Runner, agree, step_flops
from vaesr.training import longest_dispatch

names = trainings.names


def cases(options: Options) -> Iterator[timing.Case]:
    """Every training of every experiment's presets for benchmarks, built one at a time."""
    for module in experiments.discover():
        short = module.__name__.rpartition(".")[2]
        for name, config in trainings.bench_presets(module, accelerator=options.accelerator).items():
            if not options.wants(short) and not options.wants(trainings.preset_name(short, name)):
                continue
            config = trainings.shrunk(config) if options.smoke else config
            with tempfile.TemporaryDirectory() as folder:
                for trained in trainings.trainings(module, name, config, pathlib.Path(folder)):
                    yield _case(trained, short, options)


def _case(trained: trainings.Training, experiment: str, options: Options) -> timing.Case:
    work = step_flops(trained)
    fixed = Runner(trained, quick=options.smoke)
    case = timing.Case("train", _name(trained), [fixed.side("vaesr", work=work)])
    if not options.smoke:
        steps = trained.config.steps_per_dispatch or longest_dispatch(
            trained.experiment.init, jax.random.key(0), platform=jax.default_backend()
        )
        words = "with its data" + (f", {steps} steps a dispatch" if steps > 1 else "")
        case.sides.append(
            Runner(trained, with_data=True, steps_per_dispatch=steps).side(f"vaesr, {words}", work=work)
        )
    peer = torch_common.peer_of(experiment, options, case)
    if peer is not None:
        _add_torch(case, peer, trained, fixed, work, options)
    return case


def _name(trained: trainings.Training) -> str:
    """The experiment, its network, and the shape of what the network is given."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(trained.state.params[trained.run.player]))
    network = f"{type(trained.run.model).__name__} of {parameters / 1e6:.3g} M parameters"
    arrays = trained.batch.values()
    rank = max(array.ndim for array in arrays)
    shape = min((array.shape for array in arrays if array.ndim == rank), key=math.prod)
    return f"{trained.title}: {network}, batch {'x'.join(map(str, shape))}, {trained.config.compute_dtype}"


def _add_torch(
    case: timing.Case, peer: ModuleType, trained: trainings.Training, ours: Runner, work: float | None,
    options: Options,
) -> None:  # fmt: skip
    """Check that torch's output and losses are ours, then add its modes to the case."""
    torch_common.load(options.threads)
    with torch_common.exact(), jax.default_matmul_precision("highest"):
        exact = trained.in_float32()
        trainer = peer.trainer(exact, torch_common.How(exact=True))
        if trainer is None:
            return
        theirs = trainer.output()
        their_losses = [float(trainer.step()) for _ in range(PARITY_STEPS)]
        # On accelerators the compiled step may multiply with fewer digits.
        runner = Runner(exact, quick=options.smoke) if options.accelerator else ours
        case.parity = agree(
            np.asarray(peer.output(exact)), theirs,
            our_losses=runner.losses(PARITY_STEPS), their_losses=their_losses,
        )  # fmt: skip
    for layout in peer.LAYOUTS:
        for mode, compile_mode in torch_common.modes(options):
            how = torch_common.How(layout, trained.config.compute_dtype == "bfloat16", compile_mode)
            name = " ".join(["torch", mode, *([layout] if len(peer.LAYOUTS) > 1 else [])])
            trainer = peer.trainer(trained, how)
            case.sides.append(torch_common.side(name, trainer, ours.batch_size, work))
