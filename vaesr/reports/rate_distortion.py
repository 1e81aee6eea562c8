"""The rate/distortion plane of a family of VAEs."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vaesr.reports import canvas

Values = Sequence[float] | np.ndarray | jax.Array

_POINT, _LINE, _GUIDE = "#4e79a7", "#9db4d0", "#c5ccd6"


def rate_distortion_figure(
    rates: Values, distortions: Values, labels: Sequence[str], *, title: str | None = None
) -> np.ndarray:
    """Draws one point per model: what its code costs against what the code does not explain.

    Dashed lines join points of equal ELBO, which is minus the sum of both; lines to the lower left are
    better. The best model's line is drawn darker. `rates` `[R]` are nats, the mean KL(q(z | x) || p(z)) of
    each model, `distortions` `[R]` nats, the mean -log p(x | z); `labels` R words, such as the beta each
    model was trained with. Returns uint8 `[H, W, 3]`. Source: Alemi et al. 2018 ("Fixing a broken ELBO"),
    figure 1.
    """
    rates, distortions = np.asarray(rates, np.float64), np.asarray(distortions, np.float64)
    if rates.ndim != 1 or not len(rates) or not rates.shape == distortions.shape == (len(labels),):
        raise ValueError(
            "rates, distortions and labels must have one entry per model, got shapes "
            f"{rates.shape} and {distortions.shape} and {len(labels)} labels"
        )
    figure = canvas.new_figure(7.2, 5.6)
    axes = figure.add_subplot()
    order = np.argsort(rates)
    axes.plot(rates[order], distortions[order], color=_LINE, linewidth=1.4, zorder=2)
    axes.scatter(rates, distortions, s=38, color=_POINT, zorder=3)
    for rate, distortion, label in zip(rates, distortions, labels, strict=True):
        axes.annotate(label, (rate, distortion), (6, 4), textcoords="offset points", fontsize=9)
    right, top, bottom = 1.12 * rates.max() + 1.0, distortions.max(), distortions.min()
    margin = 0.08 * (top - bottom) + 1.0
    axes.set(xlim=(-0.03 * right, right), ylim=(bottom - margin, top + margin))
    _equal_elbo(axes, float((rates + distortions).min()), right)
    canvas.quiet(axes)
    axes.set(xlabel="rate: KL(q(z | x) || p(z)), nats", ylabel="distortion: −log p(x | z), nats")
    if title:
        axes.set_title(title, loc="left", fontweight="bold")
    return canvas.rasterise(figure)


def _equal_elbo(axes: Any, best: float, right: float) -> None:
    """Lines of slope -1: the best ELBO's, and a few rounder ones behind the points."""
    bottom, top = axes.get_ylim()
    step = _round_step((top - bottom + right) / 6.0)
    totals = [best, *np.arange(np.ceil(bottom / step) * step, top + right, step)]
    for number, total in enumerate(totals):
        colour, width = ("#d0472e", 1.2) if number == 0 else (_GUIDE, 0.9)
        axes.plot(
            [0.0, right], [total, total - right], color=colour, linewidth=width, linestyle="--", zorder=1
        )
        # Written where the line leaves the plot, above or at the left edge.
        x = max(0.0, total - top)
        if x < 0.9 * right and total - x > bottom:
            axes.annotate(
                f"ELBO {-total:.1f}" if number == 0 else f"{-total:.0f}",
                (x, total - x), (4, -3 if x else 1), textcoords="offset points",
                va="top" if x else "bottom", fontsize=8,
                color="#d0472e" if number == 0 else "#8a9099",
            )  # fmt: skip
    axes.set_ylim(bottom, top)


def _round_step(step: float) -> float:
    """1, 2 or 5 times a power of ten, near `step`."""
    power = 10.0 ** np.floor(np.log10(step))
    return float(power * min((1.0, 2.0, 5.0, 10.0), key=lambda factor: abs(np.log(factor * power / step))))
