"""One module per system: `python -m experiments.NAME [PRESET] [--field value]`."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from vaesr.allocator import keep_freed_memory

keep_freed_memory()  # before any module imports JAX


def discover() -> Iterator[ModuleType]:
    """Yield the modules on this package's path that hold a system: `PRESETS` and `build`."""
    for found in pkgutil.iter_modules(__path__):
        if found.name != "__main__":
            module = importlib.import_module(f"{__name__}.{found.name}")
            if hasattr(module, "PRESETS"):
                yield module
