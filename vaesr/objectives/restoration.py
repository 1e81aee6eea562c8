"""Objectives of networks that restore images: pixels, features, and a discriminator's opinion.

A *network* here is `(params, variables, images) -> (output, new variables)`: its parameters, and its own
collections that gradients don't touch (batch statistics, spectral vectors), `{}` where it has none.
`in_training` makes one of a Linen module.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vaesr.losses.adversarial import ADVERSARIAL, AdversarialLoss
from vaesr.losses.features import content_loss, style_loss
from vaesr.losses.pixel import l1, mse
from vaesr.objectives.objective import Aux, Batch, Objective, Params

Array = jax.Array
Network = Callable[[Any, Any, Array], tuple[Array, Any]]
PixelLoss = Callable[[Array, Array], Array]
Content = Callable[[Any, Array, Array], Array]
FEATURES = "features"
"""The name in `variables` of what the content loss's network has learned."""


def in_training(apply: Callable[..., Any]) -> Network:
    """A Linen module as these objectives take it: in training mode, its own collections updated.

    Args:
        apply: the module's `apply`; if it has variables beside its parameters, it takes `train`; if it
            draws random numbers, `keys`.

    Returns:
        `(params, variables, images [B, H, W, C]) -> (output, new variables)`, with `keys` as a fourth
        argument where the module takes them.
    """

    def network(params: Any, variables: Any, images: Array, *keys: Array) -> tuple[Array, Any]:
        named: dict[str, Any] = {"keys": keys[0]} if keys else {}
        if variables or keys:
            named["train"] = True
        if not variables:
            return apply({"params": params}, images, **named), variables
        output, new = apply({"params": params, **variables}, images, mutable=list(variables), **named)
        return output, new

    return network


def feature_content(
    apply: Callable[..., Any],
    *,
    weights: Sequence[float] = (1.0,),
    distance: PixelLoss = l1,
    style_weights: Sequence[float] | None = None,
) -> Content:
    """A content loss between the features of two images.

    Args:
        apply: `(variables, images [B, H, W, 3] in [0, 1]) -> features`, one array a layer: a feature
            network's `apply`. Its compute type is its own; bfloat16 does.
        weights: one a layer.
        distance: between features, and between Gram matrices.
        style_weights: of the distances between Gram matrices, one a layer; None leaves them out.

    Returns:
        `content(variables, x_sr, x_hr) -> [B]`. The targets have no gradient, nor do the network's weights
        as long as they are in `variables`.

    Source: Johnson et al. 2016; SRGAN equation 5; fastai's `FeatureLoss`.
    """

    def content(variables: Any, x_sr: Array, x_hr: Array) -> Array:
        targets = jax.lax.stop_gradient(apply(variables, x_hr))
        features = apply(variables, x_sr)
        value = content_loss(features, targets, weights=weights, distance=distance)
        if style_weights is not None:
            value = value + style_loss(features, targets, weights=style_weights, distance=distance)
        return value

    return content


def restoration(
    network: Network,
    *,
    player: str = "generator",
    pixel_loss: PixelLoss = l1,
    pixel_weight: float = 1.0,
    content: Content | None = None,
    content_weight: float = 1.0,
) -> Objective:
    """Train a network to restore images by pixels and features.

    Args:
        network: see above.
        player: its name in `params`, and that of its collections in `variables`.
        pixel_loss: per-example loss of images in [0, 1].
        pixel_weight: its weight; at 0 it is not computed.
        content: from `feature_content`; its network is in `variables["features"]`. None leaves it out.
        content_weight: its weight.

    Returns:
        An objective for batches with `x_lr` `[B, h, w, 3]` and `x_hr` `[B, h * s, w * s, 3]` in [0, 1]. Its
        metrics are the parts of the loss, unweighted (`pixel`, `content`), and `psnr_db`.

    Raises:
        ValueError: if no part is left; when called, if shapes don't fit.

    Source: Ledig et al. 2017 (SRGAN), section 2.2.1.
    """
    if not pixel_weight and content is None:
        raise ValueError("nothing is left of the loss: give a pixel_weight or a content.")

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        x_sr, own = network(params[player], variables.get(player, {}), batch["x_lr"])
        loss, metrics = reconstruction(
            x_sr, batch["x_hr"], variables, pixel_loss, pixel_weight, content, content_weight
        )
        return loss, Aux(metrics, replace(variables, player, own))

    return objective


def restoration_gan(
    generator: Network,
    discriminator: Network,
    *,
    loss: AdversarialLoss = ADVERSARIAL["relativistic_average"],
    adversarial_weight: float = 5e-3,
    pixel_loss: PixelLoss = l1,
    pixel_weight: float = 1e-2,
    content: Content | None = None,
    content_weight: float = 1.0,
    players: tuple[str, str] = ("generator", "discriminator"),
    axis_name: str | None = None,
) -> dict[str, Objective]:
    """Train a generator against a discriminator of its results.

    Within a step the generator moves first and the discriminator next, both by what the weights of before
    the step make of one batch: the generator runs once, and the discriminator once on the real and once on
    the generated images, real first. The generator's loss pulls the discriminator's opinion back to the
    image, the discriminator's pulls the same opinion back to its weights.

    Args:
        generator: see above.
        discriminator: see above; its outputs are logits.
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
    name, judge = players

    def of_generator(
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        x_sr, own = generator(params[name], variables.get(name, {}), batch["x_lr"])
        value, metrics = reconstruction(
            x_sr, batch["x_hr"], variables, pixel_loss, pixel_weight, content, content_weight
        )
        real, pull_real, state = _judge(discriminator, params[judge], variables.get(judge, {}), batch["x_hr"])
        fake, pull_fake, state = _judge(discriminator, params[judge], state, x_sr)
        adversarial = loss.generator(real, fake, axis_name=axis_name).mean()
        metrics["adversarial"] = adversarial
        variables = replace(replace(variables, name, own), judge, state)
        shared = {
            "x_sr": x_sr, "real_logits": real, "fake_logits": fake,
            "pull_real": pull_real, "pull_fake": pull_fake,
        }  # fmt: skip
        return value + adversarial_weight * adversarial, Aux(metrics, variables, shared)

    def of_discriminator(
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        real = _replay(params[judge], batch["real_logits"], batch["pull_real"])
        fake = _replay(params[judge], batch["fake_logits"], batch["pull_fake"])
        value = loss.discriminator(real, fake, axis_name=axis_name).mean()
        return value, Aux(opinion(real, fake), variables)

    return {name: of_generator, judge: of_discriminator}


def _judge(
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


def opinion(real: Array, fake: Array) -> dict[str, Array]:
    """What a discriminator thinks of a batch.

    Args:
        real: logits of real images.
        fake: logits of generated images.

    Returns:
        `real_logit`, `fake_logit` and `accuracy`, see `restoration_gan`.
    """
    right = jnp.concatenate([(real > fake.mean()).ravel(), (fake < real.mean()).ravel()])
    return {
        "real_logit": real.mean(),
        "fake_logit": fake.mean(),
        "accuracy": right.astype(jnp.float32).mean(),
    }


def reconstruction(
    x_sr: Array,
    x_hr: Array,
    variables: Any,
    pixel_loss: PixelLoss,
    pixel_weight: float,
    content: Content | None,
    content_weight: float,
) -> tuple[Array, dict[str, Array]]:
    """The weighted sum of the pixel and the content loss, and both unweighted.

    Args:
        x_sr: `[B, H, W, 3]`.
        x_hr: the same shape.
        variables: with the content's "features".
        pixel_loss: per-example loss.
        pixel_weight: its weight.
        content: or None.
        content_weight: its weight.

    Returns:
        The loss, and `pixel`, `content` and `psnr_db`.
    """
    value, metrics = jnp.zeros((), jnp.float32), {}
    if pixel_weight:
        metrics["pixel"] = pixel_loss(x_sr, x_hr).mean()
        value = value + pixel_weight * metrics["pixel"]
    if content is not None:
        metrics["content"] = content(variables[FEATURES], x_sr, x_hr).mean()
        value = value + content_weight * metrics["content"]
    # The floor keeps equal images at 100 dB in place of infinity.
    error = jnp.maximum(mse(jax.lax.stop_gradient(x_sr), x_hr), 1e-10)
    return value, metrics | {"psnr_db": (-10 * jnp.log10(error)).mean()}


def replace(variables: Any, name: str, own: Any) -> Any:
    """The variables with a player's own; left as they are where it has none.

    Args:
        variables: of all players.
        name: the player's.
        own: its new ones.

    Returns:
        A new dictionary.
    """
    return {**variables, name: own} if name in variables else variables
