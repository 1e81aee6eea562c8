"""Per-example training losses: pure functions of arrays that return one value per example (`[B]`)."""

from vaesr.losses.categorical import categorical_nll
from vaesr.losses.discretised import discretised_gaussian_nll, discretised_logistic_nll, logistic_mixture_nll
from vaesr.losses.expected import expected_squared_error
from vaesr.losses.perceptual import dists_loss, lpips_loss, ms_ssim_l1_loss, ms_ssim_loss, ssim_loss
from vaesr.losses.pixel import charbonnier, l1, mse
from vaesr.losses.quantisation import codebook_loss, commitment_loss
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
    "categorical_nll",
    "charbonnier",
    "codebook_loss",
    "commitment_loss",
    "discretised_gaussian_nll",
    "discretised_logistic_nll",
    "dists_loss",
    "expected_squared_error",
    "free_bits",
    "gaussian_kl",
    "gaussian_kl_standard",
    "gaussian_nll",
    "importance_weighted_bound",
    "iwae_bound",
    "l1",
    "logistic_mixture_nll",
    "lpips_loss",
    "ms_ssim_l1_loss",
    "ms_ssim_loss",
    "mse",
    "negative_elbo",
    "ssim_loss",
]
