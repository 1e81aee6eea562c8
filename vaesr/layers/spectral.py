"""Spectral normalisation: weights divided by their largest singular value, found by power iteration."""

import jax
import jax.numpy as jnp
from flax import linen as nn

_EPSILON = 1e-12
_HIGHEST = jax.lax.Precision.HIGHEST


def spectral_normalise(kernel: jax.Array, u: jax.Array, *, steps: int = 1) -> tuple[jax.Array, jax.Array]:
    """Divide a kernel by an estimate of its largest singular value, as a matrix from inputs to outputs.

    Each step of the power iteration sets v = W u / |W u| and u = Wᵀ v / |Wᵀ v|; the estimate is vᵀ W u. The
    gradient takes u and v as constants, as the paper does.

    Args:
        kernel: float32 `[..., F]`, the outputs in the last axis.
        u: float32 `[F]`, the direction found so far.
        steps: of the power iteration, at least 0. With 0 the direction stays what it is.

    Returns:
        The kernel divided, and the new direction.

    Raises:
        ValueError: if `u` has not one number an output.

    Source: Miyato et al. 2018, "Spectral normalization for generative adversarial networks", algorithm 1.
    """
    if u.shape != kernel.shape[-1:]:
        raise ValueError(f"u has shape {u.shape}; expected [{kernel.shape[-1]}], one number an output.")
    matrix = kernel.reshape(-1, kernel.shape[-1])
    still = jax.lax.stop_gradient(matrix)

    def normalise(x: jax.Array) -> jax.Array:
        return x / jnp.maximum(jnp.linalg.norm(x), _EPSILON)

    for _ in range(steps):
        v = normalise(jnp.dot(still, u, precision=_HIGHEST))
        u = normalise(jnp.dot(v, still, precision=_HIGHEST))
    v = normalise(jnp.dot(still, u, precision=_HIGHEST)) if steps == 0 else v
    # Outer products in place of vᵀ W u: its gradient by W is exactly v uᵀ either way.
    largest = jnp.dot(jnp.dot(v, matrix, precision=_HIGHEST), u, precision=_HIGHEST)
    return kernel / largest, u


class SpectralNorm(nn.Module):
    """`spectral_normalise` with its direction kept in the collection "spectral" under the name `u`."""

    @nn.compact
    def __call__(self, kernel: jax.Array, train: bool = False) -> jax.Array:
        """Map a kernel `[..., F]` to the same shape; `train` takes one step and keeps its direction."""

        def start() -> jax.Array:
            u = jax.random.normal(self.make_rng("params"), kernel.shape[-1:])
            return u / jnp.linalg.norm(u)

        u = self.variable("spectral", "u", start)
        moving = train and self.is_mutable_collection("spectral")
        normalised, new = spectral_normalise(kernel, u.value, steps=int(moving))
        if moving:
            u.value = new
        return normalised
