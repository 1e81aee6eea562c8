"""Objectives of networks that restore images against a discriminator: GANs, and NoGAN.

NoGAN trains generator and critic each alone, then together for a short time, taking turns.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaesr.distributions.keys import example_keys
from vaesr.losses.adversarial import (
    ADVERSARIAL,
    AdversarialLoss,
    standard_discriminator_loss,
    standard_generator_loss,
)
from vaesr.losses.pixel import l1_loss
from vaesr.objectives.objective import (
    Aux,
    Batch,
    Objective,
    Params,
    collections,
    own_variables,
    replace_variables,
)
from vaesr.objectives.restoration import Content, Network, PixelLoss, reconstruction

Array = jax.Array
Still = Callable[[Any, Array], Array]
"""`(collections, images) -> output`, out of training."""

Critic = Callable[[Any, Any, Array, Array], tuple[Array, Any]]
"""`(params, variables, images, keys [B]) -> (logits, new variables)`, in training, with dropout."""

TURN = "turn"
"""The name in `variables` of whose turn it is: True is the generator's."""
FROZEN = "frozen"
"""The name in `variables` of the generator's collections while the critic is trained alone."""


def restoration_gan(
    generator: Network,
    discriminator: Network,
    *,
    loss: AdversarialLoss = ADVERSARIAL["relativistic_average"],
    adversarial_weight: float = 5e-3,
    pixel_loss: PixelLoss = l1_loss,
    pixel_weight: float = 1e-2,
    content: Content | None = None,
    content_weight: float = 1.0,
    players: tuple[str, str] = ("generator", "discriminator"),
    axis_name: str | None = None,
) -> dict[str, Objective]:
    """Train a generator against a discriminator of its results.

    Within a step the generator moves first and the discriminator next, both by what the weights of before
    the step make of one batch: the generator runs once, and the discriminator once on the real and once on
    the generated images, real first. The generator's loss pulls the discriminator's logits back to the
    image, the discriminator's pulls the same logits back to its weights.

    Args:
        generator: a `Network`, see `vaesr.objectives.restoration`.
        discriminator: a `Network` whose outputs are logits.
        loss: one of `vaesr.losses.ADVERSARIAL`.
        adversarial_weight: of the generator's adversarial loss.
        pixel_loss: per-example loss of images in [0, 1].
        pixel_weight: its weight; at 0 it is not computed.
        content: from `feature_content`; its network is in `variables["features"]`. None leaves it out.
        content_weight: its weight.
        players: the names of the two.
        axis_name: of the devices under `pmap`, over which relativistic means are taken.

    Returns:
        The two objectives under these names, in the order of their updates: give both to one training step.
        The generator's metrics are the parts of its loss, unweighted (`pixel`, `content`, `adversarial`),
        and `psnr_db`; the discriminator's are the mean logits `real_logit` and `fake_logit`, and `accuracy`,
        the share of real images with a larger logit than the batch's generated ones have on average and the
        other way round, at 0.5 when it knows nothing.

    Raises:
        ValueError: when called, if shapes don't fit.

    Source: Ledig et al. 2017 (SRGAN), equation 3; Wang et al. 2018 (ESRGAN), equation 3 and the defaults.
    """
    by_generator, by_discriminator = players
    measure = reconstruction(pixel_loss, pixel_weight, content, content_weight)

    def of_generator(
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        x_sr, own = generator(params[by_generator], own_variables(variables, by_generator), batch["x_lr"])
        value, metrics = measure(x_sr, batch["x_hr"], variables)
        weights, state = params[by_discriminator], own_variables(variables, by_discriminator)
        real, pull_real, state = _logits(discriminator, weights, state, batch["x_hr"])
        fake, pull_fake, state = _logits(discriminator, weights, state, x_sr)
        adversarial = loss.generator(real, fake, axis_name=axis_name).mean()
        metrics["adversarial"] = adversarial
        variables = replace_variables(variables, by_generator, own)
        variables = replace_variables(variables, by_discriminator, state)
        shared = {
            "x_sr": x_sr, "real_logits": real, "fake_logits": fake,
            "pull_real": pull_real, "pull_fake": pull_fake,
        }  # fmt: skip
        return value + adversarial_weight * adversarial, Aux(metrics, variables, shared)

    def of_discriminator(
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        real = _replay(params[by_discriminator], batch["real_logits"], batch["pull_real"])
        fake = _replay(params[by_discriminator], batch["fake_logits"], batch["pull_fake"])
        value = loss.discriminator(real, fake, axis_name=axis_name).mean()
        return value, Aux(_logit_metrics(real, fake), variables)

    return {by_generator: of_generator, by_discriminator: of_discriminator}


def _logits(
    discriminator: Network, params: Any, variables: Any, images: Array
) -> tuple[Array, Callable[[Array], tuple[Any]], Any]:
    """Logits, what pulls their cotangent back to the weights, and the new variables."""
    return jax.vjp(lambda own: discriminator(own, variables, images), params, has_aux=True)


@jax.custom_vjp
def _replay(params: Any, logits: Array, pull: Callable[[Array], tuple[Any]]) -> Array:
    """Logits that were computed before with `params`, as a function of them."""
    return logits


def _replay_forward(
    params: Any, logits: Array, pull: Callable[[Array], tuple[Any]]
) -> tuple[Array, Callable[[Array], tuple[Any]]]:
    return logits, pull


def _replay_backward(pull: Callable[[Array], tuple[Any]], g: Array) -> tuple[Any, Array, None]:
    return pull(g)[0], jnp.zeros_like(g), None


_replay.defvjp(_replay_forward, _replay_backward)


def _logit_metrics(real: Array, fake: Array) -> dict[str, Array]:
    """`real_logit`, `fake_logit` and `accuracy` of a batch's logits, see `restoration_gan`."""
    right = jnp.concatenate([(real > fake.mean()).ravel(), (fake < real.mean()).ravel()])
    return {
        "real_logit": real.mean(),
        "fake_logit": fake.mean(),
        "accuracy": right.astype(jnp.float32).mean(),
    }


# --- NoGAN ----------------------------------------------------------------------------------------------


def critic_alone(generator: Still, critic: Critic, *, player: str = "critic") -> Objective:
    """Train a critic to tell a trained generator's results from real images.

    Args:
        generator: `(collections, x_lr) -> x_sr`; its collections are in `variables["frozen"]`.
        critic: a `Critic`.
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
            critic, params[player], own_variables(variables, player), batch, x_sr, key
        )
        return value, Aux(metrics, replace_variables(variables, player, state))

    return objective


def nogan(
    generator: Network,
    still_generator: Still,
    critic: Critic,
    still_critic: Still,
    *,
    threshold: float = 0.65,
    adversarial_weight: float = 1.0,
    pixel_loss: PixelLoss = l1_loss,
    pixel_weight: float = 1.0,
    content: Content | None = None,
    content_weight: float = 1.0,
    players: tuple[str, str] = ("critic", "generator"),
    axis_name: str | None = None,
) -> dict[str, Objective]:
    """The joint phase: the critic moves until its loss is below a threshold, then the generator, once.

    `variables["turn"]` says whose turn it is; it begins as False, the critic's. Make the players with
    `turn=turns()[name]`. Whoever does not move is out of training: no dropout, no batch statistics.

    Args:
        generator: `(params, variables, x_lr) -> (x_sr, variables)` in training.
        still_generator: `(collections, x_lr) -> x_sr`.
        critic: a `Critic`.
        still_critic: `(collections, images) -> logits`.
        threshold: of the critic's loss, half of the standard one: at ln 2 = 0.693 it knows nothing.
        adversarial_weight: of the generator's adversarial loss.
        pixel_loss: per-example loss of images in [0, 1].
        pixel_weight: its weight; at 0 it is not computed.
        content: from `feature_content`; its network is in `variables["features"]`. None leaves it out.
        content_weight: its weight.
        players: names of critic and generator.
        axis_name: of the devices under `pmap`, which agree on whose turn it is by their mean loss.

    Returns:
        The two objectives, in this order, with the metrics of `critic_alone` and of `restoration` and
        `adversarial`.

    Raises:
        ValueError: if the threshold is not above 0.

    Source: fastai 1.0, `AdaptiveGANSwitcher` and `gan_loss_from_func`; DeOldify, NoGAN step 3.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0, got {threshold}.")
    by_critic, by_generator = players
    measure = reconstruction(pixel_loss, pixel_weight, content, content_weight)

    def of_critic(
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del step
        x_sr = still_generator(collections(params, variables, by_generator), batch["x_lr"])
        own = own_variables(variables, by_critic)
        value, state, metrics = _tell_apart(critic, params[by_critic], own, batch, x_sr, key)
        variables = replace_variables(variables, by_critic, state)
        mean = value if axis_name is None else jax.lax.pmean(value, axis_name)
        return value, Aux(metrics, {**variables, TURN: mean < threshold})

    def of_generator(
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        x_sr, own = generator(params[by_generator], own_variables(variables, by_generator), batch["x_lr"])
        value, metrics = measure(x_sr, batch["x_hr"], variables)
        logits = still_critic(collections(params, variables, by_critic), x_sr)
        metrics["adversarial"] = standard_generator_loss(logits).mean()
        variables = {**replace_variables(variables, by_generator, own), TURN: jnp.array(False)}
        return value + adversarial_weight * metrics["adversarial"], Aux(metrics, variables)

    return {by_critic: of_critic, by_generator: of_generator}


def turns(*, players: tuple[str, str] = ("critic", "generator")) -> dict[str, Callable[[Any], Array]]:
    """Whose turn it is, for `training.Player`.

    Args:
        players: names of critic and generator.

    Returns:
        `variables -> bool` by name.
    """
    by_critic, by_generator = players
    return {by_critic: lambda variables: ~variables[TURN], by_generator: lambda variables: variables[TURN]}


def _tell_apart(
    critic: Critic, params: Any, variables: Any, batch: Batch, x_sr: Array, key: Array
) -> tuple[Array, Any, dict[str, Array]]:
    """The critic's loss on real and generated images, its new variables, and metrics."""
    position = batch.get("position", jnp.arange(x_sr.shape[0], dtype=jnp.int32))
    of_real, of_fake = (example_keys(k, position) for k in jax.random.split(key))
    real, state = critic(params, variables, batch["x_hr"], of_real)
    fake, state = critic(params, state, jax.lax.stop_gradient(x_sr), of_fake)
    return standard_discriminator_loss(real, fake).mean() / 2, state, _logit_metrics(real, fake)
