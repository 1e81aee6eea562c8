"""Runs: what an experiment is, its flags, its folder, the training in it; and trained networks read back."""

from vaesr.runs.config import Config, changeable, check_least
from vaesr.runs.description import build_model, describe_model
from vaesr.runs.experiment import Evaluate, Experiment, Stage, Step
from vaesr.runs.folder import UserError
from vaesr.runs.load import Run, load_run
from vaesr.runs.main import main, run
from vaesr.runs.networks import Fixed

__all__ = [
    "Config",
    "Evaluate",
    "Experiment",
    "Fixed",
    "Run",
    "Stage",
    "Step",
    "UserError",
    "build_model",
    "changeable",
    "check_least",
    "describe_model",
    "load_run",
    "main",
    "run",
]
