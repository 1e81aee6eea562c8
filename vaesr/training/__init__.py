"""Training: state, step, mesh, compilation, loop, checkpoints. Receives callables; knows no model."""

from vaesr.training.checkpoint import Checkpoints, restore_params
from vaesr.training.compile import compile_step, contains_convolution, data_key, longest_dispatch
from vaesr.training.logging import MetricsWriter
from vaesr.training.loop import Evaluation, LoopConfig, NonFiniteError, fit, stop_on_signals
from vaesr.training.mesh import batch_sharding, make_mesh, replicated, state_shardings
from vaesr.training.optim import OptimConfig, make_optimizer, make_schedule
from vaesr.training.runtime import (
    enable_compile_cache,
    from_first_process,
    initialize_distributed,
    quick_compile,
)
from vaesr.training.side_by_side import create_states, each_step, side_by_side
from vaesr.training.state import Player, TrainState, create_state
from vaesr.training.step import TrainStep, make_train_step

__all__ = [
    "Checkpoints",
    "Evaluation",
    "LoopConfig",
    "MetricsWriter",
    "NonFiniteError",
    "OptimConfig",
    "Player",
    "TrainState",
    "TrainStep",
    "batch_sharding",
    "compile_step",
    "contains_convolution",
    "create_state",
    "create_states",
    "data_key",
    "each_step",
    "enable_compile_cache",
    "fit",
    "from_first_process",
    "initialize_distributed",
    "longest_dispatch",
    "make_mesh",
    "make_optimizer",
    "make_schedule",
    "make_train_step",
    "quick_compile",
    "replicated",
    "restore_params",
    "side_by_side",
    "state_shardings",
    "stop_on_signals",
]
