"""List the experiments, or compare runs: `python -m experiments [gallery | compare RUN RUN ...]`."""

import sys

import experiments


def main() -> None:
    """Print each experiment's command, first line and presets; README's table of them; or a table of runs."""
    if sys.argv[1:2] == ["compare"]:
        _compare(sys.argv[2:])
        return
    if sys.argv[1:] == ["gallery"]:
        print(gallery(), end="")
        return
    if sys.argv[1:]:
        print(
            "python -m experiments takes nothing, gallery, or compare RUN RUN ..., "
            f"got {' '.join(sys.argv[1:])!r}.",
            file=sys.stderr,
        )
        sys.exit(2)
    for module in experiments.discover():
        print(f"python -m {module.__name__} [{'|'.join(module.PRESETS)}]")
        print(f"    {(module.__doc__ or '').strip().splitlines()[0]}")
    print("--help after any of them explains its fields.")
    print("python -m experiments compare RUN RUN ...")
    print("    The final metrics of run folders, mean and standard deviation over seeds.")


def gallery() -> str:
    """README's table, of the docstrings' words: the system up to a colon, the figure after "Measured:"."""
    lines = ["| system | command | measured |", "|---|---|---|"]
    for module in experiments.discover():
        text = " ".join((module.__doc__ or "").split())
        system = (module.__doc__ or "").strip().splitlines()[0].partition(":")[0].rstrip(".")
        figure = text.partition("Measured: ")[2].rstrip(".")
        lines.append(f"| {system} | `python -m {module.__name__}` | {figure} |")
    return "\n".join(lines) + "\n"


def _compare(folders: list[str]) -> None:
    from vaesr import reports

    try:
        print(reports.compare_runs(folders))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
