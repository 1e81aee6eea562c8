"""What an autoregressive prior of codes is told beside them: a class, and the code maps above."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.layers.causal import Pixel, Site
from vaesr.layers.conv import Conv, Precision


class MapConditioner(nn.Module):
    """Features of a class and of coarser code maps, at the size of the map to be predicted.

    Attributes:
        shape: (H, W) of the map to be predicted.
        features: output channels.
        classes: number of classes, or None.
        maps: (h, w, K) of each coarser map; h and w divide H and W.
        blocks: residual blocks over the maps' embeddings.
        dtype: compute type.
        precision: of float32 multiplications on accelerators.
    """

    shape: tuple[int, int]
    features: int
    classes: int | None = None
    maps: tuple[tuple[int, int, int], ...] = ()
    blocks: int = 2
    dtype: Any = jnp.float32
    precision: str = "default"

    @nn.compact
    def __call__(self, label: jax.Array | None, condition: tuple[jax.Array, ...]) -> jax.Array | None:
        """Map classes `[B]` and integers `[B, h, w]` per map to features `[B, H, W, features]` in `dtype`.

        They are `[B, 1, 1, features]` of a class alone, and None where there is nothing to tell. A ValueError
        if a class or map is missing, is not asked for, or doesn't fit.
        """
        self._check(label, condition)
        found = None
        for number, (codes, (_, _, count)) in enumerate(zip(condition, self.maps, strict=True)):
            x = nn.Embed(count, self.features, dtype=self.dtype, name=f"map_{number}")(codes)
            for axis, size in enumerate(self.shape, 1):
                x = jnp.repeat(x, size // codes.shape[axis], axis=axis)
            found = x if found is None else found + x
        if found is not None:
            for _ in range(self.blocks):
                y = Conv(self.features, 3, self.dtype, precision=self.precision)(nn.relu(found))
                found = found + Conv(self.features, 3, self.dtype, precision=self.precision)(nn.relu(y))
        if label is not None:
            x = nn.Embed(self.classes or 1, self.features, dtype=self.dtype, name="label")(label)
            x = x[:, None, None]
            found = x if found is None else found + jnp.broadcast_to(x, found.shape)
        return found

    def _check(self, label: jax.Array | None, condition: tuple[jax.Array, ...]) -> None:
        if (label is None) != (self.classes is None):
            wanted = (
                f"[B] in [0, {self.classes})" if self.classes is not None else "None: there are no classes"
            )
            raise ValueError(f"label must be {wanted}; got {None if label is None else label.shape}.")
        found = tuple(tuple(codes.shape[1:]) for codes in condition)
        if found != tuple((h, w) for h, w, _ in self.maps):
            raise ValueError(f"condition must hold maps [B, h, w, K] of {self.maps}, got shapes {found}.")
        for height, width, _ in self.maps:
            if self.shape[0] % height or self.shape[1] % width:
                raise ValueError(
                    f"the sides of every map must divide those of {self.shape}, got {(height, width)}."
                )


def at_site(features: jax.Array | None, site: Site) -> jax.Array | None:
    """The part of conditioning features that a site of `layers.causal` needs.

    Of `[B, H, W, C]` all, the row `[B, 1, W, C]` or the pixel `[B, 1, 1, C]`; `[B, 1, 1, C]` and None stay.
    """
    if features is None or site is None or features.shape[1:3] == (1, 1):
        return features
    row = jax.lax.dynamic_slice_in_dim(features, site.row, 1, axis=1)
    return jax.lax.dynamic_slice_in_dim(row, site.column, 1, axis=2) if isinstance(site, Pixel) else row


class RasterPrior(nn.Module):
    """A model of code maps in raster order, as it is called in training.

    Attributes:
        shape: (H, W) of the maps.
        codes: K, the number of codes.
        channels: of the features, or of each stack.
        dropout: share of features dropped in training, in [0, 1).
        classes: number of classes, or None.
        condition: (h, w, K) of each coarser map that is given.
        condition_blocks: residual blocks over those maps.
        remat: compute the layers or blocks anew in the backward pass, for memory.
        dtype: compute type; the logits are float32.
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.
    """

    shape: tuple[int, int] = (8, 8)
    codes: int = 512
    channels: int = 128
    dropout: float = 0.0
    classes: int | None = None
    condition: tuple[tuple[int, int, int], ...] = ()
    condition_blocks: int = 2
    remat: bool = False
    dtype: Any = jnp.float32
    precision: Precision = "default"

    def all_logits(self, codes: jax.Array, given: jax.Array | None, keys: jax.Array | None) -> jax.Array:
        """Give the logits of all codes; `given` is what `conditioning` makes of label and coarser maps."""
        raise NotImplementedError

    def conditioning(
        self, label: jax.Array | None = None, condition: tuple[jax.Array, ...] = ()
    ) -> jax.Array | None:
        """What `begin_row` and `next_pixel` take as `given`: computed once for a whole sample."""
        return self.conditioner(label, condition)

    @nn.nowrap
    def new_conditioner(self) -> MapConditioner:
        """What tells a model's layers of label and coarser maps; `setup` keeps it as `conditioner`."""
        maps = tuple((h, w, k) for h, w, k in self.condition)
        return MapConditioner(
            (self.shape[0], self.shape[1]), self.channels, self.classes, maps, self.condition_blocks,
            dtype=self.dtype, precision=self.precision,
        )  # fmt: skip

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
        return self.all_logits(codes, self.conditioning(label, condition), keys)
