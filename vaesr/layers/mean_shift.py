"""The colour shift at both ends of networks that work on pixels from 0 to 255 around zero."""

import jax
import jax.numpy as jnp

from vaesr.imaging.colour import DIV2K_MEAN


def subtract_mean(image: jax.Array) -> jax.Array:
    """Map an image in [0, 1] to the 0..255 range of the papers and remove DIV2K's mean colour.

    Args:
        image: RGB `[..., 3]` in [0, 1].

    Returns:
        float32 `[..., 3]`, about -115..140.

    Raises:
        ValueError: if there are not three channels.

    Source: Lim et al. 2017 (EDSR), MeanShift.
    """
    mean = _mean_of(image)
    return (image.astype(jnp.float32) - mean) * 255.0


def add_mean(x: jax.Array) -> jax.Array:
    """Undo `subtract_mean`: add DIV2K's mean colour and return to [0, 1], without clipping.

    Args:
        x: RGB `[..., 3]` on the 0..255 scale around zero.

    Returns:
        float32 `[..., 3]`, about [0, 1].

    Raises:
        ValueError: if there are not three channels.

    Source: Lim et al. 2017 (EDSR), MeanShift.
    """
    mean = _mean_of(x)
    return x.astype(jnp.float32) * (1.0 / 255.0) + mean


def _mean_of(image: jax.Array) -> jax.Array:
    """DIV2K's mean colour in as many axes as the image has."""
    if image.ndim < 1 or image.shape[-1] != 3:
        raise ValueError(f"image has shape {image.shape}; expected RGB with 3 channels in the last axis.")
    return jnp.asarray(DIV2K_MEAN, jnp.float32).reshape((1,) * (image.ndim - 1) + (3,))
