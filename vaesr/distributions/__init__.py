"""The few distributions that the models use: log-densities, reparameterised samples and closed-form KLs.

Log-densities and KLs are elementwise in nats; `vaesr.losses` sums them to one value per example.
"""

from vaesr.distributions.bernoulli import Bernoulli
from vaesr.distributions.discretised import DiscretisedLogistic, DiscretisedNormal
from vaesr.distributions.estimators import MovingAverage, pathwise, score_function
from vaesr.distributions.importance import doubly_reparameterised_bound, importance_weighted
from vaesr.distributions.keys import example_bernoulli, example_keys, example_normal, example_uniform
from vaesr.distributions.logistic import Logistic
from vaesr.distributions.logistic_mixture import LogisticMixture
from vaesr.distributions.mean_field import (
    Posterior,
    mean_field,
    mean_field_kl,
    mean_field_log_ratio,
    mean_field_noise,
    mean_field_scales,
    path_key,
    sample_mean_field,
)
from vaesr.distributions.measure_valued import measure_valued
from vaesr.distributions.moments import gaussian_moments
from vaesr.distributions.normal import Normal, kl_normal, kl_standard_normal
from vaesr.distributions.priors import GaussianPrior, ScaleMixturePrior
from vaesr.distributions.pruning import prune, signal_to_noise
from vaesr.distributions.weight_trees import flatten_paths, unflatten_paths

__all__ = [
    "Bernoulli",
    "DiscretisedLogistic",
    "DiscretisedNormal",
    "GaussianPrior",
    "Logistic",
    "LogisticMixture",
    "MovingAverage",
    "Normal",
    "Posterior",
    "ScaleMixturePrior",
    "doubly_reparameterised_bound",
    "example_bernoulli",
    "example_keys",
    "example_normal",
    "example_uniform",
    "flatten_paths",
    "gaussian_moments",
    "importance_weighted",
    "kl_normal",
    "kl_standard_normal",
    "mean_field",
    "mean_field_kl",
    "mean_field_log_ratio",
    "mean_field_noise",
    "mean_field_scales",
    "measure_valued",
    "path_key",
    "pathwise",
    "prune",
    "sample_mean_field",
    "score_function",
    "signal_to_noise",
    "unflatten_paths",
]
