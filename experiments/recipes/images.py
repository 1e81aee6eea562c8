"""What experiments on small images of one size share."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr import data, evaluators, objectives, runs


def open_images(config: runs.Config, square: data.Square | None = None) -> data.Bank:
    """Open the run's data as images of one size; photos of many sizes are a UserError without a square."""
    bank = data.open_bank(config.data, strict=config.strict, square=square)
    if bank.kind != "fixed":
        raise runs.UserError(
            f"--data must hold images of one size; {config.data} holds photos of many sizes."
        )
    return bank


def bind(model: nn.Module, method: str) -> Callable[..., Any]:
    """A method of a network whose only variables are parameters: `(params, *inputs) -> outputs`."""
    return lambda params, *inputs: model.apply({"params": params}, *inputs, method=method)


def initial(model: Any, key: jax.Array) -> Any:
    """The initial parameters of a network of images of one size."""
    return model.init(key, jnp.zeros((1, *model.image_shape), jnp.float32))["params"]


def likelihood_of(
    name: str, *, mixtures: int = 10, bits: int = 8, edges: str = "exact", scale: float = 1.0
) -> objectives.Likelihood:
    """What a decoder's outputs mean, by a network's `likelihood`.

    `mixtures` are of "logistic_mixture", `bits` of images of levels, `edges` as there, `scale` of "gaussian".
    """
    kinds: dict[str, Callable[[], objectives.Likelihood]] = {
        "bernoulli": objectives.BernoulliLikelihood,
        "gaussian": lambda: objectives.GaussianLikelihood(scale),
        "gaussian_learned": objectives.LearnedGaussianLikelihood,
        "discretised_logistic": lambda: objectives.DiscretisedLogisticLikelihood(bits, edges),
        "discretised_gaussian": lambda: objectives.DiscretisedGaussianLikelihood(bits),
        "logistic_mixture": lambda: objectives.LogisticMixtureLikelihood(mixtures, bits, edges),
    }
    return kinds[name]()


def binarisation_of(chosen: str, likelihood: str) -> str:
    """How pixels are made binary: as chosen, where "auto" draws those of Bernoulli likelihoods anew."""
    if chosen != "auto":
        return chosen
    return "dynamic" if likelihood == "bernoulli" else "none"


def drawings(binarisation: str) -> int:
    """How often the bits of test images are drawn: one drawing moves the bound of 500 digits by 0.25 nats."""
    return 8 if binarisation == "dynamic" else 1


def compile_bound(
    model: nn.Module, likelihood: objectives.Likelihood, binarisation: str, draw: Any = None
) -> Any:
    """The bound of a network for `evaluators.mean_bounds`; `draw` as `objectives.evaluate_bound` takes it."""
    encode, decode = bind(model, "encode"), bind(model, "decode")
    bound = functools.partial(objectives.evaluate_bound, encode, decode, likelihood, draw=draw)
    return evaluators.compile_bound(bound, binarisation=binarisation)
