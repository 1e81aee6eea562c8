"""Factories that bind an apply function and losses into an `Objective`."""

from vaesr.objectives.bound import BoundEstimate, evaluate_bound
from vaesr.objectives.likelihoods import (
    BernoulliLikelihood,
    GaussianLikelihood,
    LearnedGaussianLikelihood,
    Likelihood,
)
from vaesr.objectives.objective import Aux, Batch, Objective, Params
from vaesr.objectives.posterior import Decode, Encode, binarise
from vaesr.objectives.super_resolution import multi_scale_pixel, pixel
from vaesr.objectives.variational import elbo, iwae

__all__ = [
    "Aux",
    "Batch",
    "BernoulliLikelihood",
    "BoundEstimate",
    "Decode",
    "Encode",
    "GaussianLikelihood",
    "LearnedGaussianLikelihood",
    "Likelihood",
    "Objective",
    "Params",
    "binarise",
    "elbo",
    "evaluate_bound",
    "iwae",
    "multi_scale_pixel",
    "pixel",
]
