"""Images from the priors of a run of two stages: code maps, the coarsest first, then the decoder."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaesr.data import smallest_integers
from vaesr.distributions import example_keys
from vaesr.evaluators.codes import level_names
from vaesr.inference.autoregressive import sample_codes
from vaesr.inference.batches import encode_in_batches, in_batches
from vaesr.models import CodeAutoencoder, CodePrior
from vaesr.runs.load import Run, load_run

_LEVEL_TAG = 0x1E7E1


def prior_folders(path: pathlib.Path, levels: int) -> tuple[pathlib.Path, ...]:
    """Where a run of two stages keeps its priors.

    Args:
        path: the run folder.
        levels: of the autoencoder.

    Returns:
        A folder per level, the coarsest first: "prior", or "prior_top" to "prior_bottom".
    """
    if levels == 1:
        return (path / "prior",)
    return tuple(path / f"prior_{name}" for name in level_names(levels))


def load_priors(run: Run) -> tuple[Run, ...]:
    """Read the priors that were trained on a run's codes.

    Args:
        run: a vector-quantised autoencoder's.

    Returns:
        The priors' runs, the coarsest level's first.

    Raises:
        ValueError: if the run's model has no code maps, or what should be a prior is another network.
        FileNotFoundError: if a prior is missing, with what to do.
    """
    if not isinstance(run.model, CodeAutoencoder):
        raise ValueError(f"{run.path} holds the network {type(run.model).__name__}, which has no code maps")
    try:
        priors = tuple(load_run(path) for path in prior_folders(run.path, len(run.model.code_shapes)))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{run.path} has no finished prior to sample from ({error}); --resume of its experiment trains it"
        ) from None
    for prior in priors:
        if not isinstance(prior.model, CodePrior):
            raise ValueError(
                f"{prior.path} holds the network {type(prior.model).__name__}, which is no prior of codes"
            )
    return priors


def sample_code_maps(
    priors: Sequence[Run],
    count: int,
    *,
    seed: int = 0,
    labels: np.ndarray | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    batch_size: int = 64,
) -> tuple[np.ndarray, ...]:
    """Draw code maps: the coarsest level from its prior, then each level given those above.

    Args:
        priors: from `load_priors`.
        count: how many, at least 1.
        seed: the k-th sample depends on the seed, its label and k alone.
        labels: `[count]` classes, for priors that know classes; None where they don't.
        temperature: of the softmax, above 0; below 1 the likelier codes come more often still.
        top_k: draw from the k likeliest codes only; 0 from all.
        batch_size: images at a time.

    Returns:
        `[count, h, w]` int32 per level, the coarsest first.

    Raises:
        ValueError: if a knob is out of range, or labels and priors don't fit.
    """
    if count < 1 or batch_size < 1:
        raise ValueError(f"count and batch_size must be at least 1, got {count} and {batch_size}")
    if labels is not None and len(labels) != count:
        raise ValueError(f"labels must be [{count}], one per sample, got {np.shape(labels)}")

    def draw(index: np.ndarray) -> tuple[jax.Array, ...]:
        maps: tuple[jax.Array, ...] = ()
        for number, prior in enumerate(priors):
            key = jax.random.fold_in(jax.random.key(seed), _LEVEL_TAG + number)
            given = None if labels is None or not prior.model.classes else labels[index]
            drawn = sample_codes(
                prior.model, prior.params[prior.player], example_keys(key, jnp.asarray(index)),
                label=None if given is None else jnp.asarray(given, jnp.int32),
                condition=maps, temperature=temperature, top_k=top_k,
            )  # fmt: skip
            maps = (*maps, drawn)
        return maps

    return tuple(in_batches(draw, [np.arange(count)], batch_size))


def decode_maps(run: Run, codes: Sequence[np.ndarray], *, keep: int | None = None) -> np.ndarray:
    """Turn code maps into images.

    Args:
        run: a vector-quantised autoencoder's.
        codes: `[N, h, w]` integers per level, the coarsest first.
        keep: decode the `keep` coarsest levels alone; None is all.

    Returns:
        `[N, H, W, C]` float32 in [0, 1].

    Raises:
        ValueError: if the codes don't fit the model.
    """
    shapes = tuple(tuple(shape) for shape in run.model.code_shapes)
    found = tuple(np.shape(level)[1:] for level in codes)
    if found != shapes or len({len(level) for level in codes}) != 1:
        raise ValueError(f"code maps must be [N, {shapes}] per level for this model, got {found}")
    count = run.model.code_count
    if any(level.min() < 0 or level.max() >= count for level in codes):
        raise ValueError(f"codes must lie in [0, {count}) for this model")

    def decode(*maps: np.ndarray) -> list[Any]:
        return [run.apply(tuple(jnp.asarray(m, jnp.int32) for m in maps), method="decode", keep=keep)]

    (images,) = in_batches(decode, codes, 256)
    return np.clip(images.astype(np.float32), 0.0, 1.0)


def encode_maps(run: Run, images: np.ndarray, *, batch_size: int = 256) -> tuple[np.ndarray, ...]:
    """Turn images into code maps.

    Args:
        run: a vector-quantised autoencoder's.
        images: `[N, H, W, C]` of the model's shape; floats in [0, 1] or uint8 (a memory map is read batch by
            batch).
        batch_size: images at a time.

    Returns:
        `[N, h, w]` integers per level, the coarsest first, of the smallest type that holds them.

    Raises:
        ValueError: if the images don't fit the model.
    """
    codes = encode_in_batches(run, images, batch_size)
    return tuple(level.astype(smallest_integers(run.model.code_count)) for level in codes)


def sample_images(
    run: Run,
    count: int,
    *,
    seed: int = 0,
    label: int | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    priors: Sequence[Run] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Draw images from a run of two stages.

    Args:
        run: a vector-quantised autoencoder's, whose folder holds trained priors.
        count: how many, at least 1.
        seed: the k-th image depends on the seed, its class and k alone.
        label: the class of all images; None takes the classes in turn where the priors know them.
        temperature: of the priors' softmax, above 0.
        top_k: draw from the k likeliest codes only; 0 from all.
        priors: from `load_priors`; read if None.

    Returns:
        `[count, H, W, C]` float32 in [0, 1], and the classes `[count]` or None.

    Raises:
        ValueError: if a knob is out of range, or a class is asked of priors that know none.
        FileNotFoundError: if a prior is missing.
    """
    priors = load_priors(run) if priors is None else priors
    labels = choose_labels(priors, count, label)
    codes = sample_code_maps(priors, count, seed=seed, labels=labels, temperature=temperature, top_k=top_k)
    return decode_maps(run, codes), labels


def choose_labels(priors: Sequence[Run], count: int, label: int | None) -> np.ndarray | None:
    """The classes of samples: one for all, or all in turn.

    Args:
        priors: from `load_priors`.
        count: how many samples.
        label: a class, or None.

    Returns:
        `[count]` int32, or None where the priors know no classes.

    Raises:
        ValueError: if the class is none of the priors'.
    """
    classes = getattr(priors[0].model, "classes", None) or 0
    if label is not None and not 0 <= label < classes:
        known = f"0 to {classes - 1}" if classes else "none: the priors were trained without"
        raise ValueError(f"label must be one of the priors' classes ({known}), got {label}")
    if not classes:
        return None
    return (
        np.full(count, label, np.int32) if label is not None else np.arange(count, dtype=np.int32) % classes
    )


def reject_samples(
    images: np.ndarray, labels: np.ndarray, log_probs: Callable[[np.ndarray], np.ndarray], keep: float
) -> np.ndarray:
    """Choose the samples of which a classifier is surest that they show their class.

    Args:
        images: `[N, H, W, C]` samples.
        labels: `[N]` classes that they were drawn for.
        log_probs: `images -> [N, K]` log-probabilities of the classes.
        keep: the share of each class to keep, in (0, 1].

    Returns:
        Indices of the kept samples, in their order; of each class the best `ceil(keep * n)`.

    Raises:
        ValueError: if `keep` is out of range.

    Source:
        Razavi et al. 2019 (VQ-VAE-2), section 3.3.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must lie in (0, 1], got {keep}")
    scores = np.asarray(log_probs(images))[np.arange(len(labels)), labels]
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        best = members[np.argsort(-scores[members], kind="stable")]
        chosen.append(best[: int(np.ceil(keep * len(members)))])
    return np.sort(np.concatenate(chosen))
