"""Small line plots side by side: measurements against a knob."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from vaesr.reports import canvas
from vaesr.reports.curves import with_legend

_COLOURS = ("#d0472e", "#4e79a7", "#2a7f62", "#b07aa1", "#f28e2b", "#6b6f76", "#76b7b2", "#9c755f", "#1c2026")


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a panel; lines of one label have one colour in all panels.

    `x` and `y` are `[N]`, NaN in `y` leaves a gap; `error` `[N]` is half the length of error bars. A dashed
    line without markers is for what is known rather than measured.
    """

    label: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    error: Sequence[float] | np.ndarray | None = None
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """One plot; its labels say what is varied (x) and what is measured (y), with their units."""

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
    """Draws panels, at least one, side by side (at least 1 in a row), with one legend for all.

    Returns uint8 `[H, W, 3]`, and writes it as PNG where a path is given; the caption is kept inside, and
    `write_report` prints it under the figure.
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
    return with_legend(figure, handles, path, loc="outside upper left", ncols=per_row, caption=caption)


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
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
