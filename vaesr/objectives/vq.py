"""The objective of autoencoders with discrete codes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaesr import quantisation
from vaesr.objectives.objective import Aux, Batch, Objective, Params


def vq_autoencoder(
    apply: Callable[[Any, Any, jax.Array, jax.Array, jax.Array], tuple[Any, Any]],
    *,
    beta: float = 0.25,
    data_variance: float = 1.0,
    codebook_weight: float = 1.0,
    player: str = "vqvae",
) -> Objective:
    """Build the loss: squared error in units of the data's variance, commitment, and the codebook's own.

    Args:
        apply: `apply(params, variables, images, key, position) -> (output, new variables)` in training mode,
            for one player; `position` `[B]` are the examples' places in the global batch. The output
            has `reconstruction` `[B, H, W, C]` and `quantised`, per level with
            `commitment` `[B]`, `codebook` `[B]` and `counts` `[K]`.
        beta: weight of the commitment, at least 0.
        data_variance: of the training images' values in [0, 1], above 0; makes the weights independent of
            the data's scale.
        codebook_weight: weight of the codebook's loss, which is 0 where it follows moving averages.
        player: the network's name in `params` and `variables`.

    Returns:
        An `Objective` that reads `batch["image"]`, with `variables` `{player: {collection: tree}}`. Metrics:
        `mse`, `psnr_db` (of the mean error), `commitment`, and of the batch per level `perplexity` and
        `usage_percent`, numbered from the coarsest where there are several.

    Raises:
        ValueError: if a knob is out of range.

    Source: van den Oord et al. 2017, equation 3.
    """
    if not beta >= 0 or not data_variance > 0 or not codebook_weight >= 0:
        raise ValueError(
            "beta and codebook_weight must be at least 0 and data_variance above 0, got "
            f"{beta}, {codebook_weight} and {data_variance}."
        )

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        images = batch["image"]
        position = batch.get("position", jnp.arange(images.shape[0], dtype=jnp.int32))
        output, new = apply(params[player], variables.get(player, {}), images, key, position)
        difference = (output.reconstruction - images).reshape(images.shape[0], -1)
        mse = jnp.square(difference).mean(axis=1)
        commitment = sum(level.commitment for level in output.quantised)
        own = sum(level.codebook for level in output.quantised)
        losses = mse / data_variance + beta * commitment + codebook_weight * own
        metrics = {
            "mse": mse.mean(),
            "psnr_db": -10.0 * jnp.log10(mse.mean()),
            "commitment": commitment.mean(),
        }
        for number, level in enumerate(output.quantised):
            suffix = f"_{number}" if len(output.quantised) > 1 else ""
            metrics[f"perplexity{suffix}"] = quantisation.perplexity(level.counts)
            metrics[f"usage{suffix}_percent"] = 100.0 * quantisation.usage(level.counts)
        return losses.mean(), Aux(metrics, {**variables, player: new} if new else variables)

    return objective
