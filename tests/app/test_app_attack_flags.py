"""Hostile words for every experiment's flags; apart from the other attacks, whose count of memory is slow."""

import fuzzing
import numpy as np
import pytest

import experiments
from vaesr.runs.flags import cli

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("module", list(experiments.discover()), ids=lambda module: module.__name__)
def test_fields(module, capsys):
    """Every value for every flag of the experiments, as far as a configuration: read, or a sentence."""
    with pytest.raises(SystemExit):
        cli(module.PRESETS, ["smoke", "--help"])
    flags = sorted({word for word in capsys.readouterr().out.split() if word.startswith("--")} - {"--help"})
    for seed in fuzzing.seeds(1):
        rng = np.random.default_rng(seed)
        for flag in rng.permutation(flags)[:20]:
            for value in rng.permutation([value for value in fuzzing.VALUES if value.isprintable()])[:4]:
                try:
                    cli(module.PRESETS, ["smoke", flag.strip(",|]"), value])
                except SystemExit as end:
                    assert end.code == 2
                said = capsys.readouterr()
                assert "Traceback" not in said.err + said.out
