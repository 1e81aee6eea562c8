"""Small line plots side by side: measurements against a knob."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from vaesr.reports import canvas
from vaesr.reports.grids import save_image

_COLOURS = ("#d0472e", "#4e79a7", "#2a7f62", "#b07aa1", "#f28e2b", "#6b6f76", "#76b7b2", "#9c755f", "#1c2026")


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a panel.

    Attributes:
        label: its name in the legend; lines of one name have one colour in all panels.
        x: `[N]`.
        y: `[N]`; NaN leaves a gap.
        error: `[N]`, half the length of error bars; None for none.
        dashed: a dashed line without markers, for what is known rather than measured.
    """

    label: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    error: Sequence[float] | np.ndarray | None = None
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: a few words.
        x_label: what is varied, with its unit.
        y_label: what is measured, with its unit.
        lines: what is drawn.
        log_x: logarithmic axis to the right.
        log_y: logarithmic axis upwards.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log_x: bool = False
    log_y: bool = False


def plot_panels(
    panels: Sequence[Panel],
    path: str | os.PathLike[str] | None = None,
    *,
    columns: int = 3,
    caption: str | None = None,
) -> np.ndarray:
    """Draws panels side by side, with one legend for all.

    Args:
        panels: at least one.
        path: where to write the PNG; None writes nothing.
        columns: panels in a row, at least 1.
        caption: kept inside the PNG; `write_report` prints it under the figure.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        ValueError: on no panels, a panel without lines, or fewer than one column.
    """
    if not panels or not all(panel.lines for panel in panels):
        raise ValueError("panels must hold at least one panel, and every panel at least one line")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    names = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    per_row = max(1, round(4.2 * columns / (0.9 + 0.075 * max(map(len, names)))))
    legend_rows = -(-len(names) // per_row)
    figure = canvas.new_figure(4.2 * columns, 3.2 * rows + 0.25 * legend_rows)
    handles: dict[str, Any] = {}
    for index, panel in enumerate(panels):
        _draw(figure.add_subplot(rows, columns, index + 1), panel, colours, handles)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper left",
        ncols=per_row,
        frameon=False,
        fontsize=9,
        labelcolor="#1c2026",
    )
    picture = canvas.rasterise(figure)
    if path is not None:
        save_image(path, picture, caption=caption)
    return picture


def _draw(axes: Any, panel: Panel, colours: dict[str, str], handles: dict[str, Any]) -> None:
    """Draws one panel and adds what the legend lacks."""
    if panel.log_x:
        axes.set_xscale("log")
        ticks = sorted({float(x) for line in panel.lines for x in line.x})
        axes.set_xticks(ticks[:: -(-len(ticks) // 8)], minor=False)
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    if panel.log_y:
        axes.set_yscale("log")
    for line in panel.lines:
        colour = colours[line.label]
        if line.dashed:
            (handle,) = axes.plot(line.x, line.y, color=colour, linestyle=(0, (4, 3)), linewidth=1.2)
        else:
            (handle,) = axes.plot(line.x, line.y, color=colour, linewidth=1.5, marker="o", markersize=3.2)
            if line.error is not None:
                axes.errorbar(
                    line.x, line.y, yerr=line.error, color=colour, fmt="none", elinewidth=1.0, capsize=2.0
                )
        if line.label not in handles or not line.dashed:
            handles[line.label] = handle
    canvas.quiet(axes)
    axes.set_title(panel.title, loc="left", fontsize=10.5, fontweight="bold", color="#1c2026")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
