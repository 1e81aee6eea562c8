"""The colour shift at both ends of EDSR, MDSR and RCAN."""

import jax
import jax.numpy as jnp
import numpy as np

# DIV2K's mean colour in [0, 1].
DIV2K_MEAN = np.array([0.4488, 0.4371, 0.4040], np.float32)


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
    _check_rgb(image)
    mean = jnp.asarray(DIV2K_MEAN).reshape((1,) * (image.ndim - 1) + (3,))
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
    _check_rgb(x)
    mean = jnp.asarray(DIV2K_MEAN).reshape((1,) * (x.ndim - 1) + (3,))
    return x.astype(jnp.float32) * (1.0 / 255.0) + mean


def _check_rgb(image: jax.Array) -> None:
    if image.ndim < 1 or image.shape[-1] != 3:
        raise ValueError(f"image has shape {image.shape}; expected RGB with 3 channels in the last axis.")
