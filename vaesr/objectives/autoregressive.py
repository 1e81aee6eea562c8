"""Maximum likelihood for autoregressive models of codes."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaesr.distributions import example_keys
from vaesr.losses import categorical_nll
from vaesr.objectives.objective import Aux, Batch, Objective, Params


def autoregressive(apply: Callable[..., jax.Array], *, player: str = "prior") -> Objective:
    """Build the mean negative log-likelihood per code.

    Args:
        apply: `apply(params, codes [B, h, w], label=, condition=, keys=) -> logits [B, h, w, K]`: each code's
            given those before it; `keys` `[B]` are for dropout.
        player: the name of the model in `params`.

    Returns:
        An `Objective` in nats per code that reads `batch["codes"]`, "label" if it is there, and the coarser
        maps "condition_0", "condition_1", ... Metrics: `bits_per_code`, `accuracy_percent` (how often the
        likeliest code is the right one).
    """

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        del step
        codes = batch["codes"].astype(jnp.int32)
        position = batch.get("position", jnp.arange(codes.shape[0], dtype=jnp.int32))
        logits = apply(params[player], codes, keys=example_keys(key, position), **conditions(batch))
        nats = categorical_nll(logits, codes).mean() / math.prod(codes.shape[1:])
        right = (logits.argmax(axis=-1) == codes).astype(jnp.float32).mean()
        metrics = {"bits_per_code": nats / math.log(2), "accuracy_percent": 100.0 * right}
        return nats, Aux(metrics, variables)

    return objective


def conditions(batch: Any) -> dict[str, Any]:
    """What a prior is told beside the codes it predicts.

    Args:
        batch: may hold "label" `[B]` and the coarser code maps "condition_0", ... `[B, h, w]`, the coarsest
            first.

    Returns:
        `{"label": [B] or None, "condition": tuple of maps}`, int32.
    """
    names = sorted((name for name in batch if name.startswith("condition_")), key=lambda name: int(name[10:]))
    label = batch.get("label")
    return {
        "label": None if label is None else jnp.asarray(label, jnp.int32),
        "condition": tuple(jnp.asarray(batch[name], jnp.int32) for name in names),
    }
