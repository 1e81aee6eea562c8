"""What codes and images cost in bits: under a prior, under simpler codes, and given the codes."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaesr import data, losses, objectives
from vaesr.data.evaluation import evaluation_batch_size, evenly_spread

_BATCH = 250


class CodeBits:
    """The bits that a prior spends on codes.

    `apply(params, codes [B, h, w], label=, condition=) -> logits [B, h, w, K]`.
    """

    def __init__(self, apply: Callable[..., jax.Array]) -> None:
        def nats(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
            batch = {name: jnp.asarray(array, jnp.int32) for name, array in batch.items()}
            logits = apply(params, batch["codes"], **objectives.conditions(batch))
            return losses.categorical_nll(logits, batch["codes"])

        self._nats = jax.jit(nats)

    def per_code(
        self, params: Any, arrays: Mapping[str, np.ndarray], *, limit: int | None = None
    ) -> np.ndarray:
        """Bits per code of every example, `[n]`, of `{"codes": [n, h, w], ...}`, see `objectives.conditions`.

        At most `limit` examples, spread evenly; None is all.
        """
        chosen = evenly_spread(len(arrays["codes"]), limit)
        count = len(chosen)
        size, nats = min(_BATCH, count), []
        for first in range(0, count, size):
            places = np.minimum(first + np.arange(size), count - 1)
            batch = {name: np.asarray(array[chosen[places]]) for name, array in arrays.items()}
            nats.append(np.asarray(self._nats(params, batch), np.float64)[: count - first])
        return np.concatenate(nats) / math.log(2) / math.prod(arrays["codes"].shape[1:])


def unigram_bits(codes: np.ndarray, count: int) -> Callable[[np.ndarray], np.ndarray]:
    """The code length of the best code that knows how often each code occurs, and nothing else.

    Of training codes of any shape, with `count` in the codebook. Returns `codes [n, ...] -> [n]`: bits per
    code of every example, by training frequencies with one added to every count.
    """
    counts = np.bincount(np.asarray(codes).ravel(), minlength=count) + 1.0
    lengths = -np.log2(counts / counts.sum())
    return lambda held_out: lengths[np.asarray(held_out)].reshape(len(held_out), -1).mean(axis=1)


def pixel_bits(bank: data.Bank, reconstruct: Callable[[np.ndarray], jax.Array]) -> np.ndarray:
    """The bits of 8-bit test images given their codes, with noise of one scale fitted on validation images.

    `reconstruct`, compiled, maps `images [B, H, W, C] in [0, 1]`, always as many, to means of the same
    shape. Returns the bits of every test image, `[n]`, under Gaussians cut into the 256 grey levels around
    the reconstruction.
    """
    squares = [
        np.square(np.asarray(reconstruct(batch["image"])) - batch["image"])[batch["mask"] > 0]
        for batch in data.evaluation_batches(bank, "validation", evaluation_batch_size(bank), limit=2000)
    ]
    # The papers' scale spans [-1, 1].
    log_scale = math.log(2.0 * math.sqrt(np.concatenate(squares).mean(dtype=np.float64)))

    @jax.jit
    def nats(means: jax.Array, images: jax.Array) -> jax.Array:
        return losses.discretised_gaussian_nll(2.0 * means - 1.0, log_scale, images)

    found = []
    for batch in data.evaluation_batches(bank, "test", evaluation_batch_size(bank)):
        held = batch["mask"] > 0
        found.append(np.asarray(nats(reconstruct(batch["image"]), batch["image"]), np.float64)[held])
    return np.concatenate(found) / math.log(2)
