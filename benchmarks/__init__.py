"""Speed measurements: `python -m benchmarks.run`, and `python -m benchmarks.compare OLD.json NEW.json`.

Importing this package needs only the core dependencies; torch and matplotlib are looked for when they
are asked for, and their absence is a line in the output, never an error.
"""
