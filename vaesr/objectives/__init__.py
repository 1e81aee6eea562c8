"""Factories that bind an apply function and losses into an `Objective`."""

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
from vaesr.objectives.bound import BoundEstimate, evaluate_bound, evaluate_hierarchical_bound
from vaesr.objectives.estimated import Estimator, estimated_elbo
from vaesr.objectives.hierarchical import hierarchical_elbo, hierarchical_iwae
from vaesr.objectives.image_likelihoods import (
    DiscretisedGaussianLikelihood,
    DiscretisedLogisticLikelihood,
    LogisticMixtureLikelihood,
)
from vaesr.objectives.likelihoods import (
    BernoulliLikelihood,
    GaussianLikelihood,
    LearnedGaussianLikelihood,
    Likelihood,
)
from vaesr.objectives.nogan import FROZEN, TURN, critic_alone, nogan, turns
from vaesr.objectives.objective import Aux, Batch, Objective, Params
from vaesr.objectives.posterior import Decode, Draw, Draws, Encode, EncodeFeatures
from vaesr.objectives.predictive import PredictiveMoments, predictive, predictive_log_prob, predictive_moments
from vaesr.objectives.restoration import (
    FEATURES,
    feature_content,
    in_training,
    restoration,
    restoration_gan,
)
from vaesr.objectives.super_resolution import multi_scale_pixel, pixel
from vaesr.objectives.supervised import supervised
from vaesr.objectives.variational import elbo, iwae
from vaesr.objectives.vq import vq_autoencoder

__all__ = [
    "BINARISATIONS",
    "FEATURES",
    "FROZEN",
    "TURN",
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
    "EncodeFeatures",
    "Estimator",
    "Forward",
    "GaussianLikelihood",
    "LearnedGaussianLikelihood",
    "Likelihood",
    "LogisticMixtureLikelihood",
    "Objective",
    "Params",
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
    "evaluate_hierarchical_bound",
    "feature_content",
    "hierarchical_elbo",
    "hierarchical_iwae",
    "in_training",
    "iwae",
    "multi_scale_pixel",
    "nogan",
    "pixel",
    "predictive",
    "predictive_log_prob",
    "predictive_moments",
    "regression_nll",
    "restoration",
    "restoration_gan",
    "supervised",
    "turns",
    "vq_autoencoder",
]
