"""Figures of predictive uncertainty: reliability diagrams, error bars, entropies, pruned networks."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vaesr.metrics import expected_calibration_error, reliability_bins
from vaesr.reports import canvas

Array = np.ndarray | jax.Array

BARS, GAP, DIAGONAL = "#4e79a7", "#e15759", "#9aa2ab"
_INSIDE, _OUTSIDE = "#4e79a7", "#f28e2b"
_MEAN, _DATA = "#d0472e", "#1c2026"
_ALEATORIC, _EPISTEMIC = ("#d3e8d6", "#a5d0ad"), ("#b4cbe6", "#6f9bcb")  # 2 and 1 standard deviations


def reliability_diagram(
    predictions: Mapping[str, Array], labels: Array, *, bins: int = 15, title: str | None = None
) -> np.ndarray:
    """Draws accuracy against confidence for several models side by side, as uint8 `[H, W, 3]`.

    Blue bars are the accuracy in each of the bins (at least 1) of equal width, red hatching the gap to the
    mean confidence (calibrated models have none), the small panel below the share of examples in each bin;
    the title gives the expected calibration error and the share of wrong answers. `predictions` are
    `{name: log-probabilities [N, K]}`, drawn in this order; `labels` `[N]` integers. Source: Guo et al., "On
    Calibration of Modern Neural Networks", 2017, figures 1 and 4.
    """
    if not predictions:
        raise ValueError("predictions must hold at least one model, got none")
    count = len(predictions)
    figure = canvas.new_figure(max(3.0 * count + 0.4, 4.2), 4.2)
    grid = figure.add_gridspec(2, count, height_ratios=[3.2, 1.0])
    first: Any = None
    for column, (name, log_probs) in enumerate(predictions.items()):
        above = figure.add_subplot(grid[0, column], sharex=first, sharey=first)
        below = figure.add_subplot(grid[1, column], sharex=above)
        first = first or above
        _reliability_panel(above, below, log_probs, labels, bins)
        ece = float(expected_calibration_error(log_probs, labels, bins=bins))
        error = 100 * float(np.mean(np.argmax(np.asarray(log_probs), -1) != np.asarray(labels)))
        above.set_title(name, loc="left", fontsize=11, fontweight="bold", color="#1c2026", pad=20)
        words = f"ECE {ece:.4f}, error {error:.2f} %"
        above.annotate(words, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points",
                       fontsize=8.5, color="#5c636b")  # fmt: skip
        if column == 0:
            above.set_ylabel("accuracy")
            below.set_ylabel("share, %")
    figure.legend(
        *first.get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False, fontsize=8
    )
    canvas.heading(figure, title)
    return canvas.rasterise(figure)


def _reliability_panel(above: Any, below: Any, log_probs: Array, labels: Array, bins: int) -> None:
    found = reliability_bins(log_probs, labels, bins=bins)
    held = np.asarray(found.examples) > 0
    accuracy, confidence = np.asarray(found.accuracy), np.asarray(found.confidence)
    middles, width = (np.arange(bins) + 0.5) / bins, 0.92 / bins
    above.bar(middles[held], accuracy[held], width, color=BARS, label="accuracy")
    above.bar(
        middles[held], (confidence - accuracy)[held], width, bottom=accuracy[held], color=GAP, alpha=0.35,
        hatch="////", edgecolor=GAP, linewidth=0, label="gap to confidence",
    )  # fmt: skip
    above.plot([0, 1], [0, 1], "--", color=DIAGONAL, linewidth=1.2)
    share = 100 * np.asarray(found.examples) / max(float(found.examples.sum()), 1.0)
    below.bar(middles, share, width, color=BARS)
    for axes in (above, below):
        canvas.quiet(axes)
    above.set(xlim=(0, 1), ylim=(0, 1))
    above.tick_params(labelbottom=False)
    below.set_xlabel("confidence")


def regression_bands(
    x: Array,
    mean: Array,
    aleatoric: Array,
    epistemic: Array,
    *,
    data: tuple[Array, Array] | None = None,
    truth: Array | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Draws a predictive mean with its error bars over a line, split by where they come from.

    The inner, blue bands are the epistemic part (1 and 2 standard deviations), the green ones outside of them
    the total: the root of the summed squares of both parts. All are `[N]`, `x` ascending; `aleatoric` is the
    standard deviation of the noise in the data, `epistemic` that of the mean under the posterior. `data` are
    `(x, y)` of the training points, `truth` `[N]` the curve without noise. Returns uint8 `[H, W, 3]`.
    """
    curves = [np.asarray(curve, np.float64) for curve in (x, mean, aleatoric, epistemic)]
    if curves[0].ndim != 1 or len({curve.shape for curve in curves}) > 1:
        shapes = [curve.shape for curve in curves]
        raise ValueError(f"x, mean, aleatoric and epistemic must be vectors of one length, got {shapes}")
    x, mean, aleatoric, epistemic = curves
    total = np.hypot(aleatoric, epistemic)
    figure = canvas.new_figure(8.4, 4.8)
    axes = figure.add_subplot()
    for label, factor, deviation, colour in (
        ("total, 2σ", 2, total, _ALEATORIC[0]),
        ("total, 1σ", 1, total, _ALEATORIC[1]),
        ("epistemic, 2σ", 2, epistemic, _EPISTEMIC[0]),
        ("epistemic, 1σ", 1, epistemic, _EPISTEMIC[1]),
    ):
        low, high = mean - factor * deviation, mean + factor * deviation
        axes.fill_between(x, low, high, color=colour, alpha=0.75, linewidth=0, label=label)
    if truth is not None:
        axes.plot(x, np.asarray(truth), "--", color="#5c636b", linewidth=1.2, label="without noise")
    axes.plot(x, mean, color=_MEAN, linewidth=1.8, label="mean")
    if data is not None:
        axes.plot(np.asarray(data[0]), np.asarray(data[1]), ".", color=_DATA, markersize=2.6, alpha=0.45,
                  label="training data")  # fmt: skip
    canvas.quiet(axes)
    axes.set(xlim=(x[0], x[-1]), xlabel="x", ylabel="y")
    if title:
        axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    return canvas.rasterise(figure)


def entropy_histograms(
    inside: Mapping[str, Array], outside: Mapping[str, Array], *, limit: float, title: str | None = None
) -> np.ndarray:
    """Draws histograms of a measure of uncertainty on known and on foreign data, one panel a model.

    `{name: values [N]}` on test data and, under the same names, on data of another distribution; `limit`,
    above 0, is the right end of the axis, log K for entropies. Returns uint8 `[H, W, 3]`.
    """
    if not inside or set(inside) != set(outside):
        raise ValueError(f"inside and outside must name the same models, got {[*inside]} and {[*outside]}")
    figure = canvas.new_figure(max(3.0 * len(inside) + 0.4, 4.2), 2.9)
    edges = np.linspace(0, limit, 31)
    first: Any = None
    for column, name in enumerate(inside):
        axes = figure.add_subplot(1, len(inside), column + 1, sharex=first, sharey=first)
        first = first or axes
        for values, colour, label in (
            (inside[name], _INSIDE, "test data"),
            (outside[name], _OUTSIDE, "foreign data"),
        ):
            values = np.clip(np.asarray(values, np.float64), 0, limit)
            axes.hist(values, edges, weights=np.full(len(values), 100 / len(values)), color=colour, alpha=0.6,
                      label=label)  # fmt: skip
        canvas.quiet(axes)
        axes.set_title(name, loc="left", fontsize=11, fontweight="bold", color="#1c2026")
        axes.set_xlabel("predictive entropy, nats")
        if column == 0:
            axes.set_ylabel("share, %")
            axes.legend(loc="upper right", frameon=False, fontsize=8)
    canvas.heading(figure, title)
    return canvas.rasterise(figure)


def pruning_curve(
    fractions: Sequence[float], errors: Mapping[str, Sequence[float]], *, title: str | None = None
) -> np.ndarray:
    """Draws the error in % (of each model, by name) against the share of weights set to zero.

    `fractions` are the shares removed, in [0, 1], ascending. Returns uint8 `[H, W, 3]`. Source: Blundell et
    al., "Weight Uncertainty in Neural Networks", 2015, table 2.
    """
    if not errors or any(len(values) != len(fractions) for values in errors.values()):
        lengths = {name: len(values) for name, values in errors.items()}
        raise ValueError(f"errors must hold curves of {len(fractions)} values, got {lengths or 'none'}")
    figure = canvas.new_figure(5.6, 3.6)
    axes = figure.add_subplot()
    for (name, values), colour in zip(errors.items(), (BARS, _OUTSIDE, "#59a14f", "#b07aa1"), strict=False):
        axes.plot(100 * np.asarray(fractions), values, "o-", color=colour, markersize=4, label=name)
    canvas.quiet(axes)
    axes.set(yscale="log", xlabel="weights removed, %", ylabel="test error, %")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="y", which="both", labelsize=8, colors="#5c636b", length=0)
    axes.legend(frameon=False, fontsize=9)
    if title:
        axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
    return canvas.rasterise(figure)
