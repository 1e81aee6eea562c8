"""Sampling maps of codes, one code after the other, in one compiled program that computes no site twice."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vaesr.layers.causal import CACHE, Pixel, Row


def sample_codes(
    model: Any,
    params: Any,
    keys: jax.Array,
    *,
    label: jax.Array | None = None,
    condition: tuple[jax.Array, ...] = (),
    temperature: float = 1.0,
    top_k: int = 0,
    cached: bool = True,
) -> jax.Array:
    """Draw maps of codes from an autoregressive model.

    A scan over rows, in it one over columns; each step computes one pixel, from what the layers remember of
    the pixels before. Both ways draw the code of a site from the same noise, so that they give the same maps
    up to rounding.

    Args:
        model: such as `PixelCNN` or `PixelSNAIL`: with `shape`, `conditioning`, `begin_row`, `next_pixel` and
            `__call__`.
        params: its parameters.
        keys: random keys `[B]`, one per map: a map depends on its own key (and its class and the maps above).
        label: `[B]`, if there are classes.
        condition: int32 `[B, h, w]` per coarser map.
        temperature: the logits are divided by it; above 0.
        top_k: draw from the k likeliest codes only; 0 from all.
        cached: False computes the whole map anew for every site: slow, for comparison.

    Returns:
        int32 `[B, H, W]`.

    Raises:
        ValueError: if a knob is out of range, or label and condition don't fit the model.
    """
    if not temperature > 0 or top_k < 0:
        raise ValueError(f"temperature must be above 0 and top_k at least 0, got {temperature} and {top_k}.")
    top_k = 0 if top_k >= model.codes else top_k
    condition = tuple(jnp.asarray(codes, jnp.int32) for codes in condition)
    draw = _cached if cached else _naive
    return draw(model, top_k, params, keys, label, condition, jnp.float32(temperature))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _cached(
    model: Any, top_k: int, params: Any, keys: jax.Array, label: Any, condition: Any, temperature: jax.Array
) -> jax.Array:
    height, width = model.shape
    batch = keys.shape[0]
    given = model.apply({"params": params}, label, condition, method="conditioning")

    def call(cache: Any, codes: jax.Array, site: Row | Pixel, method: str) -> tuple[Any, Any]:
        variables = {"params": params, **({CACHE: cache} if cache is not None else {})}
        out, new = model.apply(variables, codes, given, site, method=method, mutable=[CACHE])
        return out, new[CACHE]

    def next_row(carry: tuple[Any, jax.Array], row: jax.Array) -> tuple[tuple[Any, jax.Array], jax.Array]:
        cache, above = carry
        _, cache = call(cache, above, Row(row), "begin_row")

        def next_pixel(carry: tuple[Any, jax.Array], column: jax.Array) -> tuple[Any, jax.Array]:
            cache, before = carry
            logits, cache = call(cache, before, Pixel(row, column), "next_pixel")
            code = _draw(logits, keys, row * width + column, temperature, top_k)
            return (cache, code), code

        (cache, _), codes = lax.scan(next_pixel, (cache, above[:, -1]), jnp.arange(width))
        return (cache, codes.T), codes.T

    nothing = jnp.zeros((batch, width), jnp.int32)
    zero = jnp.int32(0)

    def empty_cache() -> Any:
        """What both methods remember, by shape."""
        _, first = call(None, nothing, Row(zero), "begin_row")
        return call(first, nothing[:, 0], Pixel(zero, zero), "next_pixel")[1]

    cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(empty_cache))
    _, rows = lax.scan(next_row, (cache, nothing), jnp.arange(height))
    return rows.swapaxes(0, 1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _naive(
    model: Any, top_k: int, params: Any, keys: jax.Array, label: Any, condition: Any, temperature: jax.Array
) -> jax.Array:
    height, width = model.shape

    def step(codes: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
        logits = model.apply({"params": params}, codes, label=label, condition=condition)
        logits = logits.reshape(codes.shape[0], height * width, -1)
        own = lax.dynamic_index_in_dim(logits, place, axis=1, keepdims=False)
        code = _draw(own, keys, place, temperature, top_k)
        flat = codes.reshape(codes.shape[0], -1)
        flat = lax.dynamic_update_slice_in_dim(flat, code[:, None], place, axis=1)
        return flat.reshape(codes.shape), None

    codes = jnp.zeros((keys.shape[0], height, width), jnp.int32)
    return lax.scan(step, codes, jnp.arange(height * width))[0]


def _draw(
    logits: jax.Array, keys: jax.Array, place: jax.Array, temperature: jax.Array, top_k: int
) -> jax.Array:
    """One code per map, int32 `[B]`, by the noise of its key and the site."""
    if top_k:
        least = lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    site_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, place)
    return jax.vmap(jax.random.categorical)(site_keys, logits / temperature).astype(jnp.int32)
