"""Training curves out of `metrics.jsonl`."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vaesr.files.rows import read_metrics
from vaesr.reports import canvas
from vaesr.reports.grids import save_image

SPLITS = {"train": "#8fa3b8", "validation": "#d0472e", "test": "#2a7f62"}
_UNITS = {
    "nats": "nats",
    "bits": "bits",
    "bits_per_dim": "bits per dimension",
    "db": "dB",
    "percent": "%",
    "s": "s",
    "ms": "ms",
    "per_s": "per second",
    "255": "of 255",
}
_CAPITALS = ("elbo", "iwae", "kl", "psnr", "ssim", "nll", "lr", "mse", "mae", "l1", "hr", "ema", "rgb")
_ERROR = "_se"
_HIDDEN = ("step", "split", "time")
_POINTS = 400


def split_unit(name: str) -> tuple[str, str]:
    """Takes a metric's name apart for people: `kl_nats` is `("KL", "nats")`, `psnr_db` `("PSNR", "dB")`.

    The unit is "" where the name has none.
    """
    stem, unit = name, ""
    for suffix in sorted(_UNITS, key=len, reverse=True):
        if name == suffix:
            return _UNITS[suffix].capitalize(), ""
        if name.endswith("_" + suffix):
            stem, unit = name[: -len(suffix) - 1], _UNITS[suffix]
            break
    words = stem.replace("/", " ").split("_")
    title = " ".join(word.upper() if word in _CAPITALS else word for word in words)
    return title[:1].upper() + title[1:], unit


def error_name(name: str) -> str:
    """What the standard error of a metric over images is called: `elbo_se_nats` of `elbo_nats`."""
    for suffix in sorted(_UNITS, key=len, reverse=True):
        if name.endswith("_" + suffix):
            return f"{name[: -len(suffix) - 1]}{_ERROR}_{suffix}"
    return name + _ERROR


def format_results(results: Mapping[str, float]) -> str:
    """Makes a line of each metric of a final evaluation, with its standard error if it has one."""
    errors = {error_name(name) for name in results}
    shown = [name for name in results if name not in errors]
    width = max(map(len, shown))
    lines = []
    for name in shown:
        error = results.get(error_name(name))
        lines.append(f"  {name:<{width}}  {results[name]:.4f}" + ("" if error is None else f" ± {error:.2g}"))
    return "\n".join(lines)


def series(records: Sequence[dict[str, Any]], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Picks one metric of one split out of the records of `read_metrics`.

    Gives `(steps, values)`, float64 `[N]` each, in order of steps; what is not a finite number (NaN, null,
    infinity) is NaN. Where a step appears twice, as after a crash and resume, the later one counts.
    """
    found: dict[float, float] = {}
    for record in records:
        if record.get("split", "train") == split and name in record:
            value = record[name]
            number = isinstance(value, (int, float)) and math.isfinite(value)
            found[float(record["step"])] = float(value) if number else math.nan
    steps = sorted(found)
    return np.array(steps, np.float64), np.array([found[s] for s in steps], np.float64)


def metric_names(records: Sequence[dict[str, Any]]) -> list[str]:
    """Lists the metrics in the order in which they first appear, validation's first.

    That is everything that is a number (or null, which stands for one that was not finite), but standard
    errors, which go with their metrics.
    """
    order = sorted(records, key=lambda record: record.get("split") != "validation")
    names: dict[str, None] = {}
    for record in order:
        for name, value in record.items():
            numeric = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
            if name not in _HIDDEN and numeric:
                names[name] = None
    errors = {error_name(name) for name in names}
    return [name for name in names if name not in errors]


def plot_curves(
    source: str | os.PathLike[str] | Sequence[dict[str, Any]],
    path: str | os.PathLike[str] | None = None,
    *,
    names: Sequence[str] | None = None,
    columns: int = 3,
) -> np.ndarray:
    """Draws one small panel per metric: train in grey-blue, validation in red, test as a dot.

    The source is `metrics.jsonl`, the run folder, or records from `read_metrics`; `names` say which metrics,
    in order, None all that change; at least 1 panel stands in a row. Returns uint8 `[H, W, 3]`, and writes it
    as PNG where a path is given; a ValueError where there is nothing to draw.
    """
    records = read_metrics(source) if isinstance(source, (str, os.PathLike)) else list(source)
    chosen = list(names) if names is not None else [n for n in metric_names(records) if _changes(records, n)]
    if not chosen:
        raise ValueError(
            "there are no metrics to draw yet: metrics.jsonl is missing, empty or holds constants only"
        )
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = canvas.new_figure(3.6 * columns, 2.5 * rows + 0.35)
    used: dict[str, Any] = {}
    for index, name in enumerate(chosen):
        axes = figure.add_subplot(rows, columns, index + 1)
        used |= _panel(axes, records, name)
        if index >= len(chosen) - columns:
            axes.set_xlabel("step")
    return with_legend(figure, used, path, loc="outside upper right", ncols=5)


def with_legend(
    figure: Any,
    handles: Mapping[str, Any],
    path: str | os.PathLike[str] | None,
    *,
    caption: str | None = None,
    **place: Any,
) -> np.ndarray:
    """Draws a figure with one legend for all its plots, and writes it where a path is given."""
    look = {"frameon": False, "fontsize": 9, "labelcolor": "#1c2026"}
    figure.legend(handles.values(), handles.keys(), **look, **place)
    picture = canvas.rasterise(figure)
    if path is not None:
        save_image(path, picture, caption=caption)
    return picture


def _changes(records: Sequence[dict[str, Any]], name: str) -> bool:
    """Whether a metric has a curve in any split; constants are for the table."""
    columns = [series(records, split, name)[1] for split in SPLITS]
    return any(len(values) > 1 and not bool(np.all(values == values[0])) for values in columns)


def _panel(axes: Any, records: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Draws one metric; gives the handles for the legend by split."""
    title, unit = split_unit(name)
    handles: dict[str, Any] = {}
    for split, colour in SPLITS.items():
        steps, values = series(records, split, name)
        if not len(steps):
            continue
        few = split != "train" and len(steps) <= 30
        if len(steps) > 2 * _POINTS:
            steps, values, low, high = _thin(steps, values)
            axes.fill_between(steps, low, high, color=colour, alpha=0.25, linewidth=0)
        (handles[split],) = axes.plot(
            steps,
            values,
            color=colour,
            linestyle="none" if split == "test" else "-",
            linewidth=1.9 if split == "validation" else 1.3,
            marker="o" if few or split == "test" or len(steps) == 1 else None,
            markersize=6 if split == "test" else 3.4,
            zorder={"train": 2, "validation": 3, "test": 4}[split],
        )
        bad = steps[np.isnan(values)]
        if len(bad):  # a gap says "not measured"; a cross at the bottom says "was not finite"
            handles["not finite"] = axes.plot(
                bad,
                np.zeros_like(bad),
                "x",
                color="#000000",
                markersize=5,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                linestyle="none",
            )[0]
    handles |= _baseline(axes, records, name)
    canvas.quiet(axes)
    axes.margins(x=0.02, y=0.12)
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.locator_params(axis="y", nbins=5)
    axes.ticklabel_format(axis="both", useOffset=False, style="plain")
    axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if step >= 1000 else f"{step:g}")
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color="#1c2026")
    axes.set_ylabel(unit)
    _zoom_past_the_start(axes, records, name)
    return handles


def _baseline(axes: Any, records: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """A dashed line where it is known for bicubic: `bicubic_psnr_db` in the panel of `psnr_db`."""
    for split in ("validation", "test"):
        _, values = series(records, split, f"bicubic_{name}")
        if len(values) and np.isfinite(values[-1]):
            return {
                "bicubic": axes.axhline(values[-1], color="#5c636b", linestyle=(0, (4, 3)), linewidth=1.2)
            }
    return {}


def _zoom_past_the_start(axes: Any, records: Sequence[dict[str, Any]], name: str) -> None:
    """A first value far from all others would flatten the curve: cut it off, and say so by an arrow."""
    values = np.concatenate([series(records, split, name)[1] for split in SPLITS])
    values = values[np.isfinite(values)]
    if len(values) < 12:
        return
    low, high = np.quantile(values, [0.03, 0.97])
    room = 0.15 * (high - low)
    if room > 0 and (values.max() - high > 2 * (high - low) or low - values.min() > 2 * (high - low)):
        axes.set_ylim(max(values.min(), low - room * 2), min(values.max(), high + room * 2))


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Long series as mean, least and largest value of about `_POINTS` stretches."""
    finite = np.where(np.isfinite(values), values, np.nan)
    rows = []
    for cut in np.array_split(np.arange(len(steps)), _POINTS):
        part = finite[cut]
        bad = np.isnan(part).all()
        found = [np.nan] * 3 if bad else [np.nanmean(part), np.nanmin(part), np.nanmax(part)]
        rows.append([steps[cut].mean(), *found])
    means, values, low, high = np.array(rows).T
    return means, values, low, high
