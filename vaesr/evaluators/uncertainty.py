"""Predictions of networks with uncertain weights over a whole split, their scores, and foreign images."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from vaesr import data, metrics
from vaesr.data.evaluation import evenly_spread
from vaesr.evaluators.means import means_with_errors
from vaesr.imaging import imresize, rgb_to_y, to_float

Predict = Callable[..., jax.Array]
"""`(params, images [B, ...], position [B]) -> log-probabilities [R, B, K]` of R members.

Where members are drawn, a fourth argument says which draws, from 0.
"""


class Members(NamedTuple):
    """What the members of a method predict for a set of images.

    `log_probs` are `[R, N, K]` float32 log-probabilities of R members: samples of the weights, networks of an
    ensemble, dropout masks; R is 1 for one network. `labels` are `[N]` int32, or None.
    """

    log_probs: np.ndarray
    labels: np.ndarray | None

    @property
    def mean(self) -> np.ndarray:
        """`[N, K]` logarithms of the averaged probabilities."""
        return np.asarray(metrics.average_prediction(self.log_probs))

    def only(self, count: int) -> "Members":
        """The first members, `count` of them, at least 1."""
        return self._replace(log_probs=self.log_probs[:count])


def predict_split(
    predict: Predict,
    params: Any,
    bank: data.Bank,
    split: str,
    *,
    batch_size: int = 500,
    limit: int | None = None,
) -> Members:
    """Predicts the classes of every image of a labelled split, in the bank's order.

    `predict`, compiled, maps `(params, images, position)` to `[R, B, K]`. At most `limit` images, spread
    evenly over the split; None is all.
    """
    if bank.labels is None:
        raise ValueError(f"data source {bank.spec!r} has no labels; classification needs them")
    parts, labels = [], []
    for number, batch in enumerate(data.evaluation_batches(bank, split, batch_size, limit=limit)):
        count = int(batch["mask"].sum())
        position = number * batch_size + np.arange(batch_size, dtype=np.int32)
        parts.append(np.asarray(predict(params, batch["image"], position))[:, :count])
        labels.append(batch["label"][:count])
    return Members(np.concatenate(parts, axis=1), np.concatenate(labels))


def predict_images(predict: Predict, params: Any, images: np.ndarray, *, batch_size: int = 500) -> Members:
    """Predicts the classes of images in memory, `[N, H, W, C]` float32 in [0, 1]; without labels.

    `predict`, compiled, maps `(params, images, position)` to `[R, B, K]`; the last batch is padded to
    `batch_size`.
    """
    parts = []
    for first in range(0, len(images), batch_size):
        part = images[first : first + batch_size]
        padded = np.pad(part, [(0, batch_size - len(part))] + [(0, 0)] * (images.ndim - 1), mode="edge")
        position = first + np.arange(batch_size, dtype=np.int32)
        parts.append(np.asarray(predict(params, padded, position))[:, : len(part)])
    return Members(np.concatenate(parts, axis=1), None)


def measure_members(members: Members) -> dict[str, float]:
    """Scores the averaged prediction over all examples.

    `error_percent`, `nll_nats` and `brier`, with their standard errors over images (see `means_with_errors`),
    and `ece` (15 bins of equal width).
    """
    if members.labels is None:
        raise ValueError("members must have labels to be scored, got None")
    log_probs, labels = members.mean, members.labels
    found = means_with_errors(
        {
            "error_percent": 100 * np.asarray(metrics.classification_error(log_probs, labels)),
            "nll_nats": metrics.label_nll(log_probs, labels),
            "brier": metrics.brier_score(log_probs, labels),
        }
    )
    return found | {"ece": float(metrics.expected_calibration_error(log_probs, labels))}


def detect_foreign(inside: Members, outside: Members) -> dict[str, float]:
    """Scores how well uncertainty tells foreign images (`outside`) from those like the training's.

    `ood_auroc`: the area under the ROC curve of the predictive entropy; with several members also
    `ood_auroc_mutual_information`.
    """
    foreign = np.arange(inside.log_probs.shape[1] + outside.log_probs.shape[1]) >= inside.log_probs.shape[1]
    entropy = np.concatenate([metrics.predictive_entropy(each.mean) for each in (inside, outside)])
    scores = {"ood_auroc": float(metrics.auroc(entropy, foreign))}
    if len(inside.log_probs) > 1:
        information = [metrics.mutual_information(each.log_probs) for each in (inside, outside)]
        scores["ood_auroc_mutual_information"] = float(metrics.auroc(np.concatenate(information), foreign))
    return scores


def foreign_images(spec: str, shape: tuple[int, int, int], *, limit: int = 2000) -> np.ndarray:
    """Reads images of another source's test split in a network's shape, as `[N, H, W, C]` float32 in [0, 1].

    Photographs are cut into patches of that size, images of one size are resized (MATLAB's bicubic), and
    colour becomes luma where the network takes one channel. `shape` is (height, width, channels); at most
    `limit` images, which is at least 1.
    """
    bank = data.open_bank(spec)
    if bank.channels != shape[2] and (bank.channels, shape[2]) != (3, 1):
        raise ValueError(
            f"data source {spec!r} has {bank.channels} channels and the network takes {shape[2]}: "
            "the two cannot be compared"
        )
    if bank.kind == "fixed":
        index = bank.split("test")
        images = np.asarray(to_float(bank.pixels[index[evenly_spread(len(index), limit)]]))
        if images.shape[1:3] != shape[:2]:
            images = np.clip(np.asarray(imresize(images, size=shape[:2])), 0, 1)
    else:
        patches = [patch for _, photo in data.photos(bank, "test") for patch in _patches(photo, shape[:2])]
        if not patches:
            raise ValueError(f"data source {spec!r} has no test photo of {shape[0]} x {shape[1]} or more")
        chosen = evenly_spread(len(patches), limit)
        images = np.asarray(to_float(np.stack([patches[i] for i in chosen])))
    if (bank.channels, shape[2]) == (3, 1):  # studio luma, stretched so that white is 1
        images = np.clip((np.asarray(rgb_to_y(images)) * 255 - 16) / 219, 0, 1).astype(np.float32)
    return images


def _patches(photo: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Patches that tile a photo, without what is left over at the right and the bottom."""
    height, width = size
    for top in range(0, photo.shape[0] - height + 1, height):
        for left in range(0, photo.shape[1] - width + 1, width):
            yield photo[top : top + height, left : left + width]
