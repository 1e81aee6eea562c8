"""What `build(config)` makes of a system: one training, or the stages of several."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from vaesr import training
from vaesr.runs.config import Config

PyTree = Any
Evaluate = Callable[[dict[str, PyTree], PyTree], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One training of a system, put together: everything `run` needs to know; plain callables.

    Attributes:
        model: description for `load_run`, from `describe_model`.
        init: `key -> (params, variables)`, `params = {player: tree}`.
        players: as for `training.make_train_step`.
        sampler: a `data` sampler; says what a batch is.
        evaluate: `(params, variables) -> metrics` on the validation split.
        best_by: validation metric that chooses the best checkpoint; "-NAME" where smaller is better; None
            takes the last.
        evaluate_test: `(params, variables) -> metrics` on the test split, with the best checkpoint.
        figures: `(params, variables, directory, step)`: writes pictures into a folder.
        ema_decay: decay of the parameters' moving average; None keeps none.
        warm_start: `(params, variables) -> (params, variables)`: puts other runs' and networks' weights in
            the place of the initial ones.
        side_by_side: every example of a batch is the data of a training of its own, see
            `vaesr.training.side_by_side`: "batched" or "in_turn", which is how CPUs take them. `init` and
            `players` are those of one of them; `evaluate`, `evaluate_test`, `figures` and `warm_start` get
            the parameters and variables of all, with a leading axis.
    """

    model: dict[str, Any]
    init: Callable[[jax.Array], tuple[dict[str, PyTree], PyTree]]
    players: Mapping[str, training.Player]
    sampler: Any
    evaluate: Evaluate
    best_by: str | None
    evaluate_test: Evaluate
    figures: Callable[[dict[str, PyTree], PyTree, pathlib.Path, int], None]
    ema_decay: float | None = None
    warm_start: Callable[[dict[str, PyTree], PyTree], tuple[dict[str, PyTree], PyTree]] | None = None
    side_by_side: Literal["no", "batched", "in_turn"] = "no"

    def create_state(self, key: jax.Array) -> training.TrainState:
        """The state of step 0, of the run's key; to be traced under `jax.eval_shape` or `jax.jit`."""
        ema = self.ema_decay is not None
        if self.side_by_side == "no":
            return training.create_state(self.init, self.players, key=key, ema=ema)
        position = jnp.arange(self.sampler.batch_size, dtype=jnp.int32)
        return training.create_states(self.init, self.players, position, key=key, ema=ema)

    def train_step(self, *, accumulate: int = 1) -> training.TrainStep:
        """The training step, pure and not compiled; `accumulate` see `training.make_train_step`."""
        step = training.make_train_step(self.players, accumulate=accumulate, ema_decay=self.ema_decay)
        if self.side_by_side == "no":
            return step
        return training.side_by_side(step, in_turn=self.side_by_side == "in_turn")


class Stage(NamedTuple):
    """One training of several, in a run folder of its own.

    Attributes:
        folder: its run folder, below the whole run's; "" is that folder itself.
        config: its configuration; `workdir`, `resume` and `overwrite` are set by `run`.
        build: makes its `Experiment`.
    """

    folder: str
    config: Config
    build: Callable[[Any], Experiment]


# What an experiment of several trainings yields: one of them; or what is measured and drawn once those before
# it are done, which the first process calls.
Step = Stage | Callable[[], None]
