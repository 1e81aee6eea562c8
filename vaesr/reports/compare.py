"""Several run folders in one table: mean and spread over the seeds of each configuration."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vaesr.files.rows import read_metrics
from vaesr.reports.curves import metric_names, series
from vaesr.reports.page import format_number

# Where, when and how fast a run went: differences in these don't make it another configuration.
_NOT_COMPARED = {
    "seed", "workdir", "resume", "overwrite", "eval_every", "checkpoint_every", "log_every", "parallel",
    "fsdp", "data_on", "steps_per_dispatch", "strict", "debug", "distributed", "coordinator",
    "num_processes", "process_id",
}  # fmt: skip
_ABSENT = "–"


class RunGroup(NamedTuple):
    """Runs of one configuration, and their seeds.

    The name is experiment and preset, and the fields by which it differs from the first group of that preset;
    `values` are `{metric: float64 [runs]}` of the final evaluation, NaN where a run lacks the metric.
    """

    name: str
    seeds: list[Any]
    values: dict[str, np.ndarray]

    def mean(self, metric: str) -> float:
        """The mean over the runs; NaN where one of them lacks the metric."""
        return float(np.mean(self.values[metric])) if metric in self.values else float("nan")

    def deviation(self, metric: str) -> float:
        """The sample standard deviation over the runs (n - 1); NaN for a single run."""
        values = self.values.get(metric, np.empty(0))
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def group_runs(folders: Sequence[str | os.PathLike[str]], *, split: str = "test") -> list[RunGroup]:
    """Reads the final metrics of run folders and puts runs that differ in the seed alone together.

    The folders hold `config.json` and `metrics.jsonl`; the last value of each metric of the split ("test",
    "validation" or "train") counts. The groups come in the order in which they first appear. A ValueError
    where a run has no metrics of the split (it is unfinished), or where one folder is given twice.
    """
    paths = [pathlib.Path(folder) for folder in folders]
    if not paths:
        raise ValueError("folders must name at least one run folder, got none")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError("folders must differ: one run given twice would look like two that agree")
    grouped: dict[str, list[tuple[dict[str, Any], dict[str, float]]]] = {}
    for path in paths:
        content, metrics = _read(path, split)
        kept = {name: value for name, value in _flat(content).items() if name not in _NOT_COMPARED}
        key = json.dumps([content.get("experiment"), content.get("preset"), kept], sort_keys=True)
        grouped.setdefault(key, []).append((content, metrics))
    names = _names([runs[0][0] for runs in grouped.values()])
    groups = []
    for name, runs in zip(names, grouped.values(), strict=True):
        metric_order = dict.fromkeys(metric for _, metrics in runs for metric in metrics)
        groups.append(
            RunGroup(
                name,
                [content.get("config", {}).get("seed") for content, _ in runs],
                {m: np.array([metrics.get(m, np.nan) for _, metrics in runs]) for m in metric_order},
            )
        )
    return groups


def compare_runs(folders: Sequence[str | os.PathLike[str]], *, split: str = "test") -> str:
    """Makes a table of the final metrics of several runs, mean and standard deviation over seeds.

    Folders and split are as for `group_runs`. The lines are a legend of the configurations, then a row per
    metric and a column per configuration, `mean ± sample standard deviation` where it has several runs.
    """
    groups = group_runs(folders, split=split)
    metrics = dict.fromkeys(metric for group in groups for metric in group.values)
    letters = [chr(ord("A") + i) if i < 26 else f"A{i}" for i in range(len(groups))]
    legend = [
        f"{letter}: {group.name}, {len(group.seeds)} run{'s' if len(group.seeds) > 1 else ''}, "
        f"seed{'s' if len(group.seeds) > 1 else ''} {', '.join(str(seed) for seed in group.seeds)}"
        for letter, group in zip(letters, groups, strict=True)
    ]
    rows = [[f"{split} metric", *letters]]
    rows += [[metric, *(_cell(group, metric) for group in groups)] for metric in metrics]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*legend, "", *table])


def _read(path: pathlib.Path, split: str) -> tuple[dict[str, Any], dict[str, float]]:
    try:
        content = json.loads((path / "config.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} is no run folder: it holds no config.json") from None
    records = [record for record in read_metrics(path) if record.get("split") == split]
    if not records:
        raise ValueError(f"{path} has no {split} metrics: the run is unfinished, or was killed; --resume it")
    return content, {name: float(series(records, split, name)[1][-1]) for name in metric_names(records)}


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"optim.lr": ...}` of a run's configuration."""
    source = content.get("config", {}) if not prefix else content
    flat: dict[str, Any] = {}
    for name, value in source.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _names(contents: list[dict[str, Any]]) -> list[str]:
    """`experiments.vae default`, and how each configuration differs from the first of its preset."""
    first: dict[str, dict[str, Any]] = {}
    names = []
    for content in contents:
        title = f"{content.get('experiment', 'a run')} {content.get('preset', '')}".strip()
        fields = _flat(content)
        base = first.setdefault(title, fields)
        differing = [
            f"{name}={fields.get(name)}"
            for name in {**base, **fields}
            if name not in _NOT_COMPARED and fields.get(name) != base.get(name)
        ]
        names.append(f"{title} ({', '.join(differing)})" if differing else title)
    return names


def _cell(group: RunGroup, metric: str) -> str:
    if metric not in group.values:
        return _ABSENT
    mean, deviation = format_number(group.mean(metric)), group.deviation(metric)
    return mean if np.isnan(deviation) else f"{mean} ± {deviation:.2g}"
