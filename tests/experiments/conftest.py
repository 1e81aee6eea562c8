"""One finished quick run of each system, shared by the experiments' tests."""

import functools

import pytest
import quick_runs


@pytest.fixture(autouse=True)
def share_cache(use_cache):
    """Every test here reads data."""


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """`finished(name)` is the configuration of a quick run that has come to its end."""
    root = tmp_path_factory.mktemp("runs")
    return functools.cache(lambda name: quick_runs.finish(name, root / name))
