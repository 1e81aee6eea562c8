"""How far an estimated blur kernel is from the true one."""

from typing import Any

import numpy as np

from vaesr.imaging.kernel_shapes import fit_kernel


def kernel_psnr(reference: Any, estimate: Any, *, scale: int = 2) -> float:
    """Returns the PSNR of a kernel whose largest possible entry is 1, in decibels.

    Both are shifted until their centres of mass are where `vaesr.imaging.wanted_centre` says, and compared in
    a square of the reference's side.

    Args:
        reference: `[K, K]`, the true kernel.
        estimate: `[L, L]`; both as they are to be correlated.
        scale: of the subsampling.

    Returns:
        10 log10(1 / MSE); infinite for equal kernels.

    Raises:
        ValueError: if one is no kernel.

    Source: the convention of Liang et al. 2021 (FKP).
    """
    true = np.asarray(reference, np.float64)
    side = max(true.shape)
    difference = fit_kernel(true, side, scale=scale) - fit_kernel(estimate, side, scale=scale)
    mse = float(np.square(difference).mean())
    return float("inf") if mse == 0 else -10 * float(np.log10(mse))
