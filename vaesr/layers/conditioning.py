"""What an autoregressive prior of codes is told beside them: a class, and the code maps above."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.layers.conv import Conv


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
        """Give the features.

        Args:
            label: `[B]` integers, or None.
            condition: `[B, h, w]` integers per map.

        Returns:
            `[B, H, W, features]` in `dtype` (`[B, 1, 1, features]` of a class alone), or None where there is
            nothing to tell.

        Raises:
            ValueError: if a class or map is missing, is not asked for, or doesn't fit.
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


def at_site(features: jax.Array | None, site: Any) -> jax.Array | None:
    """The part of conditioning features that a site of `layers.causal` needs.

    Args:
        features: `[B, H, W, C]`, `[B, 1, 1, C]` or None.
        site: None, `Row` or `Pixel`.

    Returns:
        All of it, the row `[B, 1, W, C]` or the pixel `[B, 1, 1, C]`.
    """
    if features is None or site is None or features.shape[1:3] == (1, 1):
        return features
    row = jax.lax.dynamic_slice_in_dim(features, site.row, 1, axis=1)
    return row if not hasattr(site, "column") else jax.lax.dynamic_slice_in_dim(row, site.column, 1, axis=2)
