"""Factories that bind an apply function and losses into an `Objective`."""

from vaesr.objectives.adversarial import FROZEN, TURN, critic_alone, nogan, restoration_gan, turns
from vaesr.objectives.autoregressive import autoregressive, conditions
from vaesr.objectives.bayesian import (
    Forward,
    bayesian,
    bayesian_exact,
    blundell_weights,
    classification_nll,
    regression_nll,
)
from vaesr.objectives.binarisation import BINARISATIONS, binarise, binarise_batch
from vaesr.objectives.bound import BoundEstimate, evaluate_bound
from vaesr.objectives.estimated import Estimator, estimated_elbo
from vaesr.objectives.kernelgan import SCHEDULE, KernelSchedule, kernel_gan, start_kernel_schedule
from vaesr.objectives.likelihoods import (
    BernoulliLikelihood,
    DiscretisedGaussianLikelihood,
    DiscretisedLogisticLikelihood,
    GaussianLikelihood,
    LearnedGaussianLikelihood,
    Likelihood,
    LogisticMixtureLikelihood,
)
from vaesr.objectives.objective import Aux, Batch, Objective, Params
from vaesr.objectives.posterior import Decode, Draw, Draws, Encode
from vaesr.objectives.predictive import PredictiveMoments, predictive, predictive_log_prob, predictive_moments
from vaesr.objectives.restoration import (
    FEATURES,
    feature_content,
    in_training,
    multi_scale_pixel,
    pixel,
    restoration,
)
from vaesr.objectives.spectral import VECTORS, spectral_norms, spectrally_regularised, start_spectral
from vaesr.objectives.supervised import supervised
from vaesr.objectives.variational import elbo, iwae
from vaesr.objectives.vq import vq_autoencoder
from vaesr.objectives.zero_shot import (
    POLICY,
    Policy,
    policy_rate,
    start_policy,
    zero_shot,
)

__all__ = [
    "BINARISATIONS",
    "FEATURES",
    "FROZEN",
    "POLICY",
    "SCHEDULE",
    "TURN",
    "VECTORS",
    "Aux",
    "Batch",
    "BernoulliLikelihood",
    "BoundEstimate",
    "Decode",
    "DiscretisedGaussianLikelihood",
    "DiscretisedLogisticLikelihood",
    "Draw",
    "Draws",
    "Encode",
    "Estimator",
    "Forward",
    "GaussianLikelihood",
    "KernelSchedule",
    "LearnedGaussianLikelihood",
    "Likelihood",
    "LogisticMixtureLikelihood",
    "Objective",
    "Params",
    "Policy",
    "PredictiveMoments",
    "autoregressive",
    "bayesian",
    "bayesian_exact",
    "binarise",
    "binarise_batch",
    "blundell_weights",
    "classification_nll",
    "conditions",
    "critic_alone",
    "elbo",
    "estimated_elbo",
    "evaluate_bound",
    "feature_content",
    "in_training",
    "iwae",
    "kernel_gan",
    "multi_scale_pixel",
    "nogan",
    "pixel",
    "policy_rate",
    "predictive",
    "predictive_log_prob",
    "predictive_moments",
    "regression_nll",
    "restoration",
    "restoration_gan",
    "spectral_norms",
    "spectrally_regularised",
    "start_kernel_schedule",
    "start_policy",
    "start_spectral",
    "supervised",
    "turns",
    "vq_autoencoder",
    "zero_shot",
]
