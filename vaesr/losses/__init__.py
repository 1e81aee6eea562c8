"""Per-example training losses: pure functions of arrays that return one value per example (`[B]`)."""

from vaesr.losses.pixel import charbonnier, l1, mse
from vaesr.losses.variational import (
    bernoulli_nll,
    free_bits,
    gaussian_kl,
    gaussian_kl_standard,
    gaussian_nll,
    importance_weighted_bound,
    iwae_bound,
    negative_elbo,
)

__all__ = [
    "bernoulli_nll",
    "charbonnier",
    "free_bits",
    "gaussian_kl",
    "gaussian_kl_standard",
    "gaussian_nll",
    "importance_weighted_bound",
    "iwae_bound",
    "l1",
    "mse",
    "negative_elbo",
]
