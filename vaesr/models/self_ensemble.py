"""The geometric self-ensemble of EDSR ("+" in its tables)."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vaesr.imaging import dihedral, dihedral_inverse


def self_ensemble(upscale: Callable[[jax.Array], Any]) -> Callable[[jax.Array | np.ndarray], Any]:
    """Average an upscaler over the eight flips and rotations of its input.

    `upscale` maps images `[B, h, w, C]` of any size to `[B, h * s, w * s, C]`. The function of the same kind
    that comes back calls it eight times, in the order of `dihedral`'s index, one after another so that memory
    does not grow, and gives the arithmetic mean, in float32, of the eight outputs, each turned back. Where
    `upscale` gives NumPy arrays (photos too large for the device), the sum stays on the host too.

    Source: Timofte et al. 2016, "Seven ways to improve example-based single image super resolution"; Lim
      et al. 2017, section 3.4.
    """

    def turned(x_lr: jax.Array | np.ndarray, index: int) -> Any:
        out = upscale(dihedral(x_lr, index))
        back = dihedral_inverse(out, index)
        return (np.asarray(back) if isinstance(out, np.ndarray) else back).astype(np.float32)

    def ensemble(x_lr: jax.Array | np.ndarray) -> Any:
        if x_lr.ndim != 4:
            raise ValueError(f"x_lr has shape {x_lr.shape}; expected [B, h, w, C].")
        total = turned(x_lr, 0)
        for index in range(1, 8):
            total = total + turned(x_lr, index)
        return total / np.float32(8)

    return ensemble
