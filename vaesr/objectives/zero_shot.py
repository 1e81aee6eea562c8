"""ZSSR's objective: one image's own views, made small by its kernel, are learned to be made large again."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaesr.distributions.keys import example_keys, example_normal
from vaesr.losses.pixel import l1_loss
from vaesr.objectives.objective import Aux, Batch, Objective, Params, collections

Array = jax.Array
POLICY = "policy"
"""The name in `variables` of what the learning rate's policy has seen."""

_KEPT = 5  # measurements that the policy looks at


class Policy(NamedTuple):
    """When ZSSR's learning rate falls, and when its training ends: as the reconstruction stops improving.

    Attributes:
        measure_every: steps from one measurement of the reconstruction's error to the next.
        check_every: steps from one look at the last five measurements to the next.
        wait: a rate is kept for more steps than this.
        ratio: the rate falls to a tenth where the error's slope, times this, is less than its uncertainty.
        drops: after so many falls the training has ended.
    """

    measure_every: int = 50
    check_every: int = 60
    wait: int = 256
    ratio: float = 1.5
    drops: int = 3


def start_policy() -> dict[str, Array]:
    """Begins the policy of one image.

    Args: none.

    Returns:
        What `variables["policy"]` is before the first step: "errors" `[5]`, the latest last; "changed", the
        step of the last fall; "drops", how many there were; "done", whether it has ended.
    """
    return {
        "errors": jnp.zeros(_KEPT, jnp.float32),
        "changed": jnp.int32(0),
        "drops": jnp.int32(0),
        "done": jnp.bool_(False),
    }


def policy_rate(variables: Any) -> Array:
    """Gives the factor on the learning rate, for `vaesr.training.Player`: 0 once the training has ended.

    Args:
        variables: of one training.

    Returns:
        float32 scalar.
    """
    policy = variables[POLICY]
    return jnp.where(policy["done"], 0.0, 0.1 ** policy["drops"].astype(jnp.float32))


def zero_shot(
    upscale: Callable[[Any, Array], Array],
    shrink: Callable[[Array, Batch], Array],
    *,
    policy: Policy = Policy(),  # noqa: B008  (immutable)
    player: str = "upscaler",
) -> Objective:
    """Trains an upscaler on views of one image and what its degradation makes of them, by L1.

    Batches hold views "x_hr" `[N, H, W, 3]` in [0, 1]; the standard deviation "noise" `[N]` of what is added
    to them once they are small; a part of the image by which the training is judged, "window" `[N, S, S, 3]`,
    and where it counts, "inside" `[N, S, S]`; and what `shrink` asks for. `variables["policy"]` is
    `start_policy()` at first.

    Args:
        upscale: `(collections, x_lr) -> x_sr`.
        shrink: `(images [N, H, W, 3], batch) -> x_lr`, the degradation.
        policy: of the learning rate; give `policy_rate` to the player.
        player: the network's name.

    Returns:
        An objective. Metrics: "loss" is L1 in [0, 1], "reconstruction_mse" that of the window when it was
        last measured, "rate_factor" what the learning rate is multiplied by,
        "done" whether the training has ended.

    Source: Shocher et al. 2018 (ZSSR), section 3; the authors' code.
    """

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        own = collections(params, variables, player)
        now, x_hr = variables[POLICY], batch["x_hr"]
        small = shrink(x_hr, batch)
        noise = example_normal(example_keys(key, batch["position"]), small.shape[1:])
        small = jnp.clip(small + batch["noise"].reshape(-1, 1, 1, 1) * noise, 0.0, 1.0)
        loss = l1_loss(upscale(own, small), x_hr).mean()
        still = jax.lax.stop_gradient(own)
        window, inside = batch["window"], batch["inside"]

        def measure(errors: Array) -> Array:
            given = jnp.clip(shrink(window, batch), 0.0, 1.0)
            squares = jnp.square(jnp.clip(upscale(still, given), 0.0, 1.0) - window).mean(-1)
            error = (squares * inside).sum() / jnp.maximum(inside.sum(), 1.0)
            return jnp.concatenate([errors[1:], error[None]])

        measured = step % policy.measure_every == 0
        errors = jax.lax.cond(measured, measure, lambda errors: errors, now["errors"])
        moved = _moved(policy, now | {"errors": errors}, step)
        metrics = {
            "reconstruction_mse": errors[-1],
            "rate_factor": policy_rate(variables),
            "done": now["done"].astype(jnp.float32),
        }
        return loss, Aux(metrics, {**variables, POLICY: moved})

    return objective


def _moved(policy: Policy, now: dict[str, Array], step: Array) -> dict[str, Array]:
    """The policy after a step."""
    # A straight line through the last measurements: its slope, and the slope's standard deviation.
    x = policy.measure_every * (jnp.arange(_KEPT, dtype=jnp.float32) - (_KEPT - 1) / 2)
    y = now["errors"]
    spread = jnp.square(x).sum()
    slope = (x * y).sum() / spread
    rest = y - y.mean() - slope * x
    deviation = jnp.sqrt(jnp.square(rest).sum() / (_KEPT - 2) / spread)
    looked = ((step + 1) % policy.check_every == 0) & (step - now["changed"] > policy.wait)
    falls = looked & ~now["done"] & (-policy.ratio * slope < deviation)
    drops = now["drops"] + falls.astype(jnp.int32)
    return {
        "errors": y,
        "changed": jnp.where(falls, step, now["changed"]),
        "drops": drops,
        "done": now["done"] | (drops >= policy.drops),
    }
