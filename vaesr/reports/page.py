"""`report.html`: everything a run folder shows, in one file that needs nothing else."""

import base64
import datetime
import html
import io
import json
import math
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from vaesr.files.atomic import write_atomically
from vaesr.files.extras import encoded, pillow
from vaesr.files.rows import read_metrics
from vaesr.reports.curves import error_name, metric_names, plot_curves, series, split_unit
from vaesr.reports.glossary import explain

STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f6f7f9; color: #1c2026;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 72px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 12px; }
p.lead { margin: 0; color: #5c636b; }
.state { display: inline-block; padding: 1px 10px; border-radius: 999px; font-size: 13px; font-weight: 600;
  vertical-align: 5px; margin-left: 8px; background: #e3f3ea; color: #1d6b47; }
.state.open { background: #fdf0d5; color: #85570a; }
.warning { background: #fdeceb; border-left: 4px solid #d0472e; padding: 10px 16px; margin: 20px 0 0; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 24px; }
.card { background: #fff; border: 1px solid #e3e6ea; border-radius: 10px; padding: 12px 18px;
  min-width: 120px; }
.card b { display: block; font-size: 24px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.card span { color: #5c636b; font-size: 13px; }
.scroll { overflow-x: auto; background: #fff; border: 1px solid #e3e6ea; border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 7px 16px; border-bottom: 1px solid #eef0f2; vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th { font-weight: 600; color: #5c636b; }
.meaning { color: #5c636b; font-size: 13px; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.key { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 13px; width: 34%; }
td.value { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 13px;
  overflow-wrap: anywhere; }
tr.group td { background: #fafbfc; font-weight: 600; color: #5c636b; }
figure { margin: 0 0 28px; background: #fff; border: 1px solid #e3e6ea; border-radius: 10px; padding: 16px; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { margin-top: 12px; color: #5c636b; font-size: 14px; text-align: center; }
details > summary { cursor: pointer; font-size: 19px; font-weight: 700; margin: 44px 0 12px; }
footer { margin-top: 48px; color: #8a9099; font-size: 13px; }
@media print { body { background: #fff; } figure, tr { break-inside: avoid; } }
"""


def write_report(run_dir: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `report.html` of a run folder: results, curves, figures and configuration in one file.

    May be called as often as one likes, also while the run goes on: what is missing (of `config.json`,
    `metrics.jsonl` and `figures/*.png`) is left out, a half-written last line of `metrics.jsonl` and values
    that are not finite are tolerated. Figures come in the order of their names (`2.png` before `10.png`);
    captions are the ones given to `save_image`, else made of the names. Returns its path, replaced
    atomically.
    """
    run_dir = pathlib.Path(run_dir)
    if not run_dir.is_dir():
        raise FileNotFoundError(
            f"run_dir must be the folder of a run, got {str(run_dir)!r}, which is no folder"
        )
    config = _read_config(run_dir / "config.json")
    records = read_metrics(run_dir)
    name = run_dir.resolve().name
    body = [
        _head(name, config, records),
        _smoke(config),
        _warnings(records),
        _cards(records),
        _results(records),
        _curves(records),
        _figures(run_dir / "figures"),
        _config(config),
    ]
    written = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    body.append(f"<footer>Written by vaesr, {html.escape(written)}.</footer>")
    write_atomically(run_dir / "report.html", whole_page(f"{name} – vaesr", body).encode())
    return run_dir / "report.html"


def whole_page(title: str, parts: Iterable[str], *, style: str = "", script: str = "") -> str:
    """Makes a page of HTML of its parts, of which empty ones are left out; `style` is added to ours."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n</main>\n{script}</body>\n</html>\n"
    )


def data_address(data: bytes, kind: str) -> str:
    """An address that holds a picture itself; the kind is "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def format_number(value: Any) -> str:
    """Prints a metric with about five significant digits, thousands set apart; None was not finite."""
    if value is None or not isinstance(value, (int, float)) or not math.isfinite(value):
        return "not finite"
    if float(value).is_integer() and abs(value) < 1e12:
        return f"{int(value):,}".replace(",", "\u202f")
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        return f"{value:.3e}"
    digits = max(0, 4 - max(0, math.floor(math.log10(abs(value)))))
    return f"{value:,.{min(digits, 4)}f}".replace(",", "\u202f")


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _head(name: str, config: dict[str, Any], records: list[dict[str, Any]]) -> str:
    finished = any(record.get("split") == "test" for record in records)
    state = (
        '<span class="state">finished</span>' if finished else '<span class="state open">unfinished</span>'
    )
    words = []
    if config.get("experiment"):
        preset = f", preset {config['preset']}" if config.get("preset") else ""
        words.append(f"python -m {config['experiment']}{preset}")
    times = [r["time"] for r in records if isinstance(r.get("time"), (int, float))]
    if times:
        began = datetime.datetime.fromtimestamp(times[0]).astimezone().strftime("%Y-%m-%d %H:%M")
        words.append(
            f"began {began}, {_duration(times[-1] - times[0])} so far"
            if not finished
            else f"began {began}, took {_duration(times[-1] - times[0])}"
        )
    lead = html.escape(" · ".join(words)) if words else "No measurements yet."
    return f'<h1>{html.escape(name)} {state}</h1>\n<p class="lead">{lead}</p>'


def _smoke(config: dict[str, Any]) -> str:
    if config.get("preset") != "smoke":
        return ""
    words = "Only a smoke test: it shows that everything runs. So few steps learn next to nothing."
    return f'<p class="warning">{words}</p>'


def _duration(seconds: float) -> str:
    seconds = max(0, round(seconds))
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def _warnings(records: list[dict[str, Any]]) -> str:
    lines = []
    for name in metric_names(records):
        for split in ("train", "validation", "test"):
            steps, values = series(records, split, name)
            bad = steps[np.isnan(values)]
            if len(bad):
                lines.append(
                    f"{html.escape(split)} <b>{html.escape(name)}</b> was not finite {len(bad)} "
                    f"time{'s' if len(bad) > 1 else ''}, first at step {int(bad[0])}"
                )
    return '<p class="warning">' + "<br>".join(lines) + "</p>" if lines else ""


def _cards(records: list[dict[str, Any]]) -> str:
    if not records:
        return ""
    cards = [("steps", format_number(max(record["step"] for record in records)))]
    split = "test" if any(r.get("split") == "test" for r in records) else "validation"
    for name in metric_names([r for r in records if r.get("split") == split])[:5]:
        _, values = series(records, split, name)
        title, unit = split_unit(name)
        cards.append((f"{split} {title}" + (f", {unit}" if unit else ""), format_number(float(values[-1]))))
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>'
            for label, value in cards
        )
        + "</div>"
    )


def _results(records: list[dict[str, Any]]) -> str:
    splits = [s for s in ("test", "validation", "train") if any(r.get("split") == s for r in records)]
    if not splits:
        return ""
    rows = []
    for name in metric_names(sorted(records, key=lambda r: r.get("split") != "test")):
        title, unit = split_unit(name)
        cells = []
        for split in splits:
            steps, values = series(records, split, name)
            text = format_number(float(values[-1])) if len(steps) else "–"
            _, errors = series(records, split, error_name(name))
            if len(errors) and math.isfinite(errors[-1]):
                text += f" ± {errors[-1]:.2g}"
            cells.append(f'<td class="number">{html.escape(text)}</td>')
        meaning = f'<br><span class="meaning">{html.escape(explain(name))}</span>'
        rows.append(
            f"<tr><td>{html.escape(title)}{meaning}</td><td>{html.escape(unit)}</td>{''.join(cells)}</tr>"
        )
    head = "".join(f'<th class="number">{"last " if s != "test" else ""}{s}</th>' for s in splits)
    heading = "Result" if splits[0] == "test" else "Measurements so far"
    return (
        f'<h2>{heading}</h2>\n<div class="scroll"><table>\n<tr><th>Metric</th><th>Unit</th>{head}</tr>\n'
        + "\n".join(rows)
        + "\n</table></div>"
        + ('\n<p class="lead">± is the standard error over images.</p>' if "±" in "".join(rows) else "")
    )


def _curves(records: list[dict[str, Any]]) -> str:
    try:
        picture = plot_curves(records)
    except ValueError:
        return ""
    text = "Light band: spread of long series. Crosses: values that were not finite."
    png = encoded(picture, "PNG", optimize=True)
    return f"<h2>Curves</h2>\n{_figure(png, 'training curves', text, zoom=0.66)}"


def _figure(png: bytes, alt: str, caption: str, *, zoom: float = 1.0) -> str:
    width = round(pillow("Image").open(io.BytesIO(png)).width * zoom)
    return (
        f'<figure><img alt="{html.escape(alt)}" width="{width}" src="{data_address(png, "png")}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _figures(folder: pathlib.Path) -> str:
    def natural(path: pathlib.Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.stem)]

    parts = []
    for path in sorted(folder.glob("*.png"), key=natural):
        if path.name.startswith("."):
            continue
        try:
            png = path.read_bytes()
            text = pillow("Image").open(io.BytesIO(png)).info.get("Description")
            words = re.sub(r"^\d+[_-]", "", path.stem).replace("_", " ").replace("-", " ")
            caption = str(text) if text else words[:1].upper() + words[1:]
            parts.append(_figure(png, path.stem, caption))
        except OSError as error:
            parts.append(f"<p>{html.escape(path.name)} cannot be read: {html.escape(str(error))}</p>")
    return "<h2>Figures</h2>\n" + "\n".join(parts) if parts else ""


def _config(config: dict[str, Any]) -> str:
    rows: list[str] = []

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, entry in value.items():
                add(f"{prefix}.{key}" if prefix else str(key), entry)
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            key, shown = html.escape(prefix), html.escape(text)
            rows.append(f'<tr><td class="key">{key}</td><td class="value">{shown}</td></tr>')

    for key, value in config.items():
        if isinstance(value, dict) and value:
            rows.append(f'<tr class="group"><td colspan="2">{html.escape(key)}</td></tr>')
            add("", value)
        else:
            add(key, value)
    if not rows:
        return ""
    return '<h2>Configuration</h2>\n<div class="scroll"><table>\n' + "\n".join(rows) + "\n</table></div>"
