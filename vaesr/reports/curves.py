"""Training curves out of `metrics.jsonl`."""

import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

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
_HIDDEN = ("step", "split", "time")
_POINTS = 400


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the records of a run; a line cut off by a crash or still being written is passed over.

    Args:
        path: `metrics.jsonl`, or the run folder that holds it.

    Returns:
        One dict a line, in the order of the file; no file gives none.
    """
    path = pathlib.Path(path)
    path = path / "metrics.jsonl" if path.is_dir() else path
    records = []
    for line in path.read_text("utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), (int, float)):
            records.append(record)
    return records


def split_unit(name: str) -> tuple[str, str]:
    """Takes a metric's name apart for people.

    Args:
        name: for example `kl_nats` or `psnr_db`.

    Returns:
        `(title, unit)`: `("KL", "nats")`, `("PSNR", "dB")`; the unit is "" where the name has none.
    """
    stem, unit = name, ""
    for suffix in sorted(_UNITS, key=len, reverse=True):
        if name == suffix:
            return _UNITS[suffix].capitalize(), ""
        if name.endswith("_" + suffix):
            stem, unit = name[: -len(suffix) - 1], _UNITS[suffix]
            break
    words = [word.upper() if word in _CAPITALS else word for word in stem.replace("/", " ").split("_")]
    title = " ".join(words)
    return title[:1].upper() + title[1:], unit


def series(records: Sequence[dict[str, Any]], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Picks one metric of one split out of the records.

    Args:
        records: as from `read_metrics`.
        split: "train", "validation" or "test".
        name: the metric.

    Returns:
        `(steps, values)`, float64 `[N]` each, in order of steps; what is not a finite number (NaN, null,
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

    Args:
        records: as from `read_metrics`.

    Returns:
        Names of everything that is a number (or null, which stands for one that was not finite).
    """
    order = sorted(records, key=lambda record: record.get("split") != "validation")
    names: dict[str, None] = {}
    for record in order:
        for name, value in record.items():
            numeric = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
            if name not in _HIDDEN and numeric:
                names[name] = None
    return list(names)


def plot_curves(
    source: str | os.PathLike[str] | Sequence[dict[str, Any]],
    path: str | os.PathLike[str] | None = None,
    *,
    names: Sequence[str] | None = None,
    columns: int = 3,
) -> np.ndarray:
    """Draws one small panel per metric: train in grey-blue, validation in red, test as a dot.

    Args:
        source: `metrics.jsonl`, the run folder, or records from `read_metrics`.
        path: where to write the PNG; None writes nothing.
        names: which metrics, in order; None for all that change.
        columns: panels in a row, at least 1.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        ValueError: where there is nothing to draw.
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
    figure.legend(
        used.values(),
        used.keys(),
        loc="outside upper right",
        ncols=5,
        frameon=False,
        fontsize=9,
        labelcolor="#1c2026",
    )
    picture = canvas.rasterise(figure)
    if path is not None:
        save_image(path, picture)
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
    cuts = np.array_split(np.arange(len(steps)), _POINTS)
    finite = np.where(np.isfinite(values), values, np.nan)
    rows = []
    for cut in cuts:
        part = finite[cut]
        bad = np.isnan(part).all()
        rows.append(
            [steps[cut].mean()]
            + ([np.nan] * 3 if bad else [np.nanmean(part), np.nanmin(part), np.nanmax(part)])
        )
    table = np.array(rows)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]
