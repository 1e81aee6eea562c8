"""Gated PixelCNN (van den Oord et al. 2016): the distribution of a map of codes, one code after the other.

Two stacks leave no blind spot: the vertical one sees all rows above, the horizontal one its own row up to the
code before, and at every layer what the vertical one saw.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.layers.causal import (
    CausalConv,
    Pixel,
    Row,
    Site,
    example_dropout,
    remember_row,
    shift_down,
    shift_right,
)
from vaesr.layers.conditioning import MapConditioner, at_site


class GatedLayer(nn.Module):
    """One layer of both stacks.

    Attributes:
        channels: of each stack.
        width: W of the maps.
        kernel: odd side of the kernels.
        first: without a shortcut.
        dropout: share of features dropped in training.
        dtype: compute type.
        precision: of float32 multiplications on accelerators.
    """

    channels: int
    width: int
    kernel: int
    first: bool
    dropout: float = 0.0
    dtype: Any = jnp.float32
    precision: str = "default"

    @nn.compact
    def __call__(
        self,
        vertical: jax.Array | None,
        horizontal: jax.Array,
        given: jax.Array | None,
        keys: Any,
        site: Site,
    ) -> tuple[jax.Array | None, jax.Array]:
        """Map both stacks' features; at a `Pixel` the vertical stack's are those of its row, remembered."""
        conv = {"dtype": self.dtype, "precision": self.precision}
        wide, dense = 2 * self.channels, lambda n, name: nn.Dense(n, dtype=self.dtype, name=name)
        if not isinstance(site, Pixel):
            assert vertical is not None
            seen = CausalConv(wide, self.width, self.kernel, "down", name="vertical", **conv)(
                vertical, site=site
            )
            told = None if given is None else dense(wide, "vertical_given")(given)
            # Of the whole row: what the horizontal stack needs, and the next vertical layer.
            vertical = gate(seen if told is None else seen + told)
        across = remember_row(self, "across_row", lambda: dense(wide, "across")(seen), site)
        y = CausalConv(wide, self.width, self.kernel, "right", name="horizontal", **conv)(
            horizontal, site=site
        )
        y = y + (across if not isinstance(site, Row) else jnp.zeros_like(y))
        if given is not None and not isinstance(site, Row):
            y = y + dense(wide, "horizontal_given")(given)
        y = example_dropout(gate(y), keys, self.dropout, self.path)
        y = dense(self.channels, "out")(y)
        return vertical, (y if self.first else horizontal + y)


class PixelCNN(nn.Module):
    """The gated PixelCNN over maps of codes.

    Attributes:
        shape: (H, W) of the maps.
        codes: K, the number of codes.
        channels: of each stack.
        layers: gated layers.
        kernel: odd side of the kernels.
        head: channels of the last hidden layer.
        dropout: share of features dropped in training.
        classes: number of classes, or None.
        condition: (h, w, K) of each coarser map that is given.
        condition_blocks: residual blocks over those maps.
        remat: compute the layers anew in the backward pass, for memory.
        dtype: compute type; the logits are float32.
        precision: of float32 multiplications on accelerators: "default", "high" or "highest".
    """

    shape: tuple[int, int] = (8, 8)
    codes: int = 512
    channels: int = 128
    layers: int = 12
    kernel: int = 5
    head: int = 256
    dropout: float = 0.0
    classes: int | None = None
    condition: tuple[tuple[int, int, int], ...] = ()
    condition_blocks: int = 2
    remat: bool = False
    dtype: Any = jnp.float32
    precision: str = "default"

    def setup(self) -> None:
        common = {"dtype": self.dtype, "precision": self.precision}
        self.embed = nn.Embed(self.codes, self.channels, dtype=self.dtype)
        self.conditioner = MapConditioner(
            (self.shape[0], self.shape[1]), self.channels, self.classes,
            tuple((h, w, k) for h, w, k in self.condition),
            self.condition_blocks, **common,
        )  # fmt: skip
        layer = nn.remat(GatedLayer, static_argnums=()) if self.remat else GatedLayer
        self.stack = [
            layer(self.channels, self.shape[1], self.kernel, n == 0, self.dropout, **common)
            for n in range(self.layers)
        ]
        self.hidden = nn.Dense(self.head, dtype=self.dtype)
        self.out = nn.Dense(self.codes, dtype=self.dtype)

    def __call__(
        self,
        codes: jax.Array,
        *,
        label: jax.Array | None = None,
        condition: tuple[jax.Array, ...] = (),
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Give the distribution of every code given those before it in raster order.

        Args:
            codes: int32 `[B, H, W]`.
            label: `[B]`, if there are classes.
            condition: int32 `[B, h, w]` per coarser map.
            keys: random keys `[B]` for dropout in training; None drops nothing.

        Returns:
            Logits `[B, H, W, K]`, float32.

        Raises:
            ValueError: if the shapes don't fit.
        """
        if codes.ndim != 3 or codes.shape[1:] != tuple(self.shape):
            raise ValueError(f"codes must be [B, {self.shape}], got {codes.shape}.")
        embedded = self.embed(codes)
        given = self.conditioner(label, condition)
        return self._logits(shift_down(embedded), shift_right(embedded), given, keys, None)

    def conditioning(
        self, label: jax.Array | None = None, condition: tuple[jax.Array, ...] = ()
    ) -> jax.Array | None:
        """What `begin_row` and `next_pixel` take as `given`: computed once for a whole sample."""
        return self.conditioner(label, condition)

    def begin_row(self, above: jax.Array, given: jax.Array | None, site: Row) -> None:
        """In sampling: take up the row of codes `[B, W]` above the one that begins."""
        embedded = jnp.where(site.row > 0, self.embed(above), 0)[:, None]
        batch, channels = above.shape[0], self.channels
        nothing = jnp.zeros((batch, 1, 1, channels), self.dtype)
        self._stack(embedded, nothing, at_site(given, site), None, site)

    def next_pixel(self, before: jax.Array, given: jax.Array | None, site: Pixel) -> jax.Array:
        """In sampling: logits `[B, K]` of a pixel, given the code `[B]` before it."""
        embedded = jnp.where(site.column > 0, self.embed(before), 0)[:, None, None]
        return self._logits(None, embedded, at_site(given, site), None, site)[:, 0, 0]

    def _stack(
        self, vertical: jax.Array | None, horizontal: jax.Array, given: Any, keys: Any, site: Site
    ) -> jax.Array:
        for layer in self.stack:
            vertical, horizontal = layer(vertical, horizontal, given, keys, site)
        return horizontal

    def _logits(
        self, vertical: jax.Array | None, horizontal: jax.Array, given: Any, keys: Any, site: Site
    ) -> jax.Array:
        x = self._stack(vertical, horizontal, given, keys, site)
        return self.out(nn.relu(self.hidden(nn.relu(x)))).astype(jnp.float32)


def gate(x: jax.Array) -> jax.Array:
    """The gated activation: tanh of one half of the channels times the sigmoid of the other.

    Args:
        x: `[..., 2C]`.

    Returns:
        `[..., C]`.

    Source: van den Oord et al. 2016, equation 2.
    """
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.tanh(a) * nn.sigmoid(b)


PRESETS: dict[str, PixelCNN] = {
    # The prior of VQ-VAE's 8 x 8 codes, and of 32 x 32 ones of 128 x 128 images.
    "codes_8": PixelCNN(shape=(8, 8)),
    "codes_32": PixelCNN(shape=(32, 32), channels=256, layers=15),
}
