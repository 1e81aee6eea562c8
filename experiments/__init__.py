"""One module per system: `python -m experiments.NAME [PRESET] [--field value]`."""
