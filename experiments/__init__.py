"""One module per system: `python -m experiments.NAME [PRESET] [--field value]`."""

from vaesr.allocator import keep_freed_memory

keep_freed_memory()  # before any module imports JAX
