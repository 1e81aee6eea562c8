"""Causal layers of autoregressive models of maps: whole maps in training, one site at a time in sampling.

Every layer takes `site`: None computes a whole map `[B, H, W, C]`. In sampling, `Row(i)` is called once when
row i begins and `Pixel(i, j)` once for each of its pixels, on `[B, 1, 1, C]`; what a layer must remember
lives in the variable collection "cache". No site is computed twice: a sample costs one pass over the map.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from vaesr.distributions import path_key
from vaesr.layers.conv import lax_conv, torch_uniform

CACHE = "cache"
# Sites of a map that attend at once: at least so many, and at most so many pieces of a map.
_PIECE, _PIECES = 64, 8


class Row(NamedTuple):
    """A row begins: all rows above are known.

    Attributes:
        row: int32 scalar.
    """

    row: jax.Array


class Pixel(NamedTuple):
    """One pixel is to be computed: all before it in raster order are known.

    Attributes:
        row: int32 scalar.
        column: int32 scalar.
    """

    row: jax.Array
    column: jax.Array


Site = Row | Pixel | None


class CausalConv(nn.Module):
    """A convolution that sees only what comes before in raster order, and its own site.

    Attributes:
        features: output channels.
        width: W of the maps.
        kernel: odd side k of the full kernel, of which only the causal part exists.
        kind: "down" sees the k // 2 rows above and its own row, k // 2 columns to either side (in sampling
            it runs on whole rows); "right" its own row up to its own column; "causal" the rows above as
            "down" does and its own row as "right" does.
        dtype: compute type; the parameters are float32.
        precision: of float32 multiplications on accelerators: "default", "high" or "highest".
    """

    features: int
    width: int
    kernel: int = 3
    kind: str = "causal"
    dtype: Any = jnp.float32
    precision: str = "default"

    @nn.compact
    def __call__(self, x: jax.Array, *, site: Site = None) -> jax.Array:
        """Convolve.

        Args:
            x: `[B, H, W, C]`; in sampling `[B, 1, 1, C]`, for "down" the row `[B, 1, W, C]`.
            site: see the module.

        Returns:
            `[B, H, W, features]` in `dtype`, or the row or the pixel. "right" and "causal" give zeros at a
            `Row`, whose pixels aren't known yet.

        Raises:
            ValueError: if a field is out of range.
        """
        if self.kind not in ("down", "right", "causal") or self.kernel % 2 == 0 or self.kernel < 3:
            raise ValueError(
                f'kind must be "down", "right" or "causal" and kernel odd and at least 3, got {self.kind!r} '
                f"and {self.kernel}."
            )
        x = x.astype(self.dtype)
        kernels, bias = self._parameters(x.shape[-1])
        if site is None:
            return self._whole(x, kernels) + bias
        if self.kind == "down":
            return self._next_row(x, kernels["down"]) + bias
        if isinstance(site, Row):
            if self.kind == "causal":
                self._begin_row(x, kernels["above"])
            return jnp.zeros((x.shape[0], 1, 1, self.features), self.dtype)
        return self._pixel(x, kernels["right"], site) + bias

    def _parameters(self, channels: int) -> tuple[dict[str, jax.Array], jax.Array]:
        half, side = self.kernel // 2, self.kernel
        shapes = {
            "down": {"down": (half + 1, side)},
            "right": {"right": (1, half + 1)},
            "causal": {"above": (half, side), "right": (1, half + 1)},
        }[self.kind]
        init = torch_uniform(channels * sum(math.prod(shape) for shape in shapes.values()))
        kernels = {
            name: self.param(name, init, (*shape, channels, self.features)).astype(self.dtype)
            for name, shape in shapes.items()
        }
        bias = self.param("bias", init, (self.features,)).astype(self.dtype)
        return kernels, bias.reshape(1, 1, 1, -1)

    def _conv(self, x: jax.Array, kernel: jax.Array, padding: Any) -> jax.Array:
        return lax_conv(x, kernel, (1, 1), padding, self.precision)

    def _whole(self, x: jax.Array, kernels: dict[str, jax.Array]) -> jax.Array:
        half = self.kernel // 2
        if self.kind == "down":
            return self._conv(x, kernels["down"], ((half, 0), (half, half)))
        if self.kind == "right":
            return self._conv(x, kernels["right"], ((0, 0), (half, 0)))
        # One convolution, with zeros where the kernel would see what comes later.
        own = jnp.pad(kernels["right"], ((0, 0), (0, half), (0, 0), (0, 0)))
        kernel = jnp.concatenate([kernels["above"], own])
        return self._conv(x, kernel, ((half, 0), (half, half)))

    def _cached(self, name: str, shape: tuple[int, ...]) -> Any:
        return self.variable(CACHE, name, jnp.zeros, shape, self.dtype)

    def _next_row(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        half = self.kernel // 2
        rows = self._cached("rows", (x.shape[0], half, self.width, x.shape[-1]))
        known = jnp.concatenate([rows.value, x], axis=1)
        rows.value = known[:, 1:]
        return self._conv(known, kernel, ((0, 0), (half, half)))

    def _begin_row(self, x: jax.Array, kernel: jax.Array) -> None:
        """Take up the row that was just finished, and compute what the rows above give to all of the next."""
        half = self.kernel // 2
        batch, channels = x.shape[0], x.shape[-1]
        rows = self._cached("rows", (batch, half, self.width, channels))
        row = self._cached("row", (batch, half + self.width, channels))
        above = self._cached("above", (batch, self.width, self.features))
        rows.value = jnp.concatenate([rows.value[:, 1:], row.value[:, None, half:]], axis=1)
        above.value = self._conv(rows.value, kernel, ((0, 0), (half, half)))[:, 0]

    def _pixel(self, x: jax.Array, kernel: jax.Array, site: Pixel) -> jax.Array:
        half = self.kernel // 2
        # Columns to the left of the map are zeros; those to the right hold the row above, and aren't read.
        row = self._cached("row", (x.shape[0], half + self.width, x.shape[-1]))
        row.value = lax.dynamic_update_slice_in_dim(row.value, x[:, 0], site.column + half, axis=1)
        window = lax.dynamic_slice_in_dim(row.value, site.column, half + 1, axis=1)
        y = self._conv(window[:, None], kernel, "VALID")
        if self.kind == "causal":
            above = self._cached("above", (x.shape[0], self.width, self.features))
            y = y + lax.dynamic_slice_in_dim(above.value, site.column, 1, axis=1)[:, None]
        return y


class CausalAttention(nn.Module):
    """Attention of every site to all sites strictly before it in raster order.

    Attributes:
        features: output channels, a multiple of `heads`.
        shape: (H, W) of the maps.
        heads: parallel attentions.
        key_size: channels of queries and keys per head.
        dtype: compute type; scores and softmax are float32.
    """

    features: int
    shape: tuple[int, int]
    heads: int = 1
    key_size: int = 16
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, queries: jax.Array, context: jax.Array, *, site: Site = None) -> jax.Array:
        """Attend.

        Args:
            queries: `[B, H, W, C]`, what may depend on everything before a site; in sampling `[B, 1, 1, C]`.
            context: `[B, H, W, D]`, what a site offers to those after it. At a `Pixel` it is that of the
                pixel before, which only now is known.
            site: see the module.

        Returns:
            `[B, H, W, features]` in `dtype`; zeros at the first site, which has nothing before it.

        Raises:
            ValueError: if `heads` doesn't divide `features`.
        """
        if self.features % self.heads:
            raise ValueError(f"features must be a multiple of heads, got {self.features} and {self.heads}.")
        batch = queries.shape[0]
        sizes = (self.heads, self.key_size), (self.heads, self.features // self.heads)
        dense = lambda size, name: nn.DenseGeneral(size, dtype=self.dtype, name=name)  # noqa: E731
        query = dense(sizes[0], "query")(queries).reshape(batch, -1, *sizes[0])
        key = dense(sizes[0], "key")(context).reshape(batch, -1, *sizes[0])
        value = dense(sizes[1], "value")(context).reshape(batch, -1, *sizes[1])
        count = self.shape[0] * self.shape[1]
        if site is None:
            found = self._all_before(query, key, value)
        elif isinstance(site, Row):
            return jnp.zeros((batch, 1, 1, self.features), self.dtype)
        else:
            place = site.row * self.shape[1] + site.column
            key = self._remember("keys", key, place, count)
            value = self._remember("values", value, place, count)
            found = self._attend(query, key, value, jnp.arange(count)[None] < place)
        return found.reshape(*queries.shape[:3], self.features)

    def _all_before(self, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        """Every site of a map; a piece of them at a time is spared most of the scores that don't count."""
        count = query.shape[1]
        size = max(_PIECE, math.ceil(count / _PIECES))
        found = []
        for first in range(0, count, size):
            last = min(first + size, count)
            allowed = jnp.arange(last)[None] < jnp.arange(first, last)[:, None]
            found.append(self._attend(query[:, first:last], key[:, :last], value[:, :last], allowed))
        return jnp.concatenate(found, axis=1)

    def _attend(self, query: jax.Array, key: jax.Array, value: jax.Array, allowed: jax.Array) -> jax.Array:
        """Attention `[B, Q, heads, F]` of Q sites to those of N that `allowed [Q, N]` lets them see."""
        query = query / math.sqrt(self.key_size)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        scores = jnp.where(allowed, scores, -1e30)
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
        total = weights.sum(axis=-1, keepdims=True)
        found = jnp.einsum(
            "bhqk,bkhd->bhqd", weights.astype(self.dtype), value, preferred_element_type=jnp.float32
        )
        # A site that may see nothing would see all alike; it gets nothing.
        found = jnp.where(allowed.any(axis=-1, keepdims=True), found / total, 0.0)
        return found.swapaxes(1, 2).astype(self.dtype)

    def _remember(self, name: str, new: jax.Array, place: jax.Array, count: int) -> jax.Array:
        """Keep what the pixel before `place` offers."""
        shape = (new.shape[0], count, *new.shape[2:])
        kept = self.variable(CACHE, name, jnp.zeros, shape, new.dtype)
        before = jnp.maximum(place - 1, 0)
        kept.value = lax.dynamic_update_slice_in_dim(kept.value, new, before, axis=1)
        return kept.value


def remember_row(module: nn.Module, name: str, compute: Callable[[], jax.Array], site: Site) -> jax.Array:
    """Compute a whole map or row, or look up one pixel of the row that was computed when it began.

    `compute` gives `[B, H, W, F]`, at a `Row` `[B, 1, W, F]`; at a `Pixel` it is not called, and
    `[B, 1, 1, F]` of the row comes from the bound `module`'s cache, where it is called `name`.
    """
    if site is None:
        return compute()
    if isinstance(site, Row):
        row = compute()
        kept = module.variable(CACHE, name, jnp.zeros, row[:, 0].shape, row.dtype)
        kept.value = row[:, 0]
        return row
    row = module.get_variable(CACHE, name)
    return lax.dynamic_slice_in_dim(row, site.column, 1, axis=1)[:, None]


def shift_down(x: jax.Array) -> jax.Array:
    """Move every row of `[B, H, W, C]` one down: zeros come in above."""
    return jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]


def shift_right(x: jax.Array) -> jax.Array:
    """Move every column of `[B, H, W, C]` one to the right: zeros come in at the left."""
    return jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]


def example_dropout(x: jax.Array, keys: jax.Array | None, rate: float, path: tuple[str, ...]) -> jax.Array:
    """Drop features, each example by its own key, so that the masks don't depend on how a batch is cut up.

    `rate` is the share of `[B, ...]` that is dropped, in [0, 1); what is kept is scaled up. Without keys
    `[B]` nothing is dropped. The layer's `path` makes its masks differ from others'.
    """
    if keys is None or rate == 0:
        return x
    draw = lambda key: jax.random.bernoulli(path_key(key, path), 1 - rate, x.shape[1:])  # noqa: E731
    return jnp.where(jax.vmap(draw)(keys), x / (1 - rate), jnp.zeros((), x.dtype))
