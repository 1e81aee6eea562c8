"""Write the tables of benchmarks/results/README.md from its JSON files: `python -m benchmarks.page`.

A suite's table stands between `<!-- table: SUITE -->` and `<!-- end -->`; the words around it are written by
hand and kept. A suite that the page has no place for gets one at the end; the list of files is the table
`files`.
"""

import pathlib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks import report

RESULTS = pathlib.Path(__file__).parent / "results"
_PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write(text: str, results: dict[str, dict[str, Any]]) -> str:
    """Fill the page's tables; `results` holds each file's name and what `report.read_json` reads of it."""
    measured = [r["suite"] for result in results.values() for r in result["rows"] if r["suite"] != "peaks"]
    for suite in dict.fromkeys(measured):
        if f"<!-- table: {suite} -->" not in text:
            text += f"\n## {suite}\n\n<!-- table: {suite} -->\n<!-- end -->\n"

    def fill(place: re.Match[str]) -> str:
        suite = place[2]
        return place[1] + (_files(results) if suite == "files" else _suite(suite, results)) + place[3]

    return _PLACE.sub(fill, text)


def read_results(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Read all results of a folder: each JSON file's name and content, by name."""
    return {path.name: report.read_json(path) for path in sorted(folder.glob("*.json"))}


def _files(results: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, result in results.items():
        found, versions = result["environment"], result["environment"]["versions"]
        where = f"{found['cores']} pinned core, CPU time" if found["pinned"] else f"{found['cores']} cores"
        matmul = next((r for r in report.measured(result["rows"]) if r["case"].startswith("matmul")), None)
        rows.append([
            str(_index(name, results)),
            f"[{name.removesuffix('.json')}]({name})",
            f"{found['device']}, {where}",
            ", ".join(f"{name} {versions[name]}" for name in ("jax", *_peers(result)) if name in versions),
            "" if matmul is None else f"{report.quantity(matmul['work_per_s'])}FLOP/s",
            "" if found["git"] is None else found["git"]["sha"][:8],
            f"`{' '.join(_without_paths(found['argv']))}`",
        ])  # fmt: skip
    return _markdown(["", "file", "device", "versions", "matmul peak", "commit", "arguments"], rows)


def _peers(result: dict[str, Any]) -> list[str]:
    """The frameworks that a result compares with."""
    frameworks = dict.fromkeys(r["framework"] for r in report.measured(result["rows"]))
    return [name for name in frameworks if name != "vaesr"]


def _without_paths(argv: Sequence[str]) -> list[str]:
    """The arguments that say what was measured, without those that say where it was written."""
    return [a for a, before in zip(argv, ["", *argv], strict=False) if not {a, before} & {"--json", "--plot"}]


def _suite(suite: str, results: dict[str, dict[str, Any]]) -> str:
    """One row for each of our sides, beside the best mode of each peer; what else is to be said, below."""
    kept = {name: [r for r in result["rows"] if r["suite"] == suite] for name, result in results.items()}
    kept = {name: rows for name, rows in kept.items() if rows}
    cases = list(dict.fromkeys(r["case"] for rows in kept.values() for r in rows))
    peers = list(dict.fromkeys(p for rows in kept.values() for p in _peers({"rows": rows})))
    if not cases:
        return ""
    common = [word for word in cases[0].split(", ") if all(word in case.split(", ") for case in cases)]
    common = common if len(cases) > 1 else []

    def short(case: str) -> str:
        return ", ".join(word for word in case.split(", ") if word not in common)

    lines, notes = [], []
    for name, rows in kept.items():
        for case in dict.fromkeys(r["case"] for r in rows):
            here = [r for r in rows if r["case"] == case]
            sides = report.measured(here)
            best = [_best([r for r in sides if r["framework"] == peer]) for peer in peers]
            for r in (r for r in sides if r["framework"] == "vaesr"):
                ratio = f"{_three(r['ratio'])}x" if "ratio" in r else ""
                lines.append(
                    [short(case), _own(r), _time(r), *best, ratio, f"[{_index(name, results)}]({name})"]
                )
            said = [_note(r) for r in sides if r["note"]]
            refused = {r["reason"] for r in here if r["status"] == "refused"}
            if said or refused:
                said += [f"refused, {reason}" for reason in sorted(refused)]
                notes.append(f"- {short(case)} [{_index(name, results)}]: {'; '.join(said)}\n")
    head = ["case" + (f" ({', '.join(common)})" if common else ""), "side", "vaesr", *peers, "ratio", "file"]
    return _markdown(head, lines) + ("\n" + "".join(notes) if notes else "")


def _index(name: str, results: dict[str, Any]) -> int:
    return 1 + list(results).index(name)


def _own(r: dict[str, Any]) -> str:
    """What tells our sides of a case apart."""
    return r["side"].removeprefix("vaesr").strip(", ")


def _note(r: dict[str, Any]) -> str:
    return str(r["note"]) if _own(r) in r["note"] else f"{_own(r)}: {r['note']}"


def _best(rows: list[dict[str, Any]]) -> str:
    """The time of a peer's fastest mode, and which one that is."""
    if not rows:
        return ""
    r = max(rows, key=lambda row: row["images_per_s"])
    mode = r["side"].removeprefix(r["framework"]).strip(", ")
    return _time(r) + (f" ({mode})" if mode else "")


def _time(r: dict[str, Any]) -> str:
    return report.duration(r["median"]) + ("~" if r["noisy"] else "")


def _three(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    """A table, without the columns in which nothing stands."""
    lines = [head, *rows]
    lines = [[line[i] for i in range(len(head)) if any(row[i] for row in lines[1:])] for line in lines]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> int:
    """The command: 0; 2 if a result can't be read."""
    page = RESULTS / "README.md"
    try:
        text = write(page.read_text("utf-8") if page.exists() else "", read_results(RESULTS))
    except (OSError, ValueError) as error:
        print(f"cannot read the results: {error}", file=sys.stderr)
        return 2
    page.write_text(text, "utf-8")
    print(
        f"wrote {page.relative_to(pathlib.Path.cwd()) if page.is_relative_to(pathlib.Path.cwd()) else page}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
