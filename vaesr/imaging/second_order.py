"""Real-ESRGAN's degradation: blur, resizing, noise and JPEG, twice, all of it drawn and done on the device.

What is drawn for an example is a tree of traced numbers, `Degradations`; images of sizes that it decides are
on canvases (`vaesr.imaging.canvas`), so that one program does for all examples and all steps.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vaesr.imaging._checks import as_float_image
from vaesr.imaging.bits import quantise
from vaesr.imaging.canvas import blur_on_canvas, fill_canvas, resize_on_canvas
from vaesr.imaging.jpeg import jpeg
from vaesr.imaging.kernels import gaussian_kernel, sinc_kernel
from vaesr.imaging.noise import gaussian_noise, poisson_noise

Array = jax.Array
_SIDE = 21  # of the kernels; drawn ones are 7 to 21 wide


class Pass(NamedTuple):
    """One of the two rounds, as it is drawn.

    Attributes:
        blur: probability of it.
        sinc: probability that the blur is a sinc filter.
        sigma: of the Gaussian kernels, in pixels: least and most.
        resize: probabilities of up, down and keep.
        range: of the factor: least down, most up; at most 1.5.
        gaussian: probability of Gaussian noise; else it is Poisson's.
        noise: standard deviation in levels of 255: least and most.
        poisson: factor on Poisson's: least and most.
        grey: probability that noise is the same in all colours.
        jpeg: quality: least and most.
    """

    blur: float = 1.0
    sinc: float = 0.1
    sigma: tuple[float, float] = (0.2, 3.0)
    resize: tuple[float, float, float] = (0.2, 0.7, 0.1)
    range: tuple[float, float] = (0.15, 1.5)
    gaussian: float = 0.5
    noise: tuple[float, float] = (1.0, 30.0)
    poisson: tuple[float, float] = (0.05, 3.0)
    grey: float = 0.4
    jpeg: tuple[float, float] = (30.0, 95.0)


class SecondOrder(NamedTuple):
    """How degradations are drawn; the defaults are those of RealESRGAN_x4plus.

    Attributes:
        first: the first round.
        second: the second.
        final_sinc: probability of a sinc filter at the end.
        families: probabilities of isotropic, anisotropic, generalised isotropic, generalised anisotropic,
            plateau isotropic and plateau anisotropic kernels.
        beta: of generalised kernels: least and most, below and above 1 equally often.
        plateau: the same of plateau kernels.
    """

    first: Pass = Pass()
    second: Pass = Pass(
        blur=0.8, sigma=(0.2, 1.5), resize=(0.3, 0.4, 0.3), range=(0.3, 1.2), noise=(1.0, 25.0),
        poisson=(0.05, 2.5),
    )  # fmt: skip
    final_sinc: float = 0.8
    families: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    beta: tuple[float, float] = (0.5, 4.0)
    plateau: tuple[float, float] = (1.0, 2.0)


class Round(NamedTuple):
    """What was drawn for a round; every leaf `[B, ...]`.

    Attributes:
        kernel: `[B, 21, 21]`; an impulse where there is no blur.
        factor: of the resizing.
        mode: place in `vaesr.imaging.RESIZE_MODES`.
        gaussian: whether noise is Gaussian.
        sigma: its standard deviation in [0, 1].
        poisson: factor on Poisson's.
        grey: whether noise is the same in all colours.
        quality: of JPEG.
        key: of the noise.
    """

    kernel: Array
    factor: Array
    mode: Array
    gaussian: Array
    sigma: Array
    poisson: Array
    grey: Array
    quality: Array
    key: Array


class Degradations(NamedTuple):
    """What was drawn for a batch.

    Attributes:
        first: the first round.
        second: the second.
        sinc: `[B, 21, 21]`, the last filter; an impulse where there is none.
        sinc_first: `[B]`, whether it comes before the last JPEG.
        mode: `[B]`, of the last resizing.
    """

    first: Round
    second: Round
    sinc: Array
    sinc_first: Array
    mode: Array


def draw_degradations(keys: Array, *, how: SecondOrder = SecondOrder()) -> Degradations:  # noqa: B008
    """Draws the degradation of each example from its own key.

    Args:
        keys: random keys `[B]`.
        how: what is drawn how often.

    Returns:
        The degradations.

    Source: Wang et al. 2021 (Real-ESRGAN), section 3; BasicSR's `realesrgan_dataset` and `realesrgan_model`.
    """

    def one(key: Array) -> Degradations:
        first, second, last, order, mode = jax.random.split(key, 5)
        there, cutoff, width = jax.random.split(last, 3)
        filtered = jax.random.uniform(there) < how.final_sinc
        sinc = _cut(
            sinc_kernel(_SIDE, jax.random.uniform(cutoff, (), minval=jnp.pi / 3, maxval=jnp.pi)),
            _width(width),
        )
        return Degradations(
            _round(first, how.first, how),
            _round(second, how.second, how),
            jnp.where(filtered, sinc, _impulse()),
            jax.random.uniform(order) < 0.5,
            jax.random.randint(mode, (), 0, 3),
        )

    return jax.vmap(one)(keys)


def degrade_second_order(image: ArrayLike, drawn: Degradations, scale: int) -> Array:
    """Degrades images as was drawn for each.

    Args:
        image: `[B, H, W, 3]` in [0, 1], sides multiples of `scale` and more than 80.
        drawn: of as many examples.
        scale: that they are made smaller by in the end.

    Returns:
        float32 `[B, H / scale, W / scale, 3]` on the 8-bit grid.

    Raises:
        TypeError: if the image is not floating point.
        ValueError: if the shape does not fit.

    Source: Wang et al. 2021 (Real-ESRGAN), section 3; BasicSR's `realesrgan_model.feed_data`.
    """
    x = as_float_image(image, function="degrade_second_order", minimum_rank=4)
    batch, height, width, channels = x.shape
    if channels != 3 or height % scale or width % scale or min(height, width) <= 80:
        raise ValueError(
            f"degrade_second_order: image has shape {x.shape}; expected [B, H, W, 3], sides multiples of "
            f"{scale} and more than 80."
        )
    small = height // scale, width // scale
    whole = jnp.broadcast_to(jnp.array([[height, width]], jnp.int32), (batch, 2))
    target = jnp.broadcast_to(jnp.array([small], jnp.int32), (batch, 2))
    # The largest factors that `SecondOrder` may hold decide the canvases.
    wide = -(-3 * height // 2), -(-3 * width // 2)
    x = blur_on_canvas(x, whole, drawn.first.kernel)
    size = _sizes(whole, drawn.first.factor, wide)
    x = resize_on_canvas(x, whole, size, drawn.first.mode, wide)
    x = _noisy(x, size, drawn.first)
    x = _compressed(x, size, drawn.first.quality)
    x = blur_on_canvas(x, size, drawn.second.kernel)
    other = -(-3 * small[0] // 2), -(-3 * small[1] // 2)
    after = _sizes(target, drawn.second.factor, other)
    x = resize_on_canvas(x, size, after, drawn.second.mode, other)
    x = _noisy(x, after, drawn.second)

    def last(x: Array, size: Array) -> Array:
        y = resize_on_canvas(x, size, target, drawn.mode, small)
        return blur_on_canvas(y, target, drawn.sinc)

    quality = drawn.second.quality
    one_way = _compressed(last(x, after), target, quality)
    other_way = last(_compressed(x, after, quality), after)
    y = jnp.where(drawn.sinc_first.reshape(-1, 1, 1, 1), one_way, other_way)
    return quantise(jnp.clip(y, 0, 1))


def _sizes(size: Array, factor: Array, most: tuple[int, ...]) -> Array:
    found = jnp.floor(size.astype(jnp.float32) * factor[:, None] + 1e-4).astype(jnp.int32)
    return jnp.clip(found, 1, jnp.array([most], jnp.int32))


def _noisy(x: Array, size: Array, drawn: Round) -> Array:
    normal = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), x.shape[1:]))(drawn.key)
    keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(drawn.key)
    one = gaussian_noise(x, normal, drawn.sigma, drawn.grey)
    other = poisson_noise(x, keys, drawn.poisson, drawn.grey, size=size)
    y = jnp.where(drawn.gaussian.reshape(-1, 1, 1, 1), one, other)
    return fill_canvas(jnp.clip(y, 0, 1), size)


def _compressed(x: Array, size: Array, quality: Array) -> Array:
    """JPEG; the canvas's own blocks are the image's, whose corner they share."""
    return fill_canvas(jpeg(jnp.clip(x, 0, 1), quality), size)


def _round(key: Array, how: Pass, whole: SecondOrder) -> Round:
    names = ("kernel", "kind", "factor", "mode", "gaussian", "sigma", "poisson", "grey", "quality", "noise")
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))

    def uniform(name: str, least: float, most: float) -> Array:
        return jax.random.uniform(keys[name], (), minval=least, maxval=most)

    up, shrink = jax.random.split(keys["factor"])
    kind = jax.random.categorical(keys["kind"], jnp.log(jnp.array(how.resize) + 1e-12))
    larger = jax.random.uniform(up, (), minval=1.0, maxval=how.range[1])
    smaller = jax.random.uniform(shrink, (), minval=how.range[0], maxval=1.0)
    return Round(
        _kernel(keys["kernel"], how, whole),
        jnp.where(kind == 0, larger, jnp.where(kind == 1, smaller, 1.0)),
        jax.random.randint(keys["mode"], (), 0, 3),
        uniform("gaussian", 0, 1) < how.gaussian,
        uniform("sigma", *how.noise) / 255,
        uniform("poisson", *how.poisson),
        uniform("grey", 0, 1) < how.grey,
        uniform("quality", *how.jpeg),
        keys["noise"],
    )


def _kernel(key: Array, how: Pass, whole: SecondOrder) -> Array:
    """A kernel of one of the families, or a sinc filter, or none."""
    keys = jax.random.split(key, 9)
    draw: Any = jax.random.uniform
    width = _width(keys[0])
    family = jax.random.categorical(keys[1], jnp.log(jnp.array(whole.families) + 1e-12))
    sx, sy = (draw(k, (), minval=how.sigma[0], maxval=how.sigma[1]) for k in keys[2:4])
    even = family % 2 == 0
    theta = jnp.where(even, 0.0, draw(keys[4], (), minval=-jnp.pi, maxval=jnp.pi))
    least, most = (jnp.where(family < 4, g, p) for g, p in zip(whole.beta, whole.plateau, strict=True))
    below = draw(keys[5]) < 0.5
    share = draw(keys[6])
    beta = jnp.where(below, least + share * (1 - least), 1 + share * (most - 1))
    beta = jnp.where(family < 2, 1.0, beta)
    sy = jnp.where(even, sx, sy)
    plain = gaussian_kernel(_SIDE, sx, sy, theta, beta=beta)
    flat = gaussian_kernel(_SIDE, sx, sy, theta, beta=beta, plateau=True)
    blurred = _cut(jnp.where(family < 4, plain, flat), width)
    # Small sinc filters cut off higher.
    lowest = jnp.where(width < 13, jnp.pi / 3, jnp.pi / 5)
    ringing = _cut(sinc_kernel(_SIDE, lowest + draw(keys[7]) * (jnp.pi - lowest)), width)
    of_blur, of_sinc = jax.random.split(keys[8])
    kernel = jnp.where(draw(of_sinc) < how.sinc, ringing, blurred)
    return jnp.where(draw(of_blur) < how.blur, kernel, _impulse())


def _width(key: Array) -> Array:
    """7, 9, ... or 21."""
    return 2 * jax.random.randint(key, (), 3, 11) + 1


def _cut(kernel: Array, width: Array) -> Array:
    """Its middle alone, of sum 1."""
    away = jnp.abs(jnp.arange(_SIDE) - _SIDE // 2) <= width // 2
    kept = kernel * (away[:, None] & away[None, :])
    return kept / kept.sum()


def _impulse() -> Array:
    return jnp.zeros((_SIDE, _SIDE), jnp.float32).at[_SIDE // 2, _SIDE // 2].set(1.0)
