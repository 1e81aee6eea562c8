"""How our training steps are compiled and driven for a measurement."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from benchmarks import flops, timing
from benchmarks.trainings import Training
from vaesr import forms
from vaesr.training import compile_step, make_mesh, quick_compile

PARITY_STEPS = 5  # whose losses must agree with the peer's


class Runner:
    """A compiled training step and the state it is chained through.

    `with_data` draws every batch inside the step, in place of the same one every time; `steps_per_dispatch`
    are of one call; `quick` compiles quickly, for slow steps.
    """

    def __init__(
        self, trained: Training, *, with_data: bool = False, steps_per_dispatch: int = 1, quick: bool = False
    ) -> None:
        experiment, self.steps_per_call = trained.experiment, steps_per_dispatch
        mesh = make_mesh(devices=jax.devices()[:1])
        several = len(experiment.players) > 1
        self.losses_of = [f"{name}/loss" if several else "loss" for name in experiment.players]
        self.loss = f"{trained.run.player}/loss" if several else "loss"
        self.initial = trained.state
        self.batch_size = experiment.sampler.batch_size
        how: dict[str, Any] = {"steps_per_dispatch": steps_per_dispatch}
        self.source: Any = trained.batch
        if with_data:
            how |= {"batches": experiment.sampler, "batch_size": self.batch_size}
            self.source = experiment.sampler.source()
        step: Any = compile_step(trained.step, mesh, state=self.initial, **how)
        start = time.perf_counter()
        lowered = step.lower(self.initial, self.source)
        lowered_at = time.perf_counter()
        self.compiled = lowered.compile(quick_compile(jax.default_backend()) if quick else None)
        self.compile_s = {
            "trace_and_lower": lowered_at - start,
            "compile": time.perf_counter() - lowered_at,
        }
        self.state = jax.tree.map(jnp.copy, self.initial)
        self.metrics: dict[str, jax.Array] = {}

    def run(self, calls: int) -> None:
        """Chain `calls` dispatches and wait for the last."""
        for _ in range(calls):
            self.state, self.metrics = self.compiled(self.state, self.source)
        jax.block_until_ready((self.state, self.metrics))

    def losses(self, calls: int) -> list[float]:
        """The losses of the first steps, from the initial state; the chained state is left alone."""
        state = jax.tree.map(jnp.copy, self.initial)
        values: list[float] = []
        for _ in range(calls):
            state, metrics = self.compiled(state, self.source)
            values.extend(float(loss) for loss in metrics[self.loss])
        return values

    def check(self) -> dict[str, bool]:
        """Whether the work was real: finite losses, no skipped update, parameters that moved."""
        pairs = zip(jax.tree.leaves(self.initial.params), jax.tree.leaves(self.state.params), strict=True)
        # Of players that take turns, the one that paused has no loss.
        losses = [
            jnp.isfinite(self.metrics[loss]) | (self.metrics.get(moved, jnp.ones(())) == 0)
            for loss in self.losses_of
            for moved in [loss.removesuffix("loss") + "moved"]
        ]
        return {
            "loss_finite": all(bool(loss.all()) for loss in losses),
            "no_update_skipped": bool((self.state.skipped == 0).all()),
            "output_changed": any(bool((a != b).any()) for a, b in pairs),
            **self._donated(),
        }

    def _donated(self) -> dict[str, bool]:
        """Whether the new state takes the old one's place, where the compiler tells it to the byte."""
        if jax.default_backend() != "cpu":
            return {}
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self.initial))
        return {"state_donated": self.compiled.memory_analysis().alias_size_in_bytes == size}

    def memory(self) -> int | None:
        """What one call holds at its peak, as the compiler planned it; None where it is not told.

        Bytes of arguments, results and temporaries, shared ones once.
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

    def side(self, name: str, *, work: float | None) -> timing.Side:
        """This runner as a side of a case; `work` is operations per step."""
        return timing.Side(
            name, "vaesr", self.run, self.batch_size, self.steps_per_call, work,
            compile_s=self.compile_s, memory_bytes=self.memory(), check=self.check,
        )  # fmt: skip


def step_flops(trained: Training) -> float | None:
    """Operations of one training step, counted on its jaxpr; None where they differ from step to step.

    Convolutions are counted in their plain form and nothing twice, so that cheaper algorithms show as speed
    and not as less work; what a network does in another order than its paper is counted as it is done.
    State and batch may be shapes. ValueError if a loop of unknown length was met.
    """
    plain = trained.plain()
    with forms.only("tpu"):
        jaxpr = jax.make_jaxpr(plain.step)(plain.state, plain.batch).jaxpr
    # Gradients of operations with a form per platform write down a forward pass that no one asks for.
    counted = flops.count_jaxpr(partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0])
    if not counted.exact:
        raise ValueError(f"the step's operations cannot be counted exactly: {counted}")
    return None if counted.uneven else counted.total


def agree(
    ours: np.ndarray, theirs: np.ndarray, *, our_losses: list[float], their_losses: list[float]
) -> dict[str, Any]:
    """Compare outputs, in one layout, and losses of two implementations' first steps before they are timed.

    The largest relative differences of outputs (to the largest output) and losses, and `passed`: outputs
    within 1e-4, losses within 1e-3 (Adam divides by the size of gradients, so that rounding of tiny ones
    grows from step to step).
    """
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    output = float(np.abs(a - b).max() / np.abs(b).max())
    pairs = zip(our_losses, their_losses, strict=True)
    losses = max((abs(x - y) / abs(y) for x, y in pairs), default=0.0)
    return {"output": output, "losses": losses, "passed": bool(output <= 1e-4 and losses <= 1e-3)}
