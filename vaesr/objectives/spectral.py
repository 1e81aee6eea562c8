"""A penalty on the largest singular values of a network's kernels, and on its normalisations' scales."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vaesr.objectives.objective import Aux, Batch, Objective, Params, own_params, own_variables

VECTORS = "spectral"
"""The name of the singular vectors among a player's variables."""

Kernels = Callable[[Any], Mapping[str, jax.Array]]
_Vectors = Mapping[str, jax.Array]
_EPSILON = 1e-3
_HIGHEST = jax.lax.Precision.HIGHEST


def start_spectral(kernels: Mapping[str, jax.Array], *, key: jax.Array, rounds: int = 40) -> _Vectors:
    """Find the singular vectors that a training begins with.

    Args:
        kernels: `[..., F]` each, the outputs in the last axis, by name.
        key: one random key, of the directions that the power iteration starts from.
        rounds: of the power iteration.

    Returns:
        A vector over the outputs for each kernel, `[n, F]` for n kernels of one shape as matrices, by that
        shape: what belongs under `VECTORS` among the player's variables.
    """
    stacks = _stack(kernels)
    starts = {
        shape: jax.random.normal(jax.random.fold_in(key, i), (matrices.shape[0], matrices.shape[2]))
        for i, (shape, matrices) in enumerate(sorted(stacks.items()))
    }
    return {name: _iterate(stacks[name], starts[name], rounds)[0] for name in stacks}


def spectral_norms(
    kernels: Mapping[str, jax.Array], vectors: _Vectors, *, rounds: int = 4
) -> tuple[jax.Array, _Vectors]:
    """Estimate the largest singular value of each kernel, as a matrix from inputs to outputs.

    Kernels of one shape as matrices are stacked, so that a network of hundreds takes a few batched products.
    The gradient takes the singular vectors as constants.

    Args:
        kernels: `[..., F]` each, the outputs in the last axis, by name.
        vectors: what `start_spectral` or an earlier call found.
        rounds: of the power iteration from there, at least 1.

    Returns:
        The values of all kernels `[N]`, those of one shape together, at least float32; and the new vectors.

    Raises:
        ValueError: if `rounds` is below 1 or the vectors are not those of these kernels.

    Source: Vahdat and Kautz 2020 (NVAE), section 3.3; Yoshida and Miyato 2017, algorithm 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}.")
    stacks = _stack(kernels)
    shapes = {name: (stack.shape[0], stack.shape[2]) for name, stack in stacks.items()}
    if {name: vector.shape for name, vector in vectors.items()} != shapes:
        raise ValueError(f"vectors must be [n, F] by shape {shapes}, got {jax.tree.map(jnp.shape, vectors)}.")
    values, new = [], {}
    for name, matrices in stacks.items():
        new[name], v = _iterate(jax.lax.stop_gradient(matrices), vectors[name], rounds)
        through = jnp.einsum("nrf,nf->nr", matrices, new[name], precision=_HIGHEST)
        values.append((v * through).sum(axis=1))
    return jnp.concatenate(values), new


def spectrally_regularised(
    objective: Objective,
    kernels: Kernels,
    scales: Kernels,
    *,
    player: str,
    weight: float | Callable[[jax.Array], Any] = 0.01,
    rounds: int = 4,
) -> Objective:
    """Add the largest singular values of all kernels to an objective's loss, and every normalisation's.

    Args:
        objective: what is regularised.
        kernels: `kernels(params[player])` gives `[..., F]` each, by name.
        scales: `scales(params[player])` gives the normalisations' scales `[C]`, by name.
        player: the name of the parameters in `params`, whose variables hold the vectors of `start_spectral`
            under `VECTORS`.
        weight: of the sum of both: a float, or a function of the step.
        rounds: of the power iteration, each step.

    Returns:
        An `Objective` with the loss plus `weight * (Σ largest singular value + Σ max |scale|)`; its metrics
        have these sums as `spectral_norms` and `norm_scales`, and the `spectral_weight`.

    Source: Vahdat and Kautz 2020 (NVAE), section 3.3 and appendix A.
    """

    def regularised(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        loss, aux = objective(params, variables, batch, key=key, step=step)
        own = own_params(params, player)
        vectors = own_variables(variables, player)[VECTORS]
        values, new = spectral_norms(kernels(own), vectors, rounds=rounds)
        total = values.sum()
        largest = jnp.stack([jnp.abs(scale).max() for scale in scales(own).values()]).sum()
        factor = jnp.asarray(weight(step) if callable(weight) else weight, jnp.float32)
        found = {**own_variables(aux.variables, player), VECTORS: new}
        metrics = {"spectral_norms": total, "norm_scales": largest, "spectral_weight": factor}
        return loss + factor * (total + largest), aux._replace(
            metrics=aux.metrics | metrics, variables={**aux.variables, player: found}
        )

    return regularised


def _stack(kernels: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Matrices `[n, inputs, outputs]` of one shape each, by that shape."""
    by_shape: dict[str, list[jax.Array]] = {}
    for name in sorted(kernels):
        matrix = kernels[name].reshape(-1, kernels[name].shape[-1])
        by_shape.setdefault("x".join(map(str, matrix.shape)), []).append(matrix)
    return {shape: jnp.stack(by_shape[shape]) for shape in sorted(by_shape)}


def _iterate(matrices: jax.Array, u: jax.Array, rounds: int) -> tuple[jax.Array, jax.Array]:
    """Singular vectors of the outputs `[n, F]` and the inputs `[n, R]` after some rounds."""

    def normalise(x: jax.Array) -> jax.Array:
        return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), _EPSILON)

    def one(_: Any, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        v = normalise(jnp.einsum("nrf,nf->nr", matrices, found[0], precision=_HIGHEST))
        return normalise(jnp.einsum("nrf,nr->nf", matrices, v, precision=_HIGHEST)), v

    start = u.astype(matrices.dtype), jnp.zeros(matrices.shape[:2], matrices.dtype)
    return jax.lax.fori_loop(0, rounds, one, start)
