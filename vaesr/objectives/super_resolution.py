"""Objectives that train an upscaler on pixels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaesr.losses.pixel import l1, mse
from vaesr.objectives.objective import Aux, Batch, Objective, Params

PixelLoss = Callable[[jax.Array, jax.Array], jax.Array]


def pixel(apply: Callable[..., jax.Array], *, player: str = "edsr", loss: PixelLoss = l1) -> Objective:
    """Train an upscaler with a pixel loss, on the 0..255 scale of the EDSR paper.

    Args:
        apply: `(variables, x_lr) -> x_sr`, a Linen module's `apply`. For one fixed scale of MDSR:
            `functools.partial(mdsr.apply, scale=3)`.
        player: the name of the upscaler's tree in `params`.
        loss: per-example loss of two image batches in [0, 1], homogeneous of degree 1 (`l1`); its mean
            is multiplied by 255, since Adam's epsilon makes the scale matter a little.

    Returns:
        An objective for batches with `x_lr` `[B, h, w, 3]` and `x_hr` `[B, h * s, w * s, 3]` in [0, 1].
        Its metrics are `l1_255` and `psnr_db` (RGB, whole patch, unclipped, mean over images). What
        `variables` holds under the player's name is handed to `apply` beside the parameters.

    Raises:
        ValueError: when called on a batch whose shapes don't fit the network's output.

    Source: Lim et al. 2017 (EDSR), section 4.2.
    """

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        del key, step
        x_sr = apply(_collections(params, variables, player), batch["x_lr"])
        value, metrics = _pixel_loss(x_sr, batch["x_hr"], loss)
        return value, Aux(metrics, variables)

    return objective


def multi_scale_pixel(
    apply: Callable[..., jax.Array],
    *,
    scales: tuple[int, ...] = (2, 3, 4),
    player: str = "mdsr",
    loss: PixelLoss = l1,
) -> Objective:
    """Train MDSR: each step draws one scale for its whole mini-batch.

    The scale comes from the step's key, so all devices and all accumulated micro-batches agree on it. The
    compiled step holds one branch per scale (`lax.switch`) and runs one of them. The parameters of the
    scales not drawn get gradients of zero and still move by Adam's momentum, as in the authors' code.

    On CPUs, XLA's gradients of convolutions are as slow inside `lax.switch` as inside `lax.scan`: give the
    network `conv_form="loop"` there (a step of MDSR took 0.11 s in place of 2.0 s).

    Args:
        apply: `(variables, x_lr, scale=s) -> x_sr`, MDSR's `apply`.
        scales: the scales to draw from, each as likely.
        player: the name of the upscaler's tree in `params`.
        loss: see `pixel`.

    Returns:
        An objective for batches that hold a pair per scale: `x_lr_2` `[B, h, w, 3]` and `x_hr_2`
        `[B, 2h, 2w, 3]`, `x_lr_3`, ... in [0, 1]. Its metrics are `l1_255`, `psnr_db` and the drawn
        `scale`.

    Raises:
        ValueError: if there are no scales; when called, if the batch lacks a pair or shapes don't fit.

    Source: Lim et al. 2017, section 3.3.
    """
    if not scales:
        raise ValueError("scales is empty; expected at least one scale, such as (2, 3, 4).")

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        del step
        missing = [n for s in scales for n in (f"x_lr_{s}", f"x_hr_{s}") if n not in batch]
        if missing:
            raise ValueError(f"the batch lacks {missing}; it holds {sorted(batch)}.")
        collections = _collections(params, variables, player)

        def branch(scale: int) -> Callable[[Any, Batch], tuple[jax.Array, dict[str, jax.Array]]]:
            def run(tree: Any, pair: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
                x_sr = apply(tree, pair[f"x_lr_{scale}"], scale=scale)
                return _pixel_loss(x_sr, pair[f"x_hr_{scale}"], loss)

            return run

        drawn = jax.random.randint(key, (), 0, len(scales))
        value, metrics = jax.lax.switch(drawn, [branch(s) for s in scales], collections, batch)
        metrics["scale"] = jnp.asarray(scales, jnp.float32)[drawn]
        return value, Aux(metrics, variables)

    return objective


def _collections(params: Params, variables: Any, player: str) -> dict[str, Any]:
    if player not in params:
        raise ValueError(f"params has no player {player!r}; it holds {sorted(params)}.")
    own = variables.get(player, {}) if isinstance(variables, dict) else {}
    return {"params": params[player], **own}


def _pixel_loss(x_sr: jax.Array, x_hr: jax.Array, loss: PixelLoss) -> tuple[jax.Array, dict[str, jax.Array]]:
    value = 255.0 * loss(x_sr, x_hr).mean()
    still = jax.lax.stop_gradient(x_sr)
    # The floor (a peak of 1 and 10 dB per decade) keeps equal images at 100 dB in place of infinity.
    psnr = -10.0 * jnp.log10(jnp.maximum(mse(still, x_hr), 1e-10))
    return value, {"l1_255": 255.0 * l1(still, x_hr).mean(), "psnr_db": psnr.mean()}
