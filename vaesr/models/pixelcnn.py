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
from vaesr.layers.conditioning import RasterPrior, at_site


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


class PixelCNN(RasterPrior):
    """The gated PixelCNN over maps of codes: fields of `RasterPrior`, and its own.

    Attributes:
        layers: gated layers.
        kernel: odd side of the kernels.
        head: channels of the last hidden layer.
    """

    layers: int = 12
    kernel: int = 5
    head: int = 256

    def setup(self) -> None:
        common = {"dtype": self.dtype, "precision": self.precision}
        self.embed = nn.Embed(self.codes, self.channels, dtype=self.dtype)
        self.conditioner = self.new_conditioner()
        layer = nn.remat(GatedLayer, static_argnums=()) if self.remat else GatedLayer
        self.stack = [
            layer(self.channels, self.shape[1], self.kernel, n == 0, self.dropout, **common)
            for n in range(self.layers)
        ]
        self.hidden = nn.Dense(self.head, dtype=self.dtype)
        self.out = nn.Dense(self.codes, dtype=self.dtype)

    def all_logits(self, codes: jax.Array, given: jax.Array | None, keys: jax.Array | None) -> jax.Array:
        """See `RasterPrior`."""
        embedded = self.embed(codes)
        return self._logits(shift_down(embedded), shift_right(embedded), given, keys, None)

    def begin_row(self, above: jax.Array, given: jax.Array | None, site: Row) -> None:
        """In sampling: take up the row of codes `[B, W]` above the one that begins."""
        embedded = jnp.where(site.row > 0, self.embed(above), 0)[:, None]
        nothing = jnp.zeros((above.shape[0], 1, 1, self.channels), self.dtype)
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
    """The gated activation: tanh of one half of the channels `[..., 2C]` times the sigmoid of the other.

    Source: van den Oord et al. 2016, equation 2.
    """
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.tanh(a) * nn.sigmoid(b)


PRESETS: dict[str, PixelCNN] = {
    # The prior of VQ-VAE's 8 x 8 codes, and of 32 x 32 ones of 128 x 128 images.
    "codes_8": PixelCNN(shape=(8, 8)),
    "codes_32": PixelCNN(shape=(32, 32), channels=256, layers=15),
}
