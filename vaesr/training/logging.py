"""Metrics on disk: `metrics.jsonl` is the truth, TensorBoard events beside it."""

import json
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Self

METRICS = "metrics.jsonl"


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The file's rows; a last line cut short by a crash is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class MetricsWriter:
    """Appends rows to `metrics.jsonl`, and to TensorBoard where tensorboardX is installed."""

    def __init__(
        self, run_dir: str | pathlib.Path, *, resume_step: int | None = None, enabled: bool = True
    ) -> None:
        """Open the file.

        Args:
            run_dir: the run folder.
            resume_step: rows after this step are dropped first: the steps will be taken again. So are
                those of the test split: it is measured when the run ends.
            enabled: False writes nothing (every process but the first).
        """
        self._file: Any = None
        self._board: Any = None
        if not enabled:
            return
        run_dir = pathlib.Path(run_dir)
        if resume_step is not None:
            kept = [row for row in _rows(run_dir / METRICS) if row["step"] <= resume_step]
            rows = [row for row in kept if row["split"] != "test"]
            temporary = run_dir / (METRICS + ".tmp")
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
            temporary.replace(run_dir / METRICS)
        self._file = (run_dir / METRICS).open("a", buffering=1)
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            return
        purge = None if resume_step is None else resume_step + 1
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Append a row.

        Args:
            step: number of steps taken.
            split: "train", "validation" or "test".
            metrics: numbers; those that are not finite are written as null, which JSON has a word for.
        """
        if self._file is None:
            return
        row: dict[str, Any] = {"step": step, "split": split, "time": round(time.time(), 3)}
        row |= {name: float(v) if math.isfinite(v) else None for name, v in metrics.items()}
        self._file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flush and close."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()
