"""What the groups of latents of a deep VAE carry, and whether its samples are copies of training images."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaesr import reports
from vaesr.data import Bank
from vaesr.distributions import example_keys
from vaesr.evaluators.bounds import measured_images, split_batches

_SEED = 1
_ACTIVE_NATS = 0.01  # a group counts as used above this mean KL
_NEAREST = 4


def compile_group_kl(
    draw: Callable[..., tuple[Any, ...]], *, binarisation: str
) -> Callable[[Any, Any], jax.Array]:
    """Compiles `measure(weights, batch) -> [B, G]` nats for `group_kls`.

    `draw(weights, images, keys, indices)` gives the KL of each group `[S, B, G]` as its third result; for the
    binarisation see `objectives.binarise_batch`.
    """

    @jax.jit
    def measure(weights: Any, batch: dict[str, jax.Array]) -> jax.Array:
        images = measured_images(batch, binarisation=binarisation)
        keys = example_keys(jax.random.key(_SEED), batch["position"])
        return draw(weights, images, keys, jnp.arange(1))[2].mean(axis=0)

    return measure


def group_kls(bank: Bank, measure: Any, weights: Any, split: str, *, limit: int | None = None) -> np.ndarray:
    """The KL of each group of latents `[G]`, nats, averaged over a split, by what `compile_group_kl` made."""
    found = [
        np.asarray(measure(weights, batch))[np.asarray(batch["mask"], bool)]
        for batch in split_batches(bank, split, limit=limit)
    ]
    return np.concatenate(found).mean(axis=0)


def count_active(kls: np.ndarray) -> int:
    """How many groups carry information: more than 0.01 nats."""
    return int((kls > _ACTIVE_NATS).sum())


def save_group_figure(path: pathlib.Path, kls: np.ndarray, sides: list[int], *, of_images: str) -> None:
    """Draws the KL `[G]` of each group, coarsest first; `sides` are those of its latent maps, likewise."""
    bars = reports.group_activity(kls, [f"{side}x{side}" for side in sides], threshold=_ACTIVE_NATS)
    caption = f"What each group of latents carries of {of_images}, by the size of its maps."
    reports.save_image(path, bars, caption=caption)


def nearest(
    queries: np.ndarray,
    bank: Bank,
    *,
    split: str = "train",
    features: Callable[[jax.Array], jax.Array] | None = None,
    count: int = _NEAREST,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the images of a split that are nearest to others.

    `queries` are `[N, H, W, C]` in [0, 1]; the Euclidean distance is of pixels, or of `features`, which maps
    images `[B, H, W, C]` to `[B, ...]`. Returns the images `[N, count, H, W, C]` float32, nearest first, and
    their distances `[N, count]`.
    """

    @jax.jit
    def embed(images: jax.Array) -> jax.Array:
        found = images if features is None else features(images)
        return found.reshape(found.shape[0], -1).astype(jnp.float32)

    @jax.jit
    def distances(of_queries: jax.Array, images: jax.Array) -> jax.Array:
        found = embed(images)
        products = jnp.dot(of_queries, found.T, precision=jax.lax.Precision.HIGHEST)
        lengths = jnp.square(of_queries).sum(axis=1)[:, None] + jnp.square(found).sum(axis=1)[None]
        return jnp.sqrt(jnp.maximum(lengths - 2 * products, 0.0))

    of_queries = embed(jnp.asarray(queries, jnp.float32))
    found, places = [], []
    for batch in split_batches(bank, split):
        held = np.asarray(batch["mask"], bool)
        found.append(np.asarray(distances(of_queries, batch["image"]))[:, held])
        places.append(batch["index"][held])
    every, index = np.concatenate(found, axis=1), np.concatenate(places)
    order = np.argsort(every, axis=1, kind="stable")[:, :count]
    images = bank.pixels[index[order].ravel()].astype(np.float32) / np.float32(255)
    return images.reshape(*order.shape, *images.shape[1:]), np.take_along_axis(every, order, axis=1)


def save_neighbours(
    path: pathlib.Path,
    samples: np.ndarray,
    bank: Bank,
    features: Callable[[jax.Array], jax.Array],
    *,
    what: str,
) -> None:
    """Draws samples `[N, H, W, C]` beside the training images nearest to them, by pixels and by features.

    `what` says what the features are, for the caption.
    """
    by_pixels, _ = nearest(samples, bank)
    by_features, _ = nearest(samples, bank, features=features)
    rows = [
        image
        for sample, *both in zip(samples, by_pixels, by_features, strict=True)
        for image in (sample, *both[0], *both[1])
    ]
    labels = ["sample", *(f"pixels {i + 1}" for i in range(by_pixels.shape[1]))]
    labels += [f"features {i + 1}" for i in range(by_features.shape[1])]
    grid = reports.labelled_grid(np.stack(rows), columns=len(labels), column_labels=labels)
    caption = (
        f"Samples, and the training images nearest to each: by pixels, and by {what}. A network that had "
        "learned them by heart would show one of them again."
    )
    reports.save_image(path, grid, caption=caption)
