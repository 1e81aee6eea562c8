"""Rows, the printed table, the JSON file and the plot."""

import json
import math
import pathlib
from typing import Any

from benchmarks import timing

SCHEMA = 1


def row(case: timing.Case, side: timing.Side, samples: timing.Samples, *, clock: str) -> dict[str, Any]:
    """Turn one side's samples into a row, ready for JSON, with the raw samples of both clocks.

    `clock` is "cpu" or "wall": which of the two the row's figures are taken from.
    """
    both = {"wall": timing.summarise(samples.wall_s), "cpu": timing.summarise(samples.cpu_s)}
    median = both[clock]["median"]
    return {
        "suite": case.suite,
        "case": case.name,
        "side": side.name,
        "framework": side.framework,
        "status": "ok",
        "clock": clock,
        **both[clock],
        **both,
        "samples": {"wall_s": samples.wall_s, "cpu_s": samples.cpu_s},
        "calls_per_sample": samples.calls_per_sample,
        "steps_per_call": side.steps_per_call,
        "images_per_step": side.images_per_step,
        "images_per_s": side.images_per_step / median,
        "work_per_step": side.work_per_step,
        "unit": side.unit,
        "work_per_s": None if side.work_per_step is None else side.work_per_step / median,
        "memory_bytes": side.memory_bytes,
        "compile_s": side.compile_s,
        "checks": side.check() if side.check else {},
        "parity": case.parity,
        "note": side.note,
    }


def absent_row(case: timing.Case, side: str, reason: str, *, status: str = "skipped") -> dict[str, Any]:
    """A row for a side that was not measured: "skipped", or "refused" where the equality check failed."""
    return {"suite": case.suite, "case": case.name, "side": side, "status": status, "reason": reason}


def finish(rows: list[dict[str, Any]]) -> None:
    """Add what takes all rows: the share of the matmul peak and the ratio to the best peer.

    The rows are of one run and changed in place. `ratio` is our throughput over the best peer's on the same
    case, above 1 where ours is faster.
    """
    matmuls = (r for r in rows if r["suite"] == "peaks" and r["case"].startswith("matmul"))
    peak = next((r["work_per_s"] for r in matmuls), None)
    for r in measured(rows):
        if peak and r["unit"] == "FLOP" and r["work_per_s"]:
            r["share_of_matmul"] = r["work_per_s"] / peak
        peers = [p for p in measured(rows) if _case(p) == _case(r) and p["framework"] != "vaesr"]
        if peers and r["framework"] == "vaesr":
            best = max(peers, key=lambda p: p["images_per_s"])
            r["best_peer"] = best["side"]
            r["ratio"] = r["images_per_s"] / best["images_per_s"]


def measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that hold a time: those with status "ok"."""
    return [r for r in rows if r["status"] == "ok"]


def table(rows: list[dict[str, Any]]) -> str:
    """The table of finished rows as text, with a foot of parity lines, flags and reasons."""
    head = ["case", "side", "median", "IQR", "n", "img/s", "rate", "of matmul", "memory", "vs best peer"]
    lines = [head, *(_cells(r) for r in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def show(line: list[str]) -> str:
        left = [line[i].ljust(widths[i]) for i in range(2)]
        return "  ".join(left + [line[i].rjust(widths[i]) for i in range(2, len(head))]).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([show(head), rule, *map(show, lines[1:]), *_foot(rows)])


def _cells(r: dict[str, Any]) -> list[str]:
    if r["status"] != "ok":
        return [r["case"], f"{r['side']}  {r['status']}: {r['reason']}", *[""] * 8]
    peak = r["suite"] == "peaks"
    return [
        r["case"],
        r["side"],
        duration(r["median"]) + ("~" if r["noisy"] else ""),
        f"{100 * r['iqr'] / r['median']:.1f}%",
        str(r["n"]),
        "" if peak else quantity(r["images_per_s"]),
        "" if r["work_per_s"] is None else f"{quantity(r['work_per_s'])}{r['unit']}/s",
        f"{100 * r['share_of_matmul']:.1f}%" if "share_of_matmul" in r and not peak else "",
        "" if r["memory_bytes"] is None else f"{r['memory_bytes'] / 2**20:.0f} MiB",
        f"{r['ratio']:.2f}x" if "ratio" in r else "",
    ]


def _foot(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    ok = measured(rows)
    if ok:
        clock = "CPU time of one process" if ok[0]["clock"] == "cpu" else "wall clock"
        lines.append(f"clock: {clock}; ratio: our images/s over the best peer row's.")
    if any(r["noisy"] for r in ok):
        lines.append(f"~ IQR over {100 * timing.NOISY:.0f}% of the median: the machine was not quiet.")
    seen = set()
    for r in ok:
        if r["parity"] and _case(r) not in seen:
            seen.add(_case(r))
            lines.append(f"parity {r['case']}: {parity_line(r['parity'])}")
        if r["note"]:
            lines.append(f"{r['case']}, {r['side']}: {r['note']}")
        bad = [name for name, value in r["checks"].items() if value is False]
        if bad:
            lines.append(f"FAILED CHECK {r['case']}, {r['side']}: {', '.join(bad)}")
    return lines


def parity_line(parity: dict[str, Any]) -> str:
    """One line about an equality check, e.g. `passed (output 2.1e-07, losses 3.0e-07)`."""
    facts = ", ".join(f"{k} {v:.1e}" for k, v in parity.items() if isinstance(v, float))
    return f"{'passed' if parity['passed'] else 'FAILED'} ({facts})"


def duration(seconds: float) -> str:
    """A time with three digits and a fitting unit, e.g. `12.3 ms`."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= scale:
            value = seconds / scale
            return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def quantity(value: float) -> str:
    """A number, not negative, with three digits and an SI prefix, e.g. `4.21 k`, `61.3 G`."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{_three(value / scale)} {prefix}"
    return f"{_three(value)} "


def _three(value: float) -> str:
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def write_json(path: str | pathlib.Path, rows: list[dict[str, Any]], environment: dict[str, Any]) -> None:
    """Write the run's result: finished rows, and the environment of `env.collect`."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schema": SCHEMA, "environment": environment, "rows": rows}, indent=1, allow_nan=False)
    path.write_text(text + "\n")


def read_json(path: str | pathlib.Path) -> dict[str, Any]:
    """Read a result of `write_json`; ValueError if the file is of another schema."""
    result = json.loads(pathlib.Path(path).read_text())
    if result.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {result.get('schema')!r}; this code reads schema {SCHEMA}.")
    return result


def plot(path: str | pathlib.Path, rows: list[dict[str, Any]], *, title: str) -> str | None:
    """Bars of throughput as PNG, ours beside the peer's, one panel per case.

    None, or the reason why there is no plot (matplotlib is not installed, nothing to show).
    """
    shown = [r for r in measured(rows) if r["suite"] != "peaks"]
    if not shown:
        return "no rows to plot"
    try:
        import matplotlib
    except ImportError:
        return "matplotlib is not installed"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = list(dict.fromkeys(map(_case, shown)))
    bars = [sum(_case(r) == case for r in shown) for case in cases]
    figure, axes = pyplot.subplots(
        len(cases), 1, figsize=(9, 1.1 * len(cases) + 0.42 * sum(bars)), squeeze=False,
        gridspec_kw={"height_ratios": [b + 0.6 for b in bars]}, layout="constrained",
    )  # fmt: skip
    for axis, case in zip(axes[:, 0], cases, strict=True):
        _panel(axis, case, [r for r in shown if _case(r) == case])
    figure.suptitle(title, fontsize=10)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return None


def _panel(axis: Any, case: tuple[str, str], rows: list[dict[str, Any]]) -> None:
    rates = [r["images_per_s"] for r in rows]
    # From the quartiles of the time to those of the rate.
    spread = [0.5 * r["iqr"] / r["median"] * r["images_per_s"] for r in rows]
    colours = ["#1f6f8b" if r["framework"] == "vaesr" else "#e07a3f" for r in rows]
    axis.barh(range(len(rows)), rates, xerr=spread, color=colours, height=0.7, error_kw={"lw": 1})
    axis.set_yticks(range(len(rows)), [r["side"] for r in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_title(f"{case[0]}: {case[1]}", fontsize=9, loc="left")
    axis.set_xlim(0, 1.4 * max(rates))
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    for i, r in enumerate(rows):
        ratio = f"  ({r['ratio']:.2f}x best peer)" if "ratio" in r else ""
        axis.text(
            rates[i] + spread[i], i, f" {quantity(rates[i]).strip()} img/s{ratio}", va="center", fontsize=8
        )


def _case(r: dict[str, Any]) -> tuple[str, str]:
    return r["suite"], r["case"]
