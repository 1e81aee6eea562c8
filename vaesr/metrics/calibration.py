"""How good predicted class probabilities are: error, likelihood, Brier score, calibration, uncertainty."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Array = jax.Array


class ReliabilityBins(NamedTuple):
    """What a reliability diagram shows, each array `[bins]` float32.

    Attributes:
        examples: how many examples' confidences fall into the bin.
        confidence: their mean confidence; 0 where the bin is empty.
        accuracy: the share of them that is right; 0 where the bin is empty.
    """

    examples: Array
    confidence: Array
    accuracy: Array


def classification_error(log_probs: ArrayLike, labels: ArrayLike) -> Array:
    """Says of each example whether the most probable class is wrong.

    Args:
        log_probs: `[B, K]` floating point, log-probabilities or logits.
        labels: `[B]` integers in [0, K).

    Returns:
        `[B]` float32, 1 where wrong and 0 where right; of classes that tie the first counts.

    Raises:
        TypeError: if `log_probs` is not floating point or `labels` are not integers.
        ValueError: if the shapes are not `[B, K]` and `[B]`.
    """
    log_probs, labels = _checked(log_probs, labels, "classification_error")
    return (jnp.argmax(log_probs, axis=-1) != labels).astype(jnp.float32)


def label_nll(log_probs: ArrayLike, labels: ArrayLike) -> Array:
    """Returns the negative log-likelihood of each example's label.

    Args:
        log_probs: `[B, K]` floating-point log-probabilities (logits go through `jax.nn.log_softmax` first).
        labels: `[B]` integers in [0, K); others give NaN.

    Returns:
        `[B]` nats, float32; +inf where the label's probability is 0.

    Raises:
        TypeError: if `log_probs` is not floating point or `labels` are not integers.
        ValueError: if the shapes are not `[B, K]` and `[B]`.
    """
    log_probs, labels = _checked(log_probs, labels, "label_nll")
    taken = jnp.take_along_axis(
        log_probs, jnp.where(labels < 0, log_probs.shape[1], labels)[:, None], axis=1, mode="fill"
    )
    return -taken[:, 0]


def brier_score(log_probs: ArrayLike, labels: ArrayLike) -> Array:
    """Returns the Brier score of each example: the squared distance from the one-hot label.

    Args:
        log_probs: `[B, K]` floating-point log-probabilities.
        labels: `[B]` integers in [0, K).

    Returns:
        `[B]` float32 in [0, 2], summed over the classes (twice scikit-learn's score of two classes).

    Raises:
        TypeError: if `log_probs` is not floating point or `labels` are not integers.
        ValueError: if the shapes are not `[B, K]` and `[B]`.

    Source: Brier, "Verification of forecasts expressed in terms of probability", 1950, equation 2.
    """
    log_probs, labels = _checked(log_probs, labels, "brier_score")
    return jnp.square(jnp.exp(log_probs) - jax.nn.one_hot(labels, log_probs.shape[1])).sum(axis=-1)


def reliability_bins(
    log_probs: ArrayLike, labels: ArrayLike, *, bins: int = 15, mask: ArrayLike | None = None
) -> ReliabilityBins:
    """Compares confidence and accuracy in bins of equal width.

    The confidence is the largest probability; bin m holds confidences in ((m - 1) / bins, m / bins].

    Args:
        log_probs: `[B, K]` floating-point log-probabilities.
        labels: `[B]` integers in [0, K).
        bins: number of bins, at least 1 and static.
        mask: `[B]` weights of the examples, at least 0; 0 leaves padding out. None weighs all by 1.

    Returns:
        The `ReliabilityBins`; examples are sums of weights.

    Raises:
        TypeError: if `log_probs` is not floating point or `labels` are not integers.
        ValueError: if the shapes don't fit or `bins` is below 1.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, section 2.
    """
    count, confidence, accuracy = _bin_sums(log_probs, labels, bins, mask, "reliability_bins")
    held = jnp.where(count > 0, count, 1.0)
    return ReliabilityBins(count, confidence / held, accuracy / held)


def expected_calibration_error(
    log_probs: ArrayLike, labels: ArrayLike, *, bins: int = 15, mask: ArrayLike | None = None
) -> Array:
    """Returns how far confidence and accuracy lie apart, averaged over bins of equal width.

    The figure depends on the number of bins and, with few examples, is biased upwards: sampling noise in a
    bin counts as miscalibration. It is no gradient to train on (bins are steps).

    Args:
        log_probs: `[B, K]` floating-point log-probabilities of a whole set, not of one batch.
        labels: `[B]` integers in [0, K).
        bins: number of bins, at least 1 and static; 15 is customary.
        mask: `[B]` weights of the examples, at least 0; 0 leaves padding out. None weighs all by 1.

    Returns:
        Scalar float32 in [0, 1]; NaN where the weights sum to 0.

    Raises:
        TypeError: if `log_probs` is not floating point or `labels` are not integers.
        ValueError: if the shapes don't fit or `bins` is below 1.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3.
    """
    count, confidence, accuracy = _bin_sums(log_probs, labels, bins, mask, "expected_calibration_error")
    return jnp.abs(accuracy - confidence).sum() / count.sum()


def auroc(scores: ArrayLike, positives: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
    """Returns the area under the ROC curve, exactly.

    That is the probability that a positive example scores higher than a negative one, a tie counting half.

    Args:
        scores: `[N]` floating point, higher for what should be positive (such as the predictive entropy,
            to detect examples out of distribution).
        positives: `[N]` bool (or integers, not 0 is positive).
        mask: `[N]`; examples where it is 0 are left out. None takes all.

    Returns:
        Scalar float32 in [0, 1]; NaN without positives, without negatives, or with a NaN score.

    Raises:
        TypeError: if `scores` is not floating point.
        ValueError: if the shapes are not `[N]` each.

    Source: Hanley and McNeil, "The meaning and use of the area under a ROC curve", 1982, equation 1.
    """
    if not jnp.issubdtype(jnp.result_type(scores), jnp.floating):
        raise TypeError(f"auroc: scores must be floating point, but have dtype {jnp.result_type(scores)}.")
    shape = jnp.shape(scores)
    if len(shape) != 1 or jnp.shape(positives) != shape or (mask is not None and jnp.shape(mask) != shape):
        given = shape, jnp.shape(positives), None if mask is None else jnp.shape(mask)
        raise ValueError(f"auroc: scores, positives and mask must be vectors [N] of one length, got {given}.")
    scores, positive = jnp.asarray(scores, jnp.float32), jnp.asarray(positives) != 0
    kept = jnp.ones(shape, bool) if mask is None else jnp.asarray(mask) != 0
    order = jnp.argsort(scores)
    ordered = scores[order]
    # Negatives among the first i scores; whole numbers, so that large sets stay exact.
    negatives = jnp.cumsum(jnp.pad((kept & ~positive)[order].astype(jnp.int32), (1, 0)))
    below = negatives[jnp.searchsorted(ordered, scores, side="left")]
    not_above = negatives[jnp.searchsorted(ordered, scores, side="right")]
    share = (below + not_above).astype(jnp.float32) / (2 * negatives[-1]).astype(jnp.float32)
    counted = kept & positive
    area = jnp.where(counted, share, 0.0).sum() / counted.sum()
    return jnp.where(jnp.isnan(scores).any(where=kept), jnp.nan, area)


def predictive_entropy(log_probs: ArrayLike) -> Array:
    """Returns the entropy of each example's predicted distribution: total uncertainty.

    Args:
        log_probs: `[..., K]` floating-point log-probabilities; of a Bayesian net or an ensemble, those of
            the averaged probabilities.

    Returns:
        `[...]` nats in [0, log K], float32. A class of probability 0 counts 0.

    Raises:
        TypeError: if `log_probs` is not floating point.
        ValueError: if it has no axis of classes.
    """
    log_probs = _checked_floating(log_probs, "predictive_entropy")
    if log_probs.ndim < 1:
        raise ValueError(f"predictive_entropy: log_probs must be [..., K], got shape {log_probs.shape}.")
    # 0 log 0 is 0; the inner where keeps the gradient of that branch finite.
    finite = jnp.where(jnp.isneginf(log_probs), 0.0, log_probs)
    return -jnp.where(jnp.isneginf(log_probs), 0.0, jnp.exp(finite) * finite).sum(axis=-1)


def average_prediction(member_log_probs: ArrayLike) -> Array:
    """Averages the probabilities that members predict.

    Args:
        member_log_probs: `[R, ...]` floating-point log-probabilities of R members.

    Returns:
        `[...]` logarithms of the mean probabilities, float32.

    Raises:
        TypeError: if the log-probabilities are not floating point.
    """
    members = _checked_floating(member_log_probs, "average_prediction")
    return jax.nn.logsumexp(members, axis=0) - jnp.log(float(members.shape[0]))


def mutual_information(member_log_probs: ArrayLike) -> Array:
    """Returns how much the members disagree: the epistemic part of the predictive entropy.

    The entropy of the averaged prediction less the average entropy of the members (BALD).

    Args:
        member_log_probs: `[R, B, K]` floating-point log-probabilities of R members (networks of an ensemble,
            samples of the weights, dropout masks).

    Returns:
        `[B]` nats in [0, log min(R, K)], float32, up to rounding; 0 where all members agree.

    Raises:
        TypeError: if the log-probabilities are not floating point.
        ValueError: if the shape is not `[R, B, K]`.

    Source: Houlsby et al., "Bayesian Active Learning for Classification and Preference Learning", 2011,
      equation 2.
    """
    members = _checked_floating(member_log_probs, "mutual_information")
    if members.ndim != 3:
        raise ValueError(f"mutual_information: member_log_probs must be [R, B, K], got {members.shape}.")
    return predictive_entropy(average_prediction(members)) - predictive_entropy(members).mean(axis=0)


def _bin_sums(
    log_probs: ArrayLike, labels: ArrayLike, bins: int, mask: ArrayLike | None, function: str
) -> tuple[Array, Array, Array]:
    """Sums of the weights, of confidences and of right answers in each bin, `[bins]` each."""
    log_probs, labels = _checked(log_probs, labels, function)
    if bins < 1:
        raise ValueError(f"{function}: bins must be at least 1, got {bins}.")
    if mask is not None and jnp.shape(mask) != labels.shape:
        raise ValueError(f"{function}: mask must be [{labels.shape[0]}], got shape {jnp.shape(mask)}.")
    weight = jnp.ones(labels.shape, jnp.float32) if mask is None else jnp.asarray(mask, jnp.float32)
    confidence = jnp.exp(log_probs.max(axis=-1))
    correct = (jnp.argmax(log_probs, axis=-1) == labels).astype(jnp.float32)
    index = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    member = jax.nn.one_hot(index, bins) * weight[:, None]
    # Padding may hold anything: 0 times NaN would be NaN.
    confidence = jnp.where(weight > 0, confidence, 0.0)
    total = lambda value: (member * value[:, None]).sum(axis=0)  # noqa: E731
    return member.sum(axis=0), total(confidence), total(correct)


def _checked_floating(log_probs: ArrayLike, function: str) -> Array:
    dtype = jnp.result_type(log_probs)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{function}: log-probabilities must be floating point, but have dtype {dtype}.")
    return jnp.asarray(log_probs, jnp.float32)


def _checked(log_probs: ArrayLike, labels: ArrayLike, function: str) -> tuple[Array, Array]:
    log_probs, labels = _checked_floating(log_probs, function), jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{function}: labels must be integers, but have dtype {labels.dtype}.")
    if log_probs.ndim != 2 or labels.shape != log_probs.shape[:1]:
        raise ValueError(
            f"{function}: log_probs and labels must be [B, K] and [B], "
            f"got {log_probs.shape} and {labels.shape}."
        )
    return log_probs, labels
