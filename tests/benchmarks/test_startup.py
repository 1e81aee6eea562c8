"""The suite `startup`: the command gives what its network gives, and a cold start has nothing compiled."""

import pytest

from benchmarks.options import Options
from benchmarks.suites import startup


@pytest.mark.slow
def test_the_command_gives_what_its_network_gives(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    (case,) = startup.cases(Options(suites=("startup",), smoke=True))
    assert case.parity["passed"] and [side.framework for side in case.sides] == ["vaesr", "vaesr", "network"]
    assert not any(tmp_path.iterdir())
    assert list(startup.cases(Options(suites=("startup",), models=("srvgg",)))) == []


@pytest.mark.slow
def test_a_start_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"vaesr upscale failed with 2: vaesr upscale: .*photo\.png"):
        startup._command(tmp_path, cold=True)
