"""One data cache for the experiments' tests, and one finished quick run of each system, shared by them."""

import functools

import pytest
import quick_runs


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Images are decoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def use_cache(cache, monkeypatch):
    monkeypatch.setenv("VAESR_CACHE", str(cache))


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """`finished(name)` is the configuration of a quick run that has come to its end."""
    root = tmp_path_factory.mktemp("runs")
    return functools.cache(lambda name: quick_runs.finish(name, root / name))
