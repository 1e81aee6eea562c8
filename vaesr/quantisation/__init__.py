"""Vectors into codes and back: nearest codes, codebooks by moving averages, finite scalars, gradients."""

from vaesr.quantisation.assign import code_statistics, lookup_codes, nearest_codes
from vaesr.quantisation.codebook import (
    CodebookState,
    ema_update,
    gather_vectors,
    kmeans,
    perplexity,
    random_vectors,
    revive_codes,
    usage,
)
from vaesr.quantisation.gradients import rotate_to, straight_through
from vaesr.quantisation.scalar import code_count, finite_scalar, finite_scalar_values

__all__ = [
    "CodebookState",
    "code_count",
    "code_statistics",
    "ema_update",
    "finite_scalar",
    "finite_scalar_values",
    "gather_vectors",
    "kmeans",
    "lookup_codes",
    "nearest_codes",
    "perplexity",
    "random_vectors",
    "revive_codes",
    "rotate_to",
    "straight_through",
    "usage",
]
