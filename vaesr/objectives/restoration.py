"""Objectives of networks that restore images: super-resolution, by pixels and by features.

A *network* here is `(params, variables, images) -> (output, new variables)`: its parameters, and its own
collections that gradients don't touch (batch statistics, spectral vectors), `{}` where it has none.
`in_training` makes one of a Linen module.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vaesr.losses.features import content_loss, style_loss
from vaesr.losses.pixel import l1_loss, mse_loss
from vaesr.objectives.objective import (
    Aux,
    Batch,
    Objective,
    Params,
    collections,
    own_variables,
    replace_variables,
)

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
    distance: PixelLoss = l1_loss,
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
    pixel_loss: PixelLoss = l1_loss,
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

    measure = reconstruction(pixel_loss, pixel_weight, content, content_weight)

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        x_sr, own = network(params[player], own_variables(variables, player), batch["x_lr"])
        loss, metrics = measure(x_sr, batch["x_hr"], variables)
        return loss, Aux(metrics, replace_variables(variables, player, own))

    return objective


def pixel(apply: Callable[..., Array], *, player: str = "edsr", loss: PixelLoss = l1_loss) -> Objective:
    """`restoration` by pixels alone, on the 0..255 scale of the EDSR paper, with fixed variables.

    Args:
        apply: `(variables, x_lr) -> x_sr`, a Linen module's `apply`. For one fixed scale of MDSR:
            `functools.partial(mdsr.apply, scale=3)`.
        player: the name of the upscaler's tree in `params`.
        loss: per-example loss of two image batches in [0, 1], homogeneous of degree 1 (`l1_loss`); its mean
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
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        x_sr = apply(collections(params, variables, player), batch["x_lr"])
        value, metrics = _of_255(x_sr, batch["x_hr"], loss)
        return value, Aux(metrics, variables)

    return objective


def multi_scale_pixel(
    apply: Callable[..., Array],
    *,
    scales: tuple[int, ...] = (2, 3, 4),
    player: str = "mdsr",
    loss: PixelLoss = l1_loss,
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
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del step
        missing = [n for s in scales for n in (f"x_lr_{s}", f"x_hr_{s}") if n not in batch]
        if missing:
            raise ValueError(f"the batch lacks {missing}; it holds {sorted(batch)}.")
        tree = collections(params, variables, player)

        def branch(scale: int) -> Callable[[Any, Batch], tuple[Array, dict[str, Array]]]:
            def run(tree: Any, pair: Batch) -> tuple[Array, dict[str, Array]]:
                x_sr = apply(tree, pair[f"x_lr_{scale}"], scale=scale)
                return _of_255(x_sr, pair[f"x_hr_{scale}"], loss)

            return run

        drawn = jax.random.randint(key, (), 0, len(scales))
        value, metrics = jax.lax.switch(drawn, [branch(s) for s in scales], tree, batch)
        metrics["scale"] = jnp.asarray(scales, jnp.float32)[drawn]
        return value, Aux(metrics, variables)

    return objective


def reconstruction(
    pixel_loss: PixelLoss, pixel_weight: float, content: Content | None, content_weight: float
) -> Callable[[Array, Array, Any], tuple[Array, dict[str, Array]]]:
    """The weighted sum of a pixel and a content loss.

    The pixel loss is per example, of images in [0, 1], and not computed at weight 0; `content` is from
    `feature_content`, or None. The function takes x_sr, x_hr `[B, H, W, 3]` and the variables, with the
    content's "features", and gives the loss, and both parts unweighted and `psnr_db` (RGB, whole patch,
    unclipped, mean over images).
    """

    def measure(x_sr: Array, x_hr: Array, variables: Any) -> tuple[Array, dict[str, Array]]:
        value, metrics = jnp.zeros((), jnp.float32), {}
        if pixel_weight:
            metrics["pixel"] = pixel_loss(x_sr, x_hr).mean()
            value = value + pixel_weight * metrics["pixel"]
        if content is not None:
            metrics["content"] = content(variables[FEATURES], x_sr, x_hr).mean()
            value = value + content_weight * metrics["content"]
        # The floor keeps equal images at 100 dB in place of infinity.
        error = jnp.maximum(mse_loss(jax.lax.stop_gradient(x_sr), x_hr), 1e-10)
        return value, metrics | {"psnr_db": (-10 * jnp.log10(error)).mean()}

    return measure


def _of_255(x_sr: Array, x_hr: Array, loss: PixelLoss) -> tuple[Array, dict[str, Array]]:
    """The loss of images of 0..255, and the metrics of `pixel`."""
    value, metrics = reconstruction(loss, 255.0, None, 0.0)(x_sr, x_hr, {})
    absolute = 255.0 * l1_loss(jax.lax.stop_gradient(x_sr), x_hr).mean()
    return value, {"l1_255": absolute, "psnr_db": metrics["psnr_db"]}
