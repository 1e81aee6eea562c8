"""Variational autoencoders and super-resolution in JAX.

Import the part you need: `vaesr.losses`, `vaesr.metrics`, `vaesr.imaging`, `vaesr.distributions`,
`vaesr.models`, `vaesr.objectives`, `vaesr.training`, `vaesr.data`, `vaesr.inference`, `vaesr.reports`; or
`import vaesr` alone, which imports each when it is first asked for.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:  # the command has not said what Ctrl-C does before this file has been read
    from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> "Any":
    """A room, by its name: imported now, and not by `import vaesr`, which would wait for JAX."""
    import importlib

    if name in _rooms():
        return importlib.import_module(f"vaesr.{name}")
    raise AttributeError(f"module 'vaesr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_rooms()])


def _rooms() -> list[str]:
    import pkgutil

    return [module.name for module in pkgutil.iter_modules(__path__) if module.name != "__main__"]
