"""Maximum likelihood for networks whose weights are numbers: one, an ensemble, or one with dropout."""

from collections.abc import Callable
from typing import Any

import jax

from vaesr.objectives.bayesian import Forward, read_inputs
from vaesr.objectives.objective import Aux, Batch, Objective, Params


def supervised(
    forward: Forward,
    nll: Callable[[Any, Batch], jax.Array],
    *,
    player: str,
    inputs: str = "image",
) -> Objective:
    """Build the mean negative log-likelihood of a batch, summed over the members of an ensemble.

    The sum gives every member the gradient that it would have alone (an optimizer that clips one norm over
    all would couple them). Weight decay, where wanted, is the optimizer's.

    Args:
        forward: `forward(params, inputs, keys=[1], position=[B]) -> [M, B, ...]`, from
            `vaesr.layers.ensemble_apply` or `dropout_apply`.
        nll: `nll(outputs, batch) -> [B]` nats, of the outputs of one member: `classification_nll`,
            `regression_nll` or your own.
        player: the name of the network in `params`.
        inputs: the name of the network's input in the batch.

    Returns:
        An `Objective` that reads `batch[inputs]`, what `nll` reads, and `batch["position"]`. Its metric
        `nll_nats` is the mean over members.

    Raises:
        ValueError: when called, if the batch lacks the input or `nll` gives other shapes.

    Source: Lakshminarayanan et al. 2017, algorithm 1, without adversarial examples.
    """

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        del step
        x, position = read_inputs(batch, inputs)
        outputs = forward(params[player], x, keys=key[None], position=position)
        losses = jax.vmap(lambda one: nll(one, batch))(outputs)
        if losses.ndim != 2 or losses.shape[1:] != position.shape:
            raise ValueError(
                f"nll must give one value per example {position.shape}, got {losses.shape[1:]} per member."
            )
        return losses.mean(axis=1).sum(), Aux({"nll_nats": losses.mean()}, variables)

    return objective
