"""Variational autoencoders and super-resolution in JAX.

Import the part you need: `vaesr.losses`, `vaesr.metrics`, `vaesr.imaging`, `vaesr.distributions`,
`vaesr.models`, `vaesr.objectives`, `vaesr.training`, `vaesr.data`, `vaesr.inference`, `vaesr.reports`.
"""

__version__ = "0.1.0"
