"""Log-probabilities of the bins of discretised distributions, exact in both tails.

A bin is one of the 2^bits grey levels of an image. All arithmetic is in units of a level, where the edges
`level ± 1/2` are exact numbers: neighbouring bins share their edge to the last bit, and the masses of all
bins sum to 1 in float32 however narrow the distribution.
"""

import math

import jax
import jax.numpy as jnp

from vaesr.distributions.casting import at_least_float32
from vaesr.distributions.logistic import softplus

EDGES = ("exact", "nvae")
_LEAST_LOG_MASS = math.log(1e-5)
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def check_bins(bits: int, edges: str = "exact") -> None:
    """Refuse, with a ValueError, bits per channel outside 1 to 16, and edges that are none of `EDGES`."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise ValueError(f"bits must be an integer from 1 to 16, got {bits!r}.")
    if edges not in EDGES:
        raise ValueError(f"edges must be one of {', '.join(EDGES)}, got {edges!r}.")


def to_level(value: jax.Array, bits: int) -> jax.Array:
    """Round values in [0, 1] (clipped) to the nearest grey level, a whole number to 2^bits - 1, float32."""
    top = 2**bits - 1
    return jnp.floor(jnp.clip(at_least_float32(value), 0.0, 1.0) * top + 0.5)


def logistic_log_mass(
    mean: jax.Array, log_scale: jax.Array, level: jax.Array, *, bits: int, edges: str
) -> jax.Array:
    """Give the log-probability of grey levels under discretised logistics, nats, float32; all of one shape.

    `level` is of `to_level`; `mean` and `log_scale` (a natural logarithm) are on the scale on which the
    levels span [-1, 1]. The first and the last bin reach to infinity; with `edges` "nvae" so does every level
    above 0.99, and a mass below 1e-5 is the density at the bin's centre times its width.

    Source: Kingma et al. 2016, appendix; Salimans et al. 2017 (PixelCNN++), equation 2, and their code.
    """
    centre, inverse, log_inverse = _in_levels(mean, log_scale, level, bits)
    upper, lower = (centre + 0.5) * inverse, (centre - 0.5) * inverse
    # σ(u) - σ(l) = σ(u) σ(-l) (1 - exp(l - u)): no difference of nearly equal numbers anywhere.
    below, above = -softplus(-upper), -softplus(lower)
    interior = below + above + _log1m_exp_exp(log_inverse)
    if edges == "nvae":
        unit = centre * inverse
        by_density = log_inverse - unit - 2.0 * softplus(-unit)
        interior = jnp.where(interior > _LEAST_LOG_MASS, interior, by_density)
    return jnp.where(level < 0.5, below, jnp.where(_is_open(level, bits, edges), above, interior))


def normal_log_mass(mean: jax.Array, log_scale: jax.Array, level: jax.Array, *, bits: int) -> jax.Array:
    """As `logistic_log_mass`, under discretised normals; the scales are standard deviations.

    Source: Ho et al. 2020, equation 13.
    """
    centre, inverse, log_inverse = _in_levels(mean, log_scale, level, bits)
    first, last = level < 0.5, _is_open(level, bits, "exact")
    tail = _log_ndtr(jnp.where(first, centre + 0.5, 0.5 - centre) * inverse)
    return jnp.where(first | last, tail, _normal_interval(jnp.abs(centre), inverse, log_inverse))


def _in_levels(
    mean: jax.Array, log_scale: jax.Array, level: jax.Array, bits: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The level minus the mean, and one over the scale with its logarithm, in units of a level."""
    half_range = (2**bits - 1) / 2.0
    log_inverse = -(log_scale + math.log(half_range))
    return level - (mean + 1.0) * half_range, jnp.exp(log_inverse), log_inverse


def _is_open(level: jax.Array, bits: int, edges: str) -> jax.Array:
    """Which levels reach to plus infinity."""
    top = 2**bits - 1
    # NVAE tests `x > 0.99` on [-1, 1]: of 8-bit images the last two levels pass.
    return level > (0.995 * top if edges == "nvae" else top - 0.5)


def _log1m_exp_exp(a: jax.Array) -> jax.Array:
    """`log(1 - exp(-w))` of `w = exp(a)`; below a = -15 it is a to seven digits, above 5 it is 0."""
    w = jnp.exp(jnp.clip(a, -15.0, 5.0))
    return jnp.log(-jnp.expm1(-w)) + jnp.minimum(a + 15.0, 0.0)


def _normal_interval(m: jax.Array, w: jax.Array, log_w: jax.Array) -> jax.Array:
    """`log(Φ(b) - Φ(a))` of a = (m - 1/2) w and b = (m + 1/2) w, for m >= 0 and w > 0.

    Three forms, none of which subtracts nearly equal numbers; each gets harmless arguments where another
    is chosen, so that the unused gradients are finite.
    """
    narrow = w * (m * w + 1.0) < 0.1
    inside = ~narrow & (m < 0.5)
    tail = ~narrow & ~inside

    # A narrow bin: the density at its centre times its width, and two more terms of the series.
    w1, z2 = jnp.where(narrow, w, 0.0), jnp.square(jnp.where(narrow, m * w, 0.0))
    series = w1**2 * (z2 - 1.0) / 24.0 + w1**4 * (z2 * z2 - 6.0 * z2 + 3.0) / 1920.0
    by_series = -_HALF_LOG_TWO_PI - 0.5 * z2 + jnp.where(narrow, log_w, 0.0) + jnp.log1p(series)

    # A wide bin around the mean: a sum of two positive parts.
    m2, w2 = jnp.where(inside, m, 0.0), jnp.where(inside, w, 1.0) * math.sqrt(0.5)
    by_erf = jnp.log(0.5 * (jax.lax.erf((0.5 + m2) * w2) + jax.lax.erf((0.5 - m2) * w2)))

    # A wide bin beside the mean: Q(a) - Q(b), Q(x) = φ(x) M(x), with (b² - a²) / 2 = m w².
    m3, w3 = jnp.where(tail, m, 1.0), jnp.where(tail, w, 1.0)
    a, log_mills = (m3 - 0.5) * w3, _log_mills((m3 - 0.5) * w3)
    log_ratio = m3 * w3 * w3 + log_mills - _log_mills((m3 + 0.5) * w3)
    by_mills = -_HALF_LOG_TWO_PI - 0.5 * a * a + log_mills + jnp.log(-jnp.expm1(-log_ratio))
    return jnp.where(narrow, by_series, jnp.where(inside, by_erf, by_mills))


def _log_ndtr(x: jax.Array) -> jax.Array:
    """`log Φ(x)`; unlike JAX's own, its gradient stays right below x = -500 in float32."""
    left = jnp.minimum(x, 0.0)
    below = -_HALF_LOG_TWO_PI - 0.5 * left * left + _log_mills(-left)
    above = jnp.log1p(-0.5 * jax.lax.erfc(jnp.maximum(x, 0.0) * math.sqrt(0.5)))
    return jnp.where(x < 0, below, above)


def _log_mills(x: jax.Array) -> jax.Array:
    """The logarithm of Mills' ratio `(1 - Φ(x)) / φ(x)`, for x >= 0."""
    far = x > 8.0
    near = jnp.where(far, 1.0, x)
    direct = jnp.log(0.5 * jax.lax.erfc(near * math.sqrt(0.5))) + 0.5 * near * near + _HALF_LOG_TWO_PI
    r = jnp.square(1.0 / jnp.where(far, x, 8.0))
    # The asymptotic series; from x = 8 on its next term is below 3e-8.
    series = r * (-1.0 + r * (3.0 + r * (-15.0 + r * (105.0 + r * (-945.0 + r * 10395.0)))))
    return jnp.where(far, 0.5 * jnp.log(r) + jnp.log1p(series), direct)
