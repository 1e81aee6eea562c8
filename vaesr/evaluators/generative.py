"""How far a network's samples are from images, as another network's features see both."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from vaesr import metrics
from vaesr.data import Bank
from vaesr.evaluators.bounds import split_batches

_LEAST = 2  # features of a set, for a covariance


def feature_distances(
    samples: Iterable[np.ndarray],
    bank: Bank,
    split: str,
    embed: Callable[[jax.Array], jax.Array],
    *,
    limit: int | None = None,
) -> dict[str, float]:
    """Fréchet and kernel distance of samples to the images of a split, at most `limit` of them.

    `samples` are batches `[B, H, W, C]` in [0, 1], as many images as the split in all; `embed` maps such a
    batch to features `[B, D]`. With InceptionV3's they are FID and KID. Returns `frechet_distance` and
    `kernel_distance`; nothing where there are fewer than two images.
    """
    made = np.concatenate([np.asarray(embed(jnp.asarray(batch, jnp.float32))) for batch in samples])
    real = np.concatenate([
        np.asarray(embed(jnp.asarray(batch["image"])))[np.asarray(batch["mask"], bool)]
        for batch in split_batches(bank, split, limit=limit)
    ])  # fmt: skip
    if min(len(made), len(real)) < _LEAST:
        return {}
    first, second = (metrics.feature_statistics(features) for features in (real, made))
    return {
        "frechet_distance": metrics.frechet_distance(first, second),
        "kernel_distance": float(metrics.kernel_distance(real, made, key=jax.random.key(0)).mean),
    }
