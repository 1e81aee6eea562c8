"""Factories that bind an apply function and losses into an `Objective`."""

from vaesr.objectives.objective import Aux, Batch, Objective, Params

__all__ = ["Aux", "Batch", "Objective", "Params"]
