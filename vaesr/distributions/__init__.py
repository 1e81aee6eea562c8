"""The few distributions that the models use: log-densities, reparameterised samples and closed-form KLs.

Log-densities and KLs are elementwise in nats; `vaesr.losses` sums them to one value per example.
"""

from vaesr.distributions.bernoulli import Bernoulli
from vaesr.distributions.keys import example_keys, example_normal, example_uniform
from vaesr.distributions.normal import Normal, kl_normal, kl_standard_normal

__all__ = [
    "Bernoulli",
    "Normal",
    "example_keys",
    "example_normal",
    "example_uniform",
    "kl_normal",
    "kl_standard_normal",
]
