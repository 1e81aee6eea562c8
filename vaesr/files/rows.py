"""The rows of `metrics.jsonl`, read by whoever goes on with a run and whoever shows it."""

import json
import os
import pathlib
from typing import Any


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the records of a run; a line that a crash cut off, anywhere, is passed over.

    One dict a line, in the file's order. The path is `metrics.jsonl`, or the run folder that holds it; no
    file gives no records.
    """
    path = pathlib.Path(path)
    path = path / "metrics.jsonl" if path.is_dir() else path
    records = []
    for line in path.read_text("utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int | float):
            records.append(record)
    return records
