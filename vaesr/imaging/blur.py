"""Blurring by a kernel of one's own, one for all images or one for each, and keeping every so-manieth pixel.

A kernel is *correlated*: output pixel i is the sum over u of kernel[u] x[stride * i + u], where u = 0 is the
window's first pixel. Who has a kernel for true convolution turns it by 180 degrees first.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from vaesr.forms import with_own_gradients
from vaesr.imaging._checks import as_float_image, check_positive_int

Array = jax.Array
Border = Literal["symmetric", "reflect", "edge", "wrap", "constant"]
BlurForm = Literal["auto", "bands", "grouped", "fft"]
_BORDERS = ("symmetric", "reflect", "edge", "wrap", "constant")
_FORMS = ("auto", "bands", "grouped", "fft")
# Columns of the output that one band of the matrix form makes.
_BAND = 32


def correlate(image: ArrayLike, kernel: ArrayLike, *, stride: int = 1, form: BlurForm = "auto") -> Array:
    """Correlates images with kernels where a kernel lies wholly in its image, at every `stride`-th place.

    All forms give the same numbers and gradients to 1e-5. `bands`: products with banded matrices made of the
    kernels, what CPUs are fastest at; `grouped`: XLA's convolution, for accelerators; `fft`: by Fourier
    transforms, for large kernels where neither does; `auto`: the first on CPUs, the second elsewhere.

    Args:
        image: `[..., H, W, C]` floating point.
        kernel: `[K, L]`; or `[..., K, L]`, one for each image, with the same leading axes.
        stride: distance of the places, in both directions.
        form: one of the words above.

    Returns:
        `[..., (H - K) // stride + 1, (W - L) // stride + 1, C]` float32.

    Raises:
        TypeError: if the image is not floating point.
        ValueError: if the shapes don't fit, an image is smaller than its kernel or the form is unknown.
    """
    x, k = _operands(image, kernel, "correlate")
    stride = check_positive_int(stride, function="correlate", argument="stride")
    if form not in _FORMS:
        raise ValueError(f"correlate: form must be one of {', '.join(_FORMS)}, but was {form!r}.")
    height, width = k.shape[-2:]
    if x.shape[-3] < height or x.shape[-2] < width:
        raise ValueError(f"correlate: image of shape {x.shape} is smaller than the kernel {k.shape}.")
    leading = x.shape[:-3]
    if k.ndim == 2:
        y = _correlate_all(x.reshape(-1, *x.shape[-3:]), k, stride, form)
    else:
        one = functools.partial(_correlate_all, stride=stride, form=form)
        y = jax.vmap(one)(x.reshape(-1, 1, *x.shape[-3:]), k.reshape(-1, height, width))
    return y.reshape(*leading, *y.shape[-3:])


def blur(
    image: ArrayLike, kernel: ArrayLike, *, border: Border = "symmetric", form: BlurForm = "auto"
) -> Array:
    """Correlates images with kernels; the size stays, the kernel's entry [K // 2, L // 2] is its centre.

    Args:
        image: `[..., H, W, C]` floating point.
        kernel: `[K, L]`, or one for each image.
        border: what is seen beyond the edge. "symmetric": ... 1 0 | 0 1 ... (SciPy calls it "reflect"; the
            manner of DIV2KRK); "reflect": ... 2 1 | 0 1 2 ... (OpenCV, Real-ESRGAN); "edge"; "wrap" (USRNet);
            "constant": zeros.
        form: see `correlate`.

    Returns:
        float32 of the image's shape.

    Raises:
        TypeError: if the image is not floating point.
        ValueError: if the shapes don't fit or a word is unknown.
    """
    x, k = _operands(image, kernel, "blur")
    if border not in _BORDERS:
        raise ValueError(f"blur: border must be one of {', '.join(_BORDERS)}, but was {border!r}.")
    return correlate(_padded(x, k.shape[-2:], border), k, form=form)


def downsample(
    image: ArrayLike,
    kernel: ArrayLike,
    scale: int,
    *,
    border: Border = "symmetric",
    form: BlurForm = "auto",
) -> Array:
    """Blurs as `blur` does and keeps pixels 0, scale, 2 scale, ... of each axis.

    That is the manner of DIV2KRK, KernelGAN and ZSSR. Low-resolution pixel i is centred on pixel scale * i
    + c - K // 2 of the image, c being the kernel's centre of mass: at (scale - 1) / 2 of its block where
    `kernel_shift` has put that centre.

    Args:
        image: `[..., H, W, C]` floating point.
        kernel: `[K, L]`, or one for each image.
        scale: of one pixel to those that are kept, an integer.
        border: see `blur`.
        form: see `correlate`.

    Returns:
        `[..., ceil(H / scale), ceil(W / scale), C]` float32.

    Raises:
        TypeError: if the image is not floating point.
        ValueError: if the shapes don't fit, the scale is no positive integer or a word is unknown.
    """
    x, k = _operands(image, kernel, "downsample")
    scale = check_positive_int(scale, function="downsample", argument="scale")
    if border not in _BORDERS:
        raise ValueError(f"downsample: border must be one of {', '.join(_BORDERS)}, but was {border!r}.")
    return correlate(_padded(x, k.shape[-2:], border), k, stride=scale, form=form)


def _operands(image: ArrayLike, kernel: ArrayLike, function: str) -> tuple[Array, Array]:
    x, k = as_float_image(image, function=function), jnp.asarray(kernel, jnp.float32)
    if k.ndim < 2 or (k.ndim > 2 and k.shape[:-2] != x.shape[:-3]):
        raise ValueError(
            f"{function}: kernel has shape {k.shape}; expected [K, L], or {[*x.shape[:-3], 'K', 'L']} for an "
            f"image of shape {x.shape}."
        )
    return x, k


def _padded(x: Array, sides: tuple[int, ...], border: str) -> Array:
    around = [(0, 0)] * (x.ndim - 3) + [(n // 2, n - 1 - n // 2) for n in sides] + [(0, 0)]
    return jnp.pad(x, around, mode=border)


# Compiled as a function of its own, so that equal shapes are traced once.
@functools.partial(jax.jit, static_argnames=("stride", "form"))
def _correlate_all(x: Array, kernel: Array, stride: int, form: str) -> Array:
    """One kernel `[K, L]` for all of `[N, H, W, C]`."""
    if form == "auto":
        return with_own_gradients(_bands, _grouped, (stride,), x, kernel)
    return {"bands": _bands, "grouped": _grouped, "fft": _fft}[form](x, kernel, stride)


def _grouped(x: Array, kernel: Array, stride: int) -> Array:
    planes = jnp.moveaxis(x, -1, 1)
    flat = planes.reshape(-1, *planes.shape[2:], 1)
    y = lax.conv_general_dilated(
        flat, kernel[:, :, None, None], (stride, stride), "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST,
    )  # fmt: skip
    return jnp.moveaxis(y.reshape(*planes.shape[:2], *y.shape[1:3]), 1, -1)


def _bands(x: Array, kernel: Array, stride: int) -> Array:
    """Rows of the kernel as banded matrices: their product with as many rows of the image is a row.

    A band makes `_BAND` columns, so that the work is a constant, not the width, times the kernel's.
    """
    (count, height, width, channels), (rows, columns) = x.shape, kernel.shape
    out_height, out_width = (height - rows) // stride + 1, (width - columns) // stride + 1
    bands = -(-out_width // _BAND)
    each = -(-out_width // bands)  # columns of one band
    seen = (each - 1) * stride + columns
    # `places[v, w, j]` is 1 where column v of the kernel, for output j, meets column w of what the band sees.
    places = np.zeros((columns, seen, each), np.float32)
    v, j = np.meshgrid(np.arange(columns), np.arange(each), indexing="ij")
    places[v, stride * j + v, j] = 1
    matrix = jnp.dot(kernel, places.reshape(columns, -1), precision=lax.Precision.HIGHEST)
    planes = jnp.moveaxis(x, -1, 1)
    wanted = (bands - 1) * each * stride + seen
    planes = jnp.pad(planes, ((0, 0), (0, 0), (0, 0), (0, max(0, wanted - width))))
    last = stride * (out_height - 1) + 1
    shifted = jnp.stack([planes[:, :, u : u + last : stride] for u in range(rows)], axis=3)
    parts = [shifted[..., each * stride * b : each * stride * b + seen] for b in range(bands)]
    windows = jnp.stack(parts, axis=3).reshape(-1, rows * seen)
    y = jnp.dot(windows, matrix.reshape(rows * seen, each), precision=lax.Precision.HIGHEST)
    y = y.reshape(count, channels, out_height, bands * each)[..., :out_width]
    return jnp.moveaxis(y, 1, -1)


def _fft(x: Array, kernel: Array, stride: int) -> Array:
    (_, height, width, _), (rows, columns) = x.shape, kernel.shape
    of_image = jnp.fft.rfft2(jnp.moveaxis(x, -1, 1))
    # Correlation is the product with the conjugate; nothing wraps where the kernel lies in the image.
    of_kernel = jnp.conj(jnp.fft.rfft2(kernel, (height, width)))
    y = jnp.fft.irfft2(of_image * of_kernel.reshape(1, 1, *of_kernel.shape), (height, width))
    y = y[..., : height - rows + 1 : stride, : width - columns + 1 : stride]
    return jnp.moveaxis(y, 1, -1)
