"""Per-example training losses: pure functions of arrays that return one value per example (`[B]`)."""

from vaesr.losses.adversarial import (
    ADVERSARIAL,
    AdversarialLoss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
    relativistic_average_discriminator_loss,
    relativistic_average_generator_loss,
    standard_discriminator_loss,
    standard_generator_loss,
)
from vaesr.losses.categorical import categorical_nll
from vaesr.losses.discretised import discretised_gaussian_nll, discretised_logistic_nll, logistic_mixture_nll
from vaesr.losses.expected import expected_squared_error
from vaesr.losses.features import content_loss, style_loss
from vaesr.losses.kernel_priors import (
    kernel_boundary_loss,
    kernel_centre_loss,
    kernel_sparsity_loss,
    kernel_sum_loss,
)
from vaesr.losses.perceptual import dists_loss, lpips_loss, ms_ssim_l1_loss, ms_ssim_loss, ssim_loss
from vaesr.losses.pixel import charbonnier_loss, l1_loss, mse_loss
from vaesr.losses.quantisation import codebook_loss, commitment_loss
from vaesr.losses.variational import (
    balanced_kl,
    bernoulli_nll,
    free_bits,
    gaussian_kl,
    gaussian_kl_standard,
    gaussian_nll,
    importance_weighted_bound,
    negative_elbo,
)

__all__ = [
    "ADVERSARIAL",
    "AdversarialLoss",
    "balanced_kl",
    "bernoulli_nll",
    "categorical_nll",
    "charbonnier_loss",
    "codebook_loss",
    "commitment_loss",
    "content_loss",
    "discretised_gaussian_nll",
    "discretised_logistic_nll",
    "dists_loss",
    "expected_squared_error",
    "free_bits",
    "gaussian_kl",
    "gaussian_kl_standard",
    "gaussian_nll",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "importance_weighted_bound",
    "kernel_boundary_loss",
    "kernel_centre_loss",
    "kernel_sparsity_loss",
    "kernel_sum_loss",
    "l1_loss",
    "least_squares_discriminator_loss",
    "least_squares_generator_loss",
    "logistic_mixture_nll",
    "lpips_loss",
    "ms_ssim_l1_loss",
    "ms_ssim_loss",
    "mse_loss",
    "negative_elbo",
    "relativistic_average_discriminator_loss",
    "relativistic_average_generator_loss",
    "ssim_loss",
    "standard_discriminator_loss",
    "standard_generator_loss",
    "style_loss",
]
