"""Metrics, and fusions of them, beside what people said of the same images."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vaesr.app.comparisons import Measurement
from vaesr.app.metric_names import Metric
from vaesr.data import SubjectiveDatabase
from vaesr.metrics import agreement, borda_fusion, isotonic_calibration, reciprocal_rank_fusion
from vaesr.metrics.agreement import Fit
from vaesr.reports.scores import Table


def against_people(
    chosen: Sequence[Metric],
    measured: Sequence[Measurement],
    database: SubjectiveDatabase,
    *,
    fit: Fit,
    k: float,
    weights: dict[str, float],
) -> tuple[Table, dict[str, Any]]:
    """Compares every metric, and the fusions of those that scored every image, with what people said.

    The measurements are named by their places in the database. `fit` comes before PLCC and RMSE; `k` and
    `weights` (by the metrics' names; 1 where one is missing) are of the fusions. Returns a table, best SRCC
    first, and all figures by name.
    """
    pairs = [database.pairs[int(v.item.name)] for v in measured]
    people = np.array([pair.score for pair in pairs])
    scores = np.array([[v.scores[metric.name] for v in measured] for metric in chosen])
    # What PSNR says of identical images: more than of any other.
    ceiling = np.where(np.isfinite(scores), scores, -np.inf).max(axis=1, keepdims=True)
    scores = np.where(np.isposinf(scores), ceiling + 1, scores)
    # Scores by name, and whether higher is better.
    ours = {j.name: (row, j.higher_is_better) for j, row in zip(chosen, scores, strict=True)}
    whole = np.isfinite(scores).all(axis=1)
    members = [metric for metric, held in zip(chosen, whole, strict=True) if held]
    if len(members) > 1:
        table, directions = scores[whole], [j.higher_is_better for j in members]
        joined = "+".join(metric.name for metric in members)
        w = np.array([weights.get(metric.name, 1.0) for metric in members])
        fused = np.asarray(reciprocal_rank_fusion(table, higher_is_better=directions, k=k, weights=w), float)
        borda = np.asarray(borda_fusion(table, higher_is_better=directions, weights=w), float)
        calibrated = isotonic_calibration(fused, table[0], higher_is_better=directions[0])
        ours[f"rrf{k:g}({joined})"] = fused, True
        ours[f"borda({joined})"] = borda, True
        ours[f"rrf{k:g}({joined}), in units of {members[0].name}"] = calibrated, directions[0]
    figures: dict[str, Any] = {}
    rows = []
    for name, (values, higher) in ours.items():
        held = np.isfinite(values)
        if held.sum() < 5 or np.ptp(values[held]) == 0:
            continue
        found = agreement(values[held], people[held], fit=fit)
        by_kind = {}
        for kind in sorted({pair.distortion for pair in pairs} - {""}):
            own = held & np.array([pair.distortion == kind for pair in pairs])
            if own.sum() > 4 and np.ptp(values[own]) > 0 and np.ptp(people[own]) > 0:
                by_kind[kind] = agreement(values[own], people[own], fit="none").srcc
        figures[name] = {
            "plcc": found.plcc,
            "srcc": found.srcc,
            "krcc": found.krcc,
            "rmse": None if math.isnan(found.rmse) else found.rmse,
            "fit": found.fit,
            "fit_parameters": found.parameters,
            "number": found.number,
            "higher_is_better": higher,
            "srcc_by_distortion": by_kind,
        }
        rows.append((name, found.plcc, abs(found.srcc), abs(found.krcc), found.rmse, float(found.number)))
    rows.sort(key=lambda row: -row[2])
    head = ("metric", f"PLCC ({fit})", "|SRCC|", "|KRCC|", "RMSE", "images")
    return Table(f"Agreement with people ({database.scale})", head, rows), figures


def read_weights(text: str, chosen: Sequence[Metric]) -> dict[str, float]:
    """Reads the weights of a fusion by the metrics' names, as "ssim=1,vsi=2", or "".

    A ValueError for another form, an unknown name, a weight below 0, or none above 0.
    """
    try:
        pairs = [part.split("=") for part in text.split(",") if part.strip()]
        given = {name.strip().replace("-", "_"): float(value) for name, value in pairs}
    except ValueError:
        raise ValueError(f"--weights must be of the form ssim=1,vsi=2, got {text!r}") from None
    names = [metric.name for metric in chosen]
    every = [given.get(name, 1.0) for name in names]
    if set(given) - set(names) or not (min(every) >= 0 and 0 < sum(every) < math.inf):
        raise ValueError(
            f"--weights must name some of {', '.join(names)}, at least 0 each and not all 0, got {text!r}"
        )
    return given


def print_table(table: Table) -> None:
    """Prints a table in columns: numbers but for the first, a whole number in the last."""
    width = max(len(str(row[0])) for row in table.rows) if table.rows else 6
    print(table.title)
    print("  ".join([table.head[0].ljust(width), *(f"{name:>16}" for name in table.head[1:])]))
    for name, *values in table.rows:
        cells = [f"{value:>16.4f}" if isinstance(value, float) else f"{value:>16}" for value in values[:-1]]
        print("  ".join([str(name).ljust(width), *cells, f"{float(values[-1]):>16.0f}"]))
