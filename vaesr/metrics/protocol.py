"""How images are compared. RGB and Y figures differ by about 2 dB: keep the protocol with the number."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vaesr.imaging import quantise, rgb_to_grey, rgb_to_y

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is compared, and on which scale. Hashable, so it can be a static argument of `jit`.

    The steps, in order: divide by `data_range`; clip and round half up to 8 bits if `quantise`; take BT.601
    studio luma if `channels` is "y", or grey (rounded to 8 bits again if `quantise`) if it is "grey"; cut
    `shave` pixels from every side.

    Attributes:
        channels: "rgb" compares all channels (any number of them) together; "y" compares the studio luma of
            RGB images against the full peak, as SR papers do (luma spans 219 levels of 255, which reads 1.3
            dB higher than full-range luma would). One-channel images pass through "y" unchanged: they are
            taken to be luma already. "grey" compares MATLAB's `rgb2gray`, luma over the full range, as the
            authors' codes of SSIM, MS-SSIM, IW-SSIM and GMSD do.
        shave: pixels cut from every side, at least 0.
        quantise: whether both images are first rounded to 8 bits, as if they had been saved. Its gradient is
            zero.
        data_range: the value of white: 1 for images in [0, 1], 255 for floats in [0, 255].
    """

    channels: Literal["rgb", "y", "grey"] = "rgb"
    shave: int = 0
    quantise: bool = False
    data_range: float = 1.0

    def __post_init__(self) -> None:
        if self.channels not in ("rgb", "y", "grey"):
            raise ValueError(f'Protocol: channels must be "rgb", "y" or "grey", but was {self.channels!r}.')
        if isinstance(self.shave, bool) or not isinstance(self.shave, int) or self.shave < 0:
            raise ValueError(f"Protocol: shave must be an integer of at least 0, but was {self.shave!r}.")
        if not isinstance(self.quantise, bool):
            raise ValueError(f"Protocol: quantise must be True or False, but was {self.quantise!r}.")
        if isinstance(self.data_range, bool) or not isinstance(self.data_range, int | float):
            raise ValueError(f"Protocol: data_range must be a number, but was {self.data_range!r}.")
        if not (math.isfinite(self.data_range) and self.data_range > 0):
            raise ValueError(
                f"Protocol: data_range must be positive and finite, but was {self.data_range!r}."
            )


RGB = Protocol()
"""All channels and pixels, unquantised, with white at 1."""

GREY = Protocol(channels="grey")
"""Grey, unquantised and so differentiable, with white at 1."""

MATLAB_GREY = Protocol(channels="grey", quantise=True)
"""8-bit grey of 8-bit images: what the metrics' authors measured. Up to 0.0005 away from `GREY`."""


def SR_BENCHMARK(scale: int) -> Protocol:
    """Returns the protocol of Set5, Set14, B100, Urban100 and Manga109: 8 bit, studio Y, `scale` shaved.

    Args:
        scale: the upscaling factor.

    Returns:
        The protocol.

    Source: Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution" (EDSR), 2017.
    """
    return Protocol(channels="y", shave=scale, quantise=True)


def DIV2K_VALIDATION(scale: int) -> Protocol:
    """Returns the protocol of EDSR's DIV2K figures: 8 bit, RGB, `scale + 6` pixels shaved.

    Args:
        scale: the upscaling factor.

    Returns:
        The protocol.

    Source: EDSR's code, 2017 (its text says `scale + 2`; the code and so the figures use `scale + 6`).
    """
    return Protocol(channels="rgb", shave=scale + 6, quantise=True)


def prepare(
    reference: ArrayLike, distorted: ArrayLike, protocol: Protocol, *, function: str, minimum: int = 1
) -> tuple[Array, Array]:
    """Checks two batches `[B, H, W, C]` and brings both to what the protocol compares, with white at 1.

    They become float32 `[B, H - 2 * shave, W - 2 * shave, C or 1]`, of at least `minimum` pixels a side.
    Errors begin with the name `function`: a TypeError if either is not floating point or the protocol is no
    `Protocol`, a ValueError if the shapes differ, are not `[B, H, W, C]`, or are too small.
    """
    if not isinstance(protocol, Protocol):
        raise TypeError(f"{function}: protocol must be a vaesr.metrics.Protocol, but was {protocol!r}.")
    shape = jnp.shape(reference)
    if shape != jnp.shape(distorted):
        raise ValueError(
            f"{function}: reference and distorted must have the same shape, "
            f"but have {shape} and {jnp.shape(distorted)}."
        )
    if len(shape) != 4:
        raise ValueError(f"{function} takes images [B, H, W, C], but was given {shape}.")
    if min(shape[1:3]) - 2 * protocol.shave < minimum or shape[3] < 1:
        raise ValueError(
            f"{function}: images of {shape} are too small: {minimum} pixels per side must remain "
            f"after shaving {protocol.shave} from every side."
        )
    if protocol.channels != "rgb" and shape[3] not in (1, 3):
        raise ValueError(
            f'{function}: protocol "{protocol.channels}" takes 3 channels (RGB) or 1 (luma), '
            f"but was given {shape}."
        )
    return _view(reference, "reference", protocol, function), _view(
        distorted, "distorted", protocol, function
    )


def prepare_maps(
    reference: ArrayLike, distorted: ArrayLike, protocol: Protocol, *, function: str, minimum: int = 1
) -> tuple[Array, Array]:
    """As `prepare`, with the channels before the pixels: `[B, C, H, W]`, as `filters` takes them."""
    x, y = prepare(reference, distorted, protocol, function=function, minimum=minimum)
    return jnp.moveaxis(x, -1, 1), jnp.moveaxis(y, -1, 1)


def prepare_colours(
    reference: ArrayLike, distorted: ArrayLike, protocol: Protocol, *, function: str, minimum: int = 1
) -> tuple[Array, Array]:
    """As `prepare_maps` for metrics that see colour: grey images become three equal channels, `[B, 3, H, W]`.

    A ValueError also if the images have neither 1 nor 3 channels.
    """
    x, y = prepare_maps(reference, distorted, protocol, function=function, minimum=minimum)
    if x.shape[1] not in (1, 3):
        raise ValueError(
            f"{function} takes 3 channels (RGB) or 1 (grey), but was given {jnp.shape(reference)}."
        )
    colours = (x.shape[0], 3, *x.shape[2:])
    return jnp.broadcast_to(x, colours), jnp.broadcast_to(y, colours)


def _view(image: ArrayLike, argument: str, protocol: Protocol, function: str) -> Array:
    dtype = jnp.result_type(image)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{function}: {argument} must be floating point, but has dtype {dtype}; "
            f"convert it with vaesr.imaging.to_float first."
        )
    x = jnp.asarray(image, jnp.float32) / protocol.data_range
    if protocol.quantise:
        x = quantise(x)
    if protocol.channels == "y" and x.shape[-1] == 3:
        x = rgb_to_y(x)
    if protocol.channels == "grey" and x.shape[-1] == 3:
        x = rgb_to_grey(x)
        x = quantise(x) if protocol.quantise else x
    shave = protocol.shave
    return x[:, shave : x.shape[1] - shave, shave : x.shape[2] - shave]
