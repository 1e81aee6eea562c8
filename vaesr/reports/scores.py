"""The page of `vaesr evaluate`: a table that sorts itself, worst images first, and pictures of those."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vaesr.files.extras import encoded
from vaesr.reports.page import data_address, format_number, whole_page

_SORT = """
document.querySelectorAll("table.sortable").forEach(table => {
  table.querySelectorAll("th").forEach((head, column) => head.addEventListener("click", () => {
    const rows = [...table.tBodies[0].rows], down = head.dataset.order !== "down";
    table.querySelectorAll("th").forEach(h => delete h.dataset.order);
    head.dataset.order = down ? "down" : "up";
    const key = row => { const cell = row.cells[column];
      return cell.dataset.value === undefined ? cell.textContent : parseFloat(cell.dataset.value); };
    rows.sort((a, b) => { const x = key(a), y = key(b);
      const less = Number.isNaN(x) ? 1 : Number.isNaN(y) ? -1 : x < y ? -1 : x > y ? 1 : 0;
      return Number.isNaN(x) || Number.isNaN(y) ? less : down ? -less : less; });
    rows.forEach(row => table.tBodies[0].append(row));
  }));
});
"""
_MORE_STYLE = """
table.sortable th { cursor: pointer; user-select: none; white-space: nowrap; }
table.sortable th[data-order=down]::after { content: " \\2193"; }
table.sortable th[data-order=up]::after { content: " \\2191"; }
"""


class Column(NamedTuple):
    """A metric's column: its direction is shown by an arrow; `protocol` says in words what was compared."""

    name: str
    unit: str
    higher_is_better: bool
    protocol: str


class Row(NamedTuple):
    """An image's row: scores by the metrics' names, NaN where there is none, and remarks."""

    name: str
    scores: Mapping[str, float]
    note: str


class Table(NamedTuple):
    """Any other table; numbers are printed as such."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | float]]


def scores_page(
    title: str,
    lead: str,
    columns: Sequence[Column],
    rows: Sequence[Row],
    *,
    tables: Sequence[Table] = (),
    pictures: Sequence[tuple[str, np.ndarray]] = (),
    problems: Sequence[str] = (),
) -> str:
    """Makes a page of HTML in one file that needs nothing else.

    `lead` is the line below the heading; the rows stand in their order, below the tables; `pictures` are
    captions and uint8 `[H, W, 3]`; `problems` say what went wrong, a line each.
    """
    cards = "".join(_card(column, rows) for column in columns)
    parts = [
        f'<h1>{html.escape(title)}</h1>\n<p class="lead">{html.escape(lead)}</p>',
        '<p class="warning">' + "<br>".join(map(html.escape, problems)) + "</p>" if problems else "",
        f'<div class="cards">{cards}</div>',
        *(_table(table) for table in tables),
        "<h2>Worst images</h2>" if pictures else "",
        *(_picture(caption, picture) for caption, picture in pictures),
        _rows(columns, rows),
    ]
    return whole_page(title, parts, style=_MORE_STYLE, script=f"<script>{_SORT}</script>\n")


def _arrow(column: Column) -> str:
    return "↑" if column.higher_is_better else "↓"


def _card(column: Column, rows: Sequence[Row]) -> str:
    values = [row.scores[column.name] for row in rows if math.isfinite(row.scores[column.name])]
    shown = format_number(float(np.mean(values))) if values else "–"
    label = f"mean {column.name} {_arrow(column)}" + (f", {column.unit}" if column.unit else "")
    return (
        f'<div class="card" title="{html.escape(column.protocol)}"><b>{html.escape(shown)}</b>'
        f"<span>{html.escape(label)}</span></div>"
    )


def _cell(value: float) -> str:
    shown = "–" if math.isnan(value) else "identical" if math.isinf(value) else format_number(value)
    key = "NaN" if math.isnan(value) else repr(float(value)).replace("inf", "Infinity")
    return f'<td class="number" data-value="{key}">{html.escape(shown)}</td>'


def _rows(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    head = "<th>image</th>" + "".join(
        f'<th class="number" title="{html.escape(c.protocol)}">{html.escape(c.name)} {_arrow(c)}</th>'
        for c in columns
    )
    body = "\n".join(
        f"<tr><td>{html.escape(row.name)}</td>{''.join(_cell(row.scores[c.name]) for c in columns)}"
        f"<td>{html.escape(row.note)}</td></tr>"
        for row in rows
    )
    return (
        f'<h2>All {len(rows)} images</h2>\n<p class="lead">Click a heading to sort.</p>\n<div class="scroll">'
        f'<table class="sortable">\n<thead><tr>{head}<th>remarks</th></tr></thead>\n<tbody>\n{body}\n</tbody>'
        f"</table></div>"
    )


def _table(table: Table) -> str:
    def cell(value: str | float) -> str:
        return f"<td>{html.escape(value)}</td>" if isinstance(value, str) else _cell(value)

    first, *others = (html.escape(name) for name in table.head)
    head = f"<th>{first}</th>" + "".join(f'<th class="number">{name}</th>' for name in others)
    body = "\n".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in table.rows)
    return (
        f'<h2>{html.escape(table.title)}</h2>\n<div class="scroll"><table class="sortable">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _picture(caption: str, picture: np.ndarray) -> str:
    address = data_address(encoded(picture, "JPEG", quality=92, subsampling=0), "jpeg")
    return (
        f'<figure><img alt="{html.escape(caption)}" loading="lazy" src="{address}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
