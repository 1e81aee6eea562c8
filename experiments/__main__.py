"""List the experiments, or compare runs: `python -m experiments [compare RUN RUN ...]`."""

import importlib
import pkgutil
import sys

import experiments


def main() -> None:
    """Print each experiment's command, first line and presets; or a table of finished runs."""
    if sys.argv[1:2] == ["compare"]:
        _compare(sys.argv[2:])
        return
    if sys.argv[1:]:
        print(
            f"python -m experiments takes nothing or compare RUN RUN ..., got {sys.argv[1]!r}.",
            file=sys.stderr,
        )
        sys.exit(2)
    for module in pkgutil.iter_modules(experiments.__path__):
        if module.name == "__main__":
            continue
        loaded = importlib.import_module(f"experiments.{module.name}")
        if hasattr(loaded, "PRESETS"):
            print(f"python -m {loaded.__name__} [{'|'.join(loaded.PRESETS)}]")
            print(f"    {(loaded.__doc__ or '').strip().splitlines()[0]}")
    print("--help after any of them explains its fields.")
    print("python -m experiments compare RUN RUN ...")
    print("    The final metrics of run folders, mean and standard deviation over seeds.")


def _compare(folders: list[str]) -> None:
    from vaesr import reports

    try:
        print(reports.compare_runs(folders))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
