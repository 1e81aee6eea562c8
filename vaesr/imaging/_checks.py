"""Checks at the door shared by the image functions."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Array = jax.Array


def as_float_image(image: ArrayLike, *, function: str, minimum_rank: int = 3) -> Array:
    """Returns `image` as float32, or raises a sentence about its kind or rank."""
    dtype = jnp.result_type(image)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{function} takes a floating-point image, usually in [0, 1], but was given dtype {dtype}; "
            f"convert it with vaesr.imaging.to_float first."
        )
    check_rank(image, function=function, minimum_rank=minimum_rank)
    return jnp.asarray(image, jnp.float32)


def check_rank(image: Any, *, function: str, minimum_rank: int = 3) -> None:
    """Raises unless `image` ends in the axes height, width and channels."""
    if jnp.ndim(image) < minimum_rank:
        layout = "[..., H, W, C]" if minimum_rank == 3 else "[..., C]"
        raise ValueError(f"{function} takes an image of shape {layout}, but was given {jnp.shape(image)}.")


def check_positive_int(value: Any, *, function: str, argument: str) -> int:
    """Returns `value` as an int, or raises unless it is a whole number of at least one."""
    try:
        number = int(value)
        whole = number == value
    except (TypeError, ValueError):
        number, whole = 0, False
    if not whole or number < 1 or isinstance(value, bool):
        raise ValueError(f"{function}: {argument} must be an integer of at least 1, but was {value!r}.")
    return number
