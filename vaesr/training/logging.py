"""Metrics on disk: `metrics.jsonl` is the truth, TensorBoard events beside it."""

import json
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Self

from vaesr.files.rows import read_metrics

METRICS = "metrics.jsonl"


class MetricsWriter:
    """Appends rows to `metrics.jsonl`, and to TensorBoard where tensorboardX is installed."""

    def __init__(
        self, run_dir: str | pathlib.Path, *, resume_step: int | None = None, enabled: bool = True
    ) -> None:
        """Open the file; `enabled=False` writes nothing (every process but the first).

        Rows after `resume_step` are dropped first: the steps will be taken again. So are those of the test
        split: it is measured when the run ends.
        """
        self._file: Any = None
        self._board: Any = None
        if not enabled:
            return
        run_dir = pathlib.Path(run_dir)
        if resume_step is not None:
            kept = [row for row in read_metrics(run_dir / METRICS) if row["step"] <= resume_step]
            rows = [row for row in kept if row.get("split") != "test"]
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
        """Append a row; numbers that are not finite are written as null, which JSON has a word for.

        `step` is the number of steps taken, `split` "train", "validation" or "test".
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
