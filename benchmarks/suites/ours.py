"""How our training steps are built, compiled and driven for a measurement."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import flops, timing
from vaesr.training import Player, TrainState, compile_step, create_state, make_mesh, make_train_step

Players = Player | Mapping[str, Player]
LEARNING_RATE = 1e-4
PARITY_STEPS = 5  # whose losses must agree with the peer's


class Runner:
    """A compiled training step and the state it is chained through.

    Args:
        player: objective and optimizer; or several players by name, in the order of their moves.
        name: the player's name; of several, whose loss is told.
        params: its parameters, or of several, all by name; copied, since the state is donated.
        source: what each call is given: a batch, or the resident data.
        seed: of the run's key.
        variables: what gradients don't touch, `{player: ...}`; none by default.
        **how: `batches`, `batch_size`, `steps_per_dispatch` of `compile_step`.
    """

    def __init__(
        self, player: Players, name: str, params: Any, source: Any, *, seed: int = 0, variables: Any = None,
        **how: Any,
    ) -> None:  # fmt: skip
        self.steps_per_call = how.get("steps_per_dispatch", 1)
        mesh = make_mesh(devices=jax.devices()[:1])
        players, trees = _by_name(player, name, params)
        self.loss = f"{name}/loss" if len(players) > 1 else "loss"
        state = create_state(lambda _: (trees, variables or {}), players, key=jax.random.key(seed))
        self.initial = jax.tree.map(jnp.copy, state)
        self.source = source
        step: Any = compile_step(make_train_step(players), mesh, state=state, **how)
        start = time.perf_counter()
        lowered = step.lower(state, source)
        lowered_at = time.perf_counter()
        self.compiled = lowered.compile()
        self.compile_s = {
            "trace_and_lower": lowered_at - start,
            "compile": time.perf_counter() - lowered_at,
        }
        self.state: TrainState = jax.tree.map(jnp.copy, state)
        self.metrics: dict[str, jax.Array] = {}

    def run(self, calls: int) -> None:
        """Chain `calls` dispatches and wait for the last.

        Args:
            calls: how many.
        """
        for _ in range(calls):
            self.state, self.metrics = self.compiled(self.state, self.source)
        jax.block_until_ready((self.state, self.metrics))

    def losses(self, calls: int) -> list[float]:
        """The losses of the first steps, from the initial state; the chained state is left alone.

        Args:
            calls: dispatches.

        Returns:
            One loss per step.
        """
        state = jax.tree.map(jnp.copy, self.initial)
        values: list[float] = []
        for _ in range(calls):
            state, metrics = self.compiled(state, self.source)
            values.extend(float(loss) for loss in metrics[self.loss])
        return values

    def check(self) -> dict[str, bool]:
        """Whether the work was real: finite losses, no skipped update, parameters that moved.

        Returns:
            Facts for the row.
        """
        jnp = jax.numpy
        pairs = zip(jax.tree.leaves(self.initial.params), jax.tree.leaves(self.state.params), strict=True)
        return {
            "loss_finite": bool(jnp.isfinite(self.metrics[self.loss]).all()),
            "no_update_skipped": int(self.state.skipped) == 0,
            "output_changed": any(bool((a != b).any()) for a, b in pairs),
        }

    def memory(self) -> int | None:
        """What one call holds at its peak, as the compiler planned it.

        Returns:
            Bytes of arguments, results and temporaries, shared ones once; None where it is not told.
        """
        try:
            plan = self.compiled.memory_analysis()
            return int(
                plan.argument_size_in_bytes
                + plan.output_size_in_bytes
                - plan.alias_size_in_bytes
                + plan.temp_size_in_bytes
            )
        except (AttributeError, NotImplementedError):
            return None

    def side(self, name: str, *, images: int, work: float | None, note: str = "") -> timing.Side:
        """This runner as a side of a case.

        Args:
            name: the side's name.
            images: examples per step.
            work: operations per step.
            note: a remark.

        Returns:
            The side.
        """
        return timing.Side(
            name, "vaesr", self.run, images, self.steps_per_call, work,
            compile_s=self.compile_s, memory_bytes=self.memory(), check=self.check, note=note,
        )  # fmt: skip


def _by_name(player: Players, name: str, params: Any) -> tuple[dict[str, Player], dict[str, Any]]:
    """Players and parameters by name."""
    if isinstance(player, Player):
        return {name: player}, {name: params}
    return dict(player), dict(params)


def step_flops(player: Players, name: str, params: Any, batch: Any, *, variables: Any = None) -> float:
    """Operations of one training step, counted on its jaxpr.

    Args:
        player: objective and optimizer; the model in its plain form (direct convolutions, no remat), so
            that cheaper algorithms show as speed and not as less work. Or several players by name.
        name: the player's name.
        params: its parameters, or of several, all by name; arrays or shapes.
        batch: one batch, arrays or shapes.
        variables: what gradients don't touch; none by default.

    Returns:
        Operations.

    Raises:
        ValueError: if a loop of unknown length was met.
    """

    def one(params: Any, batch: Any) -> Any:
        players, trees = _by_name(player, name, params)
        state = create_state(lambda _: (trees, variables or {}), players, key=jax.random.key(0))
        return make_train_step(players)(state, batch)

    counted = flops.count(one, params, batch)
    if not counted.exact:
        raise ValueError(f"the step's operations cannot be counted exactly: {counted}")
    return counted.total


def agree(
    ours: np.ndarray, theirs: np.ndarray, *, our_losses: list[float], their_losses: list[float]
) -> dict[str, Any]:
    """Compare two implementations before they are timed.

    Args:
        ours: our output.
        theirs: the peer's, in the same layout.
        our_losses: losses of the first steps.
        their_losses: likewise.

    Returns:
        The largest relative differences of outputs (to the largest output) and losses, and `passed`:
        outputs within 1e-4, losses within 1e-3 (Adam divides by the size of gradients, so that
        rounding of tiny ones grows from step to step).
    """
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    output = float(np.abs(a - b).max() / np.abs(b).max())
    losses = max(abs(x - y) / abs(y) for x, y in zip(our_losses, their_losses, strict=True))
    return {"output": output, "losses": losses, "passed": bool(output <= 1e-4 and losses <= 1e-3)}


def sr_batch(scale: int, batch_size: int, patch: int) -> dict[str, jax.Array]:
    """A batch of random pairs.

    Args:
        scale: the factor.
        batch_size: pairs.
        patch: side of the small image.

    Returns:
        `x_lr` and `x_hr`, float32 in [0, 1].
    """
    rng = np.random.default_rng(0)
    shapes = {"x_lr": patch, "x_hr": patch * scale}
    return {k: jnp.asarray(rng.random((batch_size, n, n, 3), np.float32)) for k, n in shapes.items()}
