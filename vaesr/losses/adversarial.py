"""Losses of the two players of a GAN, from a discriminator's logits (no sigmoid applied).

Logits are `[B, ...]`: one an image, or a map of them, which is averaged. In the relativistic losses each side
is compared with the mean over the other's whole batch; under `jit` that is the global batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vaesr.losses.checks import flat

Array = jax.Array


class AdversarialLoss(NamedTuple):
    """The losses of one kind of GAN.

    Attributes:
        generator: `(real_logits, fake_logits, axis_name=None) -> [B]`.
        discriminator: `(real_logits, fake_logits, axis_name=None) -> [B]`.
        relativistic: whether the generator's loss depends on the real images' logits.
    """

    generator: Callable[..., Array]
    discriminator: Callable[..., Array]
    relativistic: bool


def standard_generator_loss(fake_logits: Array) -> Array:
    """-log D(fake): the loss that does not saturate where the discriminator is sure.

    Args:
        fake_logits: `[B, ...]` of generated images.

    Returns:
        float32 `[B]` in nats, above 0; ln 2 at logits of 0.

    Raises:
        ValueError: if there is no batch axis.

    Source: Goodfellow et al. 2014, section 3; Ledig et al. 2017 (SRGAN), equation 6.
    """
    return _mean(jax.nn.softplus(-_logits(fake_logits, "fake_logits")))


def standard_discriminator_loss(real_logits: Array, fake_logits: Array) -> Array:
    """-log D(real) - log(1 - D(fake)).

    Args:
        real_logits: `[B, ...]` of real images.
        fake_logits: the same shape, of generated images.

    Returns:
        float32 `[B]` in nats, above 0; 2 ln 2 at logits of 0.

    Raises:
        ValueError: if the shapes differ or there is no batch axis.

    Source: Goodfellow et al. 2014, equation 1.
    """
    real, fake = _pair(real_logits, fake_logits)
    return _mean(jax.nn.softplus(-real)) + _mean(jax.nn.softplus(fake))


def least_squares_generator_loss(fake_logits: Array) -> Array:
    """(D(fake) - 1)² / 2.

    Args:
        fake_logits: `[B, ...]` of generated images.

    Returns:
        float32 `[B]`, at least 0.

    Raises:
        ValueError: if there is no batch axis.

    Source: Mao et al. 2017 (LSGAN), equation 9.
    """
    return _mean(jnp.square(_logits(fake_logits, "fake_logits") - 1)) / 2


def least_squares_discriminator_loss(real_logits: Array, fake_logits: Array) -> Array:
    """((D(real) - 1)² + D(fake)²) / 2.

    Args:
        real_logits: `[B, ...]` of real images.
        fake_logits: the same shape, of generated images.

    Returns:
        float32 `[B]`, at least 0.

    Raises:
        ValueError: if the shapes differ or there is no batch axis.

    Source: Mao et al. 2017 (LSGAN), equation 9.
    """
    real, fake = _pair(real_logits, fake_logits)
    return (_mean(jnp.square(real - 1)) + _mean(jnp.square(fake))) / 2


def hinge_generator_loss(fake_logits: Array) -> Array:
    """-D(fake).

    Args:
        fake_logits: `[B, ...]` of generated images.

    Returns:
        float32 `[B]`, any sign.

    Raises:
        ValueError: if there is no batch axis.

    Source: Lim and Ye 2017 (Geometric GAN); Miyato et al. 2018, equation 17.
    """
    return -_mean(_logits(fake_logits, "fake_logits"))


def hinge_discriminator_loss(real_logits: Array, fake_logits: Array) -> Array:
    """max(0, 1 - D(real)) + max(0, 1 + D(fake)).

    Args:
        real_logits: `[B, ...]` of real images.
        fake_logits: the same shape, of generated images.

    Returns:
        float32 `[B]`, at least 0.

    Raises:
        ValueError: if the shapes differ or there is no batch axis.

    Source: Lim and Ye 2017 (Geometric GAN); Miyato et al. 2018, equation 16.
    """
    real, fake = _pair(real_logits, fake_logits)
    return _mean(jax.nn.relu(1 - real)) + _mean(jax.nn.relu(1 + fake))


def relativistic_average_generator_loss(
    real_logits: Array, fake_logits: Array, *, axis_name: str | None = None
) -> Array:
    """(-log(1 - D(real, fakes)) - log D(fake, reals)) / 2 with D(a, b) = sigmoid(C(a) - mean C(b)).

    Half of the paper's sum, as in the authors' code and the discriminator's loss.

    Args:
        real_logits: `[B, ...]`, C of real images.
        fake_logits: the same shape, of generated images.
        axis_name: of the devices under `pmap`, whose batches are one.

    Returns:
        float32 `[B]` in nats, above 0; ln 2 where all logits are equal.

    Raises:
        ValueError: if the shapes differ or there is no batch axis.

    Source: Wang et al. 2018 (ESRGAN), equation 2; Jolicoeur-Martineau 2018, section 4.2.
    """
    return relativistic_average_discriminator_loss(fake_logits, real_logits, axis_name=axis_name)


def relativistic_average_discriminator_loss(
    real_logits: Array, fake_logits: Array, *, axis_name: str | None = None
) -> Array:
    """(-log D(real, fakes) - log(1 - D(fake, reals))) / 2 with D(a, b) = sigmoid(C(a) - mean C(b)).

    Half of the paper's sum, as in the authors' code. The gradient goes through the means, too.

    Args:
        real_logits: `[B, ...]`, C of real images.
        fake_logits: the same shape, of generated images.
        axis_name: of the devices under `pmap`, whose batches are one.

    Returns:
        float32 `[B]` in nats, above 0; ln 2 where all logits are equal.

    Raises:
        ValueError: if the shapes differ or there is no batch axis.

    Source: Wang et al. 2018 (ESRGAN), equation 1; Jolicoeur-Martineau 2018, section 4.2.
    """
    real, fake = _pair(real_logits, fake_logits)
    # A map's places are compared with the mean over the batch and the map, as in the authors' code.
    of_real, of_fake = real.mean(), fake.mean()
    if axis_name is not None:
        of_real, of_fake = jax.lax.pmean((of_real, of_fake), axis_name)
    return (_mean(jax.nn.softplus(of_fake - real)) + _mean(jax.nn.softplus(fake - of_real))) / 2


def _of_images(generator: Callable[..., Array], discriminator: Callable[..., Array]) -> AdversarialLoss:
    """Losses that see each image alone, called like those that see the batch."""
    return AdversarialLoss(
        lambda real, fake, axis_name=None: generator(fake),
        lambda real, fake, axis_name=None: discriminator(real, fake),
        relativistic=False,
    )


ADVERSARIAL: dict[str, AdversarialLoss] = {
    "standard": _of_images(standard_generator_loss, standard_discriminator_loss),
    "least_squares": _of_images(least_squares_generator_loss, least_squares_discriminator_loss),
    "hinge": _of_images(hinge_generator_loss, hinge_discriminator_loss),
    "relativistic_average": AdversarialLoss(
        relativistic_average_generator_loss, relativistic_average_discriminator_loss, True
    ),
}


def _logits(logits: Array, name: str) -> Array:
    if jnp.ndim(logits) < 1:
        raise ValueError(f"{name} must have a leading batch axis, got shape {jnp.shape(logits)}.")
    return flat(jnp.asarray(logits).astype(jnp.float32))


def _pair(real_logits: Array, fake_logits: Array) -> tuple[Array, Array]:
    if jnp.shape(real_logits) != jnp.shape(fake_logits):
        raise ValueError(
            f"real_logits and fake_logits must have the same shape, got {jnp.shape(real_logits)} and "
            f"{jnp.shape(fake_logits)}."
        )
    return _logits(real_logits, "real_logits"), _logits(fake_logits, "fake_logits")


def _mean(values: Array) -> Array:
    return values.mean(axis=1)
