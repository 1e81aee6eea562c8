"""The geometric self-ensemble of EDSR ("+" in its tables)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vaesr.imaging import dihedral, dihedral_inverse


def self_ensemble(upscale: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Average an upscaler over the eight flips and rotations of its input.

    Args:
        upscale: maps images `[B, h, w, C]` to `[B, h * s, w * s, C]`, of any size.

    Returns:
        A function of the same kind: the arithmetic mean, in float32, of the eight outputs, each turned
        back. It costs eight calls, made one after another so that memory does not grow.

    Source: Timofte et al. 2016, "Seven ways to improve example-based single image super resolution"; Lim
        et al. 2017, section 3.4.
    """

    def ensemble(x_lr: jax.Array) -> jax.Array:
        if x_lr.ndim != 4:
            raise ValueError(f"x_lr has shape {x_lr.shape}; expected [B, h, w, C].")
        total = dihedral_inverse(upscale(dihedral(x_lr, 0)), 0).astype(jnp.float32)
        for index in range(1, 8):
            total = total + dihedral_inverse(upscale(dihedral(x_lr, index)), index).astype(jnp.float32)
        return total / 8.0

    return ensemble
