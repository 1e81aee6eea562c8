"""The bounds and posteriors of a VAE over a split of a bank, with the same noise at every call."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from vaesr import objectives
from vaesr.data import Bank, evaluation_batches
from vaesr.data.evaluation import evaluation_batch_size
from vaesr.evaluators.means import means_with_errors

# Every evaluation draws the same noise, so that the numbers of two checkpoints compare.
_SEED = 1
# Samples decoded at a time: 50 of 28x28 pixels, fewer of larger images.
_CHUNK_PIXELS = 50 * 28 * 28


def split_batches(bank: Bank, split: str, *, limit: int | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Gives the batches of a split with the examples' numbers, on which their noise depends.

    They are those of `data.evaluation_batches`, at most `limit` examples (None: all), with `position` `[B]`
    int32.
    """
    size = evaluation_batch_size(bank)
    for number, batch in enumerate(evaluation_batches(bank, split, size, limit=limit)):
        batch["position"] = number * size + np.arange(size, dtype=np.int32)
        yield batch


def measured_images(batch: dict[str, Any], *, binarisation: str, drawing: Any = 0) -> jax.Array:
    """Gives the images `[B, H, W, C]` float32 of a batch of `split_batches`, of which every measurement is.

    For the binarisation see `objectives.binarise_batch`: "dynamic" draws the same bits every time, others for
    each number of a `drawing`.
    """
    key = jax.random.fold_in(jax.random.key(_SEED + drawing), 1)
    return objectives.binarise_batch(batch, binarisation=binarisation, key=key)


def compile_bound(
    bound: Callable[..., objectives.BoundEstimate],
    *,
    binarisation: str,
    chunk_pixels: int = _CHUNK_PIXELS,
) -> Callable[..., Any]:
    """Compiles a bound for `mean_bounds`, one compilation per number of samples.

    `bound` is `objectives.evaluate_bound`, its model and likelihood bound; for the binarisation see
    `objectives.binarise_batch`; at a time as many samples are decoded as have `chunk_pixels` pixels, or one.
    Returns `measure(params, batch, samples=K, drawing=0)`: `[B]` each, by the
    names of `BoundEstimate`; another drawing has other noise and, where they are drawn, other bits.
    """

    @functools.partial(jax.jit, static_argnames="samples")
    def measure(
        params: Any, batch: dict[str, jax.Array], *, samples: int, drawing: Any = 0
    ) -> dict[str, jax.Array]:
        key = jax.random.fold_in(jax.random.key(_SEED + drawing), 0)
        images = measured_images(batch, binarisation=binarisation, drawing=drawing)
        chunk = max(1, min(samples, chunk_pixels // math.prod(images.shape[1:])))
        estimate = bound(params, images, key=key, samples=samples, position=batch["position"], chunk=chunk)
        return dict(estimate._asdict())

    return measure


def bounds_of_images(
    bank: Bank,
    measure: Any,
    params: Any,
    split: str,
    *,
    samples: int,
    limit: int | None = None,
    drawings: int = 1,
) -> dict[str, np.ndarray]:
    """What `compile_bound` measures of every image of a split, averaged over drawings: `[..., N]` float64."""
    parts: dict[str, list[np.ndarray]] = {}
    for batch in split_batches(bank, split, limit=limit):
        held = np.asarray(batch["mask"], bool)
        drawn = [measure(params, batch, samples=samples, drawing=np.int32(i)) for i in range(drawings)]
        for name in drawn[0]:
            values = np.mean([np.asarray(one[name], np.float64) for one in drawn], axis=0)
            parts.setdefault(name, []).append(values[..., held])
    return {name: np.concatenate(values, axis=-1) for name, values in parts.items()}


def mean_bounds(
    bank: Bank,
    measure: Any,
    params: Any,
    split: str,
    *,
    samples: int,
    limit: int | None = None,
    drawings: int = 1,
    errors: bool = False,
) -> dict[str, float]:
    """Averages the bounds that `compile_bound` measures over a split.

    `samples`, at least 1, are of the importance-weighted bound; memory doesn't grow with them. Of images
    whose bits are drawn one drawing moves the mean: `drawings` are averaged for each image. Returns
    `elbo_nats`, `kl_nats`, `reconstruction_nats` and `bits_per_dim` (of the ELBO); with several samples also
    `bound_K_nats` and `effective_samples`; with `errors` the standard error over images of each, see
    `means_with_errors`.
    """
    found = bounds_of_images(bank, measure, params, split, samples=samples, limit=limit, drawings=drawings)
    pixels = math.prod(bank.pixels.shape[1:])
    shown = {name: found[name] for name in ("elbo_nats", "kl_nats", "reconstruction_nats")}
    shown["bits_per_dim"] = -found["elbo_nats"] / (pixels * math.log(2.0))
    if samples > 1:
        shown[f"bound_{samples}_nats"] = found["bound_nats"]
        shown["effective_samples"] = found["effective_samples"]
    return means_with_errors(shown) if errors else {name: float(v.mean()) for name, v in shown.items()}


def posteriors(
    bank: Bank, encode: Any, params: Any, split: str, *, binarisation: str, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a split: means and log-variances of q(z | x), `[N, latent]` both.

    `encode(params, images) -> (mean_q, log_var_q)` is compiled; for the binarisation see
    `objectives.binarise_batch`.
    """
    codes = []
    for batch in split_batches(bank, split, limit=limit):
        held = np.asarray(batch["mask"], bool)
        images = measured_images(batch, binarisation=binarisation)
        codes.append([np.asarray(part)[held] for part in encode(params, images)])
    mean_q, log_var_q = (np.concatenate(parts) for parts in zip(*codes, strict=True))
    return mean_q, log_var_q


def split_labels(bank: Bank, split: str, *, limit: int | None = None) -> np.ndarray | None:
    """Gives the labels `[N]` of the images that `posteriors` encodes, or None where the bank has none."""
    if bank.labels is None:
        return None
    batches = split_batches(bank, split, limit=limit)
    return np.concatenate([batch["label"][np.asarray(batch["mask"], bool)] for batch in batches])


def exact_pca_log_likelihood(bank: Bank, split: str, *, latent: int) -> float:
    """Computes the largest log-likelihood that probabilistic PCA reaches on a split.

    In nats per image, of a density, with `latent` dimensions, fewer than pixels. Source: Tipping and Bishop
    1999, equation 8.
    """
    batches = split_batches(bank, split)
    images = np.concatenate([batch["image"][np.asarray(batch["mask"], bool)] for batch in batches])
    x = images.reshape(len(images), -1).astype(np.float64)
    d = x.shape[1]
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    variance = eigenvalues[latent:].mean()
    log_determinant = np.log(eigenvalues[:latent]).sum() + (d - latent) * np.log(variance)
    return float(-0.5 * (d * np.log(2 * np.pi) + log_determinant + d))
