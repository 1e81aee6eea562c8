"""Compare two results: `python -m benchmarks.compare OLD.json NEW.json --fail-over 7%`.

A row fails when its median is slower by more than the threshold *and* a rank test says that the two sets
of samples differ. Results of different devices, clocks or jaxlibs are not compared unless `--force`.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

from benchmarks import report

_EXACT = 12  # up to this many samples a side the null distribution is counted, not approximated


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided Mann-Whitney U test: how likely ranks this uneven are if both come from one distribution.

    The p-value in (0, 1], exact for up to 12 samples a side without ties, else by the normal approximation
    with the corrections for ties and continuity. ValueError without samples. Mann and Whitney 1947.
    """
    if not a or not b:
        raise ValueError(f"both sets need samples; got {len(a)} and {len(b)}.")
    m, n = len(a), len(b)
    u = sum((x > y) + 0.5 * (x == y) for x in a for y in b)
    u = max(u, m * n - u)
    ties = m + n - len({*a, *b})
    if not ties and max(m, n) <= _EXACT:
        tail = sum(_ways(m, n, k) for k in range(math.ceil(u), m * n + 1))
        return min(1.0, 2.0 * tail / math.comb(m + n, m))
    total = m + n
    counts = [sum(v == w for w in (*a, *b)) for v in {*a, *b}]
    spread = m * n / 12 * (total + 1 - sum(c**3 - c for c in counts) / (total * (total - 1)))
    if spread == 0:  # all samples are equal
        return 1.0
    z = (u - m * n / 2 - 0.5) / math.sqrt(spread)
    return min(1.0, math.erfc(z / math.sqrt(2)))


@cache
def _ways(m: int, n: int, u: int) -> int:
    """Orderings of m and n samples with exactly u pairs the wrong way round."""
    if u < 0:
        return 0
    if m == 0 or n == 0:
        return int(u == 0)
    return _ways(m - 1, n, u - n) + _ways(m, n - 1, u)


def conflicts(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Why two results of `report.read_json` cannot be compared, a line each; empty when they can be."""

    def facts(result: dict[str, Any]) -> dict[str, Any]:
        environment = result["environment"]
        clocks = sorted({r["clock"] for r in report.measured(result["rows"])})
        return {
            "device": environment["device"],
            "driver": (environment.get("driver") or "").split(",")[0],
            "cores": environment["cores"],
            "jaxlib": environment["versions"].get("jaxlib"),
            "clock": clocks,
        }

    before, after = facts(old), facts(new)
    return [f"{k}: {before[k]} against {after[k]}" for k in before if before[k] != after[k]]


def compare(
    old: dict[str, Any], new: dict[str, Any], *, threshold: float, significance: float = 0.01
) -> list[dict[str, Any]]:
    """Compare the rows that both results hold.

    `threshold` is the relative change of the median, e.g. 0.07; `significance` the p-value under which the
    rank test rejects. One dict per common row: `name`, `old`, `new` (medians), `change`, `p`, `verdict`
    ("same", "slower", "faster").
    """

    def keyed(result: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
        return {(r["suite"], r["case"], r["side"]): r for r in report.measured(result["rows"])}

    before, after = keyed(old), keyed(new)
    lines = []
    for name in (key for key in before if key in after):
        a, b = before[name], after[name]
        samples = f"{a['clock']}_s"
        change = b["median"] / a["median"] - 1
        p = mann_whitney(a["samples"][samples], b["samples"][samples])
        differs = abs(change) > threshold and p < significance
        verdict = ("slower" if change > 0 else "faster") if differs else "same"
        lines.append(
            {"name": " / ".join(name), "old": a["median"], "new": b["median"], "change": change, "p": p,
             "verdict": verdict}
        )  # fmt: skip
    return lines


def fraction(text: str) -> float:
    """Read `7%` or `0.07`; ValueError for anything else, or a negative one."""
    value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if not 0 <= value < math.inf:
        raise ValueError(f"{text!r} is no fraction of at least 0")
    return value


def main(argv: list[str] | None = None) -> int:
    """The command: 0 if nothing got slower, 1 if something did, 2 if the results cannot be compared."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("old", help="the result to compare with")
    parser.add_argument("new", help="the result under judgement")
    parser.add_argument(
        "--fail-over", type=fraction, default=0.07, metavar="7%", help="least change of a median"
    )
    parser.add_argument("--force", action="store_true", help="compare although device or jaxlib differ")
    options = parser.parse_args(argv)
    try:
        old, new = report.read_json(options.old), report.read_json(options.new)
    except (OSError, ValueError) as error:
        print(f"cannot read the results: {error}", file=sys.stderr)
        return 2
    differing = conflicts(old, new)
    if differing:
        print("these results differ in more than the code:\n  " + "\n  ".join(differing), file=sys.stderr)
        if not options.force:
            print("pass --force to compare them all the same.", file=sys.stderr)
            return 2
    lines = compare(old, new, threshold=options.fail_over)
    if not lines:
        print("the results have no row in common.", file=sys.stderr)
        return 2
    width = max(len(line["name"]) for line in lines)
    for line in lines:
        medians = f"{report.duration(line['old']):>9} -> {report.duration(line['new']):>9}"
        change = f"{100 * line['change']:+6.1f}%  p={line['p']:.3f}"
        print(f"{line['name'].ljust(width)}  {medians}  {change}  {line['verdict']}")
    return int(any(line["verdict"] == "slower" for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
