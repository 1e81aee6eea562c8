"""PixelSNAIL (Chen et al. 2018): causal convolutions and attention in turn; the prior of VQ-VAE-2's codes."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.layers.causal import (
    CausalAttention,
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


class FirstLayer(nn.Module):
    """From embeddings to features that depend on what comes strictly before each site.

    Attributes:
        channels: of input and output.
        width: W of the maps.
        kernel: odd side of the kernels.
        dtype: compute type.
        precision: of float32 multiplications on accelerators.
    """

    channels: int
    width: int
    kernel: int
    dtype: Any = jnp.float32
    precision: str = "default"

    @nn.compact
    def __call__(self, embedded: jax.Array, site: Site) -> jax.Array:
        """Map `[B, H, W, C]`; a `Row` gets the row above `[B, 1, W, C]`, a `Pixel` the code before it."""
        conv = lambda kind: CausalConv(  # noqa: E731
            self.channels, self.width, self.kernel, kind, self.dtype, self.precision, name=kind
        )
        above = shift_down(embedded) if site is None else embedded
        x = remember_row(self, "down_row", lambda: conv("down")(above, site=site), site)
        if isinstance(site, Row):
            return jnp.zeros((embedded.shape[0], 1, 1, self.channels), self.dtype)
        if site is None:
            return x + conv("right")(shift_right(embedded))
        return x + conv("right")(jnp.where(site.column > 0, embedded, 0), site=site)


class GatedResidual(nn.Module):
    """ELU, convolution, ELU, convolution, gate, around a shortcut.

    Attributes:
        channels: of input and output.
        hidden: channels between the convolutions.
        width: W of the maps.
        kernel: odd side of the causal convolutions; 1 sees its own site alone.
        dropout: share of features dropped in training.
        dtype: compute type.
        precision: of float32 multiplications on accelerators.
    """

    channels: int
    hidden: int
    width: int
    kernel: int = 3
    dropout: float = 0.0
    dtype: Any = jnp.float32
    precision: str = "default"

    @nn.compact
    def __call__(
        self, x: jax.Array, aside: jax.Array | None, given: jax.Array | None, keys: Any, site: Site
    ) -> jax.Array:
        """Map `[B, H, W, C]` to the same shape; `aside` joins in the middle, `given` before the gate."""
        y = self._conv(self.hidden, "first")(nn.elu(x), site)
        if aside is not None:
            y = y + nn.Dense(self.hidden, dtype=self.dtype, name="aside")(nn.elu(aside))
        y = example_dropout(nn.elu(y), keys, self.dropout, self.path)
        y = self._conv(2 * self.channels, "second")(y, site)
        if given is not None:
            y = y + nn.Dense(2 * self.channels, dtype=self.dtype, name="given")(given)
        a, b = jnp.split(y, 2, axis=-1)
        return x + a * nn.sigmoid(b)

    def _conv(self, features: int, name: str) -> Any:
        if self.kernel == 1:
            dense = nn.Dense(features, dtype=self.dtype, name=name)
            return lambda x, site: dense(x)
        conv = CausalConv(features, self.width, self.kernel, "causal", self.dtype, self.precision, name=name)
        return lambda x, site: conv(x, site=site)


class PixelBlock(nn.Module):
    """Some gated residual blocks, then attention to everything before.

    Attributes:
        channels: of the features.
        hidden: channels inside the residual blocks.
        shape: (H, W) of the maps.
        layers: residual blocks.
        kernel: odd side of the causal convolutions.
        attention: False leaves the attention out.
        heads: of the attention.
        key_size: channels of a key per head.
        dropout: share of features dropped in training.
        dtype: compute type.
        precision: of float32 multiplications on accelerators.
    """

    channels: int
    hidden: int
    shape: tuple[int, int]
    layers: int
    kernel: int
    attention: bool
    heads: int
    key_size: int
    dropout: float
    dtype: Any = jnp.float32
    precision: str = "default"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        embedded: jax.Array,
        place: jax.Array,
        given: jax.Array | None,
        keys: Any,
        site: Site,
    ) -> jax.Array:
        """Map `[B, H, W, channels]`, which depend on what comes before each site, to the same shape.

        `embedded` are the codes' embeddings, at a `Pixel` that of the code before it; `place` the sites'
        coordinates, `[1, H, W, 2]` or `[1, 1, 1, 2]`; `given` conditioning features or None; `keys` are for
        dropout; `site` as in `layers.causal`.
        """
        common = {"dtype": self.dtype, "precision": self.precision}
        res = lambda kernel, name: GatedResidual(  # noqa: E731
            self.channels, self.hidden, self.shape[1], kernel, self.dropout, name=name, **common
        )
        for number in range(self.layers):
            x = res(self.kernel, f"res_{number}")(x, None, given, keys, site)
        place = jnp.broadcast_to(place, (*x.shape[:3], 2)).astype(self.dtype)
        if not self.attention:
            return res(1, "out")(x, place, None, keys, site)
        offered = jnp.concatenate([x, place], axis=-1)
        before = self._before(offered, site)
        context = jnp.concatenate([embedded, before], axis=-1)
        context = nn.Dense(self.channels, dtype=self.dtype, name="context_in")(context)
        context = res(1, "context")(context, None, None, keys, site)
        seen = CausalAttention(
            self.channels, self.shape, self.heads, self.key_size, self.dtype, name="attention"
        )(offered, context, site=site)
        return res(1, "out")(x, seen, None, keys, site)

    def _before(self, offered: jax.Array, site: Site) -> jax.Array:
        """A whole map's features; at a pixel those of the one before, whose code only now is known."""
        if not isinstance(site, Pixel):
            return offered
        kept = self.variable("cache", "offered", jnp.zeros, offered.shape, offered.dtype)
        before, kept.value = kept.value, offered
        return before


class PixelSNAIL(RasterPrior):
    """PixelSNAIL over maps of codes: fields of `RasterPrior`, and its own.

    Attributes:
        blocks: of residual blocks and attention.
        layers: residual blocks in each.
        hidden: channels inside the residual blocks; 0 is `channels`.
        kernel: odd side of the causal convolutions, at least 3.
        attention: False leaves it out, as for VQ-VAE-2's bottom map.
        heads: of the attention.
        key_size: channels of a key per head.
        out_layers: 1x1 gated residual blocks before the logits.
    """

    shape: tuple[int, int] = (32, 32)
    channels: int = 256
    dropout: float = 0.1  # VQ-VAE-2's
    condition_blocks: int = 3
    blocks: int = 4
    layers: int = 4
    hidden: int = 0
    kernel: int = 5
    attention: bool = True
    heads: int = 8
    key_size: int = 16
    out_layers: int = 0

    def setup(self) -> None:
        common = {"dtype": self.dtype, "precision": self.precision}
        shape, hidden = (self.shape[0], self.shape[1]), self.hidden or self.channels
        self.embed = nn.Embed(self.codes, self.channels, dtype=self.dtype)
        self.conditioner = self.new_conditioner()
        self.first = FirstLayer(self.channels, shape[1], self.kernel, **common)
        block = nn.remat(PixelBlock) if self.remat else PixelBlock
        self.stack = [
            block(
                self.channels, hidden, shape, self.layers, self.kernel, self.attention, self.heads,
                self.key_size, self.dropout, **common,
            )
            for _ in range(self.blocks)
        ]  # fmt: skip
        self.last = [
            GatedResidual(self.channels, hidden, shape[1], 1, self.dropout, **common)
            for _ in range(self.out_layers)
        ]
        self.out = nn.Dense(self.codes, dtype=self.dtype)

    def all_logits(self, codes: jax.Array, given: jax.Array | None, keys: jax.Array | None) -> jax.Array:
        """See `RasterPrior`."""
        embedded = self.embed(codes)
        return self._logits(self.first(embedded, None), embedded, given, keys, None)

    def begin_row(self, above: jax.Array, given: jax.Array | None, site: Row) -> None:
        """In sampling: take up the row of codes `[B, W]` above the one that begins."""
        embedded = jnp.where(site.row > 0, self.embed(above), 0)[:, None]
        # The layers take up the rows that they computed themselves; what flows through them is nothing.
        nothing = self.first(embedded, site)
        pixel = None if given is None else given[:, :1, :1]
        self._logits(nothing, nothing, pixel, None, site)

    def next_pixel(self, before: jax.Array, given: jax.Array | None, site: Pixel) -> jax.Array:
        """In sampling: logits `[B, K]` of a pixel, given the code `[B]` before it."""
        embedded = self.embed(before)[:, None, None]
        x = self.first(embedded, site)
        return self._logits(x, embedded, at_site(given, site), None, site)[:, 0, 0]

    def _logits(
        self, x: jax.Array, embedded: jax.Array, given: jax.Array | None, keys: Any, site: Site
    ) -> jax.Array:
        place = self._place(site)
        for block in self.stack:
            x = block(x, embedded, place, given, keys, site)
        for layer in self.last:
            x = layer(x, None, None, keys, site)
        return self.out(nn.elu(x)).astype(jnp.float32)

    def _place(self, site: Site) -> jax.Array:
        """Coordinates in [-1/2, 1/2], `[1, H, W, 2]` or of one pixel."""
        height, width = self.shape
        if isinstance(site, Pixel):
            place = jnp.stack([site.row / height - 0.5, site.column / width - 0.5])
            return place.reshape(1, 1, 1, 2)
        if isinstance(site, Row):
            return jnp.zeros((1, 1, 1, 2))
        rows, columns = jnp.meshgrid(
            jnp.arange(height) / height - 0.5, jnp.arange(width) / width - 0.5, indexing="ij"
        )
        return jnp.stack([rows, columns], axis=-1)[None]


PRESETS: dict[str, PixelSNAIL] = {
    # Chen et al. 2018, the authors' CIFAR-10 network: 12 attentions with small keys; here over 256 levels.
    "h12_noup_smallkey": PixelSNAIL(codes=256, blocks=12, layers=5, kernel=3, dropout=0.5, heads=1),
    # Razavi et al. 2019, table of appendix A: 256 x 256 images.
    "vqvae2_top": PixelSNAIL(channels=512, layers=5, out_layers=20),
    "vqvae2_bottom": PixelSNAIL(
        shape=(64, 64), channels=512, layers=5, attention=False, condition=((32, 32, 512),),
        condition_blocks=20,
    ),
}  # fmt: skip
