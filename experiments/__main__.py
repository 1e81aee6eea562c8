"""List the experiments: `python -m experiments`."""

import importlib
import pkgutil

import experiments


def main() -> None:
    """Print each experiment's command, first line and presets."""
    for module in pkgutil.iter_modules(experiments.__path__):
        if module.name not in ("base", "flags", "__main__"):
            loaded = importlib.import_module(f"experiments.{module.name}")
            print(f"python -m {loaded.__name__} [{'|'.join(loaded.PRESETS)}]")
            print(f"    {(loaded.__doc__ or '').strip().splitlines()[0]}")
    print("--help after any of them explains its fields.")


if __name__ == "__main__":
    main()
