"""NoGAN: generator and critic each trained alone, then together for a short time, taking turns."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaesr.distributions.keys import example_keys
from vaesr.losses.adversarial import standard_discriminator_loss, standard_generator_loss
from vaesr.losses.pixel import l1
from vaesr.objectives.objective import Aux, Batch, Objective, Params
from vaesr.objectives.restoration import Content, Network, PixelLoss, opinion, reconstruction, replace

Array = jax.Array
# `(collections, images) -> output`, out of training.
Still = Callable[[Any, Array], Array]
# `(params, variables, images, keys [B]) -> (logits, new variables)`, in training, with dropout.
Critic = Callable[[Any, Any, Array, Array], tuple[Array, Any]]

TURN = "turn"
"""The name in `variables` of whose turn it is: True is the generator's."""
FROZEN = "frozen"
"""The name in `variables` of the generator's collections while the critic is trained alone."""


def critic_alone(generator: Still, critic: Critic, *, player: str = "critic") -> Objective:
    """Train a critic to tell a trained generator's results from real images.

    Args:
        generator: `(collections, x_lr) -> x_sr`; its collections are in `variables["frozen"]`.
        critic: see the top of this file.
        player: the critic's name in `params` and `variables`.

    Returns:
        An objective for batches with `x_lr` and `x_hr` `[B, H, W, 3]` in [0, 1]; metrics `real_logit`,
        `fake_logit` and `accuracy` as `restoration_gan`'s. The loss is half of the standard one, ln 2 where
        the critic knows nothing.

    Source: fastai's course v3, lesson 7, GAN notebook; DeOldify, NoGAN step 2.
    """

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del step
        x_sr = generator(variables[FROZEN], batch["x_lr"])
        value, state, metrics = _tell_apart(
            critic, params[player], variables.get(player, {}), batch, x_sr, key
        )
        return value, Aux(metrics, replace(variables, player, state))

    return objective


def nogan(
    generator: Network,
    still_generator: Still,
    critic: Critic,
    still_critic: Still,
    *,
    threshold: float = 0.65,
    adversarial_weight: float = 1.0,
    pixel_loss: PixelLoss = l1,
    pixel_weight: float = 1.0,
    content: Content | None = None,
    content_weight: float = 1.0,
    players: tuple[str, str] = ("critic", "generator"),
) -> dict[str, Objective]:
    """The joint phase: the critic moves until its loss is below a threshold, then the generator, once.

    `variables["turn"]` says whose turn it is; it begins as False, the critic's. Make the players with
    `turn=turns()[name]`. Whoever does not move is out of training: no dropout, no batch statistics.

    Args:
        generator: `(params, variables, x_lr) -> (x_sr, variables)` in training.
        still_generator: `(collections, x_lr) -> x_sr`.
        critic: see the top of this file.
        still_critic: `(collections, images) -> logits`.
        threshold: of the critic's loss, half of the standard one: at ln 2 = 0.693 it knows nothing.
        adversarial_weight: of the generator's adversarial loss.
        pixel_loss: per-example loss of images in [0, 1].
        pixel_weight: its weight; at 0 it is not computed.
        content: from `feature_content`; its network is in `variables["features"]`. None leaves it out.
        content_weight: its weight.
        players: names of critic and generator.

    Returns:
        The two objectives, in this order, with the metrics of `critic_alone` and of `restoration` and
        `adversarial`.

    Raises:
        ValueError: if the threshold is not above 0.

    Source: fastai 1.0, `AdaptiveGANSwitcher` and `gan_loss_from_func`; DeOldify, NoGAN step 3.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0, got {threshold}.")
    judge, name = players

    def of_critic(
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del step
        x_sr = still_generator({"params": params[name], **variables.get(name, {})}, batch["x_lr"])
        value, state, metrics = _tell_apart(critic, params[judge], variables.get(judge, {}), batch, x_sr, key)
        variables = replace(variables, judge, state)
        return value, Aux(metrics, {**variables, TURN: value < threshold})

    def of_generator(
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        x_sr, own = generator(params[name], variables.get(name, {}), batch["x_lr"])
        value, metrics = reconstruction(
            x_sr, batch["x_hr"], variables, pixel_loss, pixel_weight, content, content_weight
        )
        logits = still_critic({"params": params[judge], **variables.get(judge, {})}, x_sr)
        metrics["adversarial"] = standard_generator_loss(logits).mean()
        variables = {**replace(variables, name, own), TURN: jnp.array(False)}
        return value + adversarial_weight * metrics["adversarial"], Aux(metrics, variables)

    return {judge: of_critic, name: of_generator}


def turns(*, players: tuple[str, str] = ("critic", "generator")) -> dict[str, Callable[[Any], Array]]:
    """Whose turn it is, for `training.Player`.

    Args:
        players: names of critic and generator.

    Returns:
        `variables -> bool` by name.
    """
    judge, name = players
    return {judge: lambda variables: ~variables[TURN], name: lambda variables: variables[TURN]}


def _tell_apart(
    critic: Critic, params: Any, variables: Any, batch: Batch, x_sr: Array, key: Array
) -> tuple[Array, Any, dict[str, Array]]:
    """The critic's loss on real and generated images, its new variables, and metrics."""
    position = batch.get("position", jnp.arange(x_sr.shape[0], dtype=jnp.int32))
    of_real, of_fake = (example_keys(k, position) for k in jax.random.split(key))
    real, state = critic(params, variables, batch["x_hr"], of_real)
    fake, state = critic(params, state, jax.lax.stop_gradient(x_sr), of_fake)
    return standard_discriminator_loss(real, fake).mean() / 2, state, opinion(real, fake)
