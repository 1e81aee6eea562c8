"""A new system is one model file and one experiment file: nothing else is edited, and everything finds it."""

import importlib
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experiments
import vaesr.models
from benchmarks import trainings
from benchmarks.options import Options
from benchmarks.suites import train
from vaesr import forms, inference, runs, training

MODEL = '''
"""A network of three convolutions, enlarged by the nearest pixel."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.imaging import upsample_nearest
from vaesr.layers import Conv


class Toy(nn.Module):
    """Three convolutions.

    Attributes:
        scale: upscaling factor.
        channels: of the convolutions.
    """

    scale: int = 2
    channels: int = 16
    dtype: Any = jnp.float32
    conv_form: str = "auto"

    wide_at_output = False
    input_multiple = 1

    @property
    def receptive_radius(self) -> int:
        return 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Conv(self.channels, 3, dtype=self.dtype, form=self.conv_form, name="first")(x)
        y = Conv(self.channels, 3, dtype=self.dtype, form=self.conv_form, name="second")(nn.relu(y))
        y = Conv(3, 1, dtype=self.dtype, form=self.conv_form, name="last")(nn.relu(y))
        return upsample_nearest(y + x, self.scale).astype(jnp.float32)


PRESETS = {"paper": Toy()}
'''
EXPERIMENT = '''
"""Toy (nobody 2026): one convolution.

    python -m experiments.toy

Expected: nothing. Measured: nothing; 1 s on 1 CPU core.
"""

import dataclasses

import jax.numpy as jnp

from experiments.recipes import restoration
from vaesr import runs
from vaesr.models.toy import Toy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(restoration.Config):
    """Toy on photographs."""

    # Network.
    model: Toy = Toy()


_SMOKE = Config(
    data="embedded:photos", steps=4, batch_size=4, patch=12, eval_every=4, checkpoint_every=2, log_every=2,
    eval_crop=48, test_crop=96,
)
_BENCH = dataclasses.replace(_SMOKE, data="random:photos", eval_crop=48, test_crop=48)
PRESETS = {"smoke": _SMOKE, "bench": _BENCH, "default": _SMOKE, "paper": _SMOKE}


def build(config: Config) -> runs.Experiment:
    """One network, L1."""
    model = config.model.clone(dtype=jnp.dtype(config.compute_dtype))
    return restoration.build(config, model, label="Toy", player="toy")


if __name__ == "__main__":
    runs.main(PRESETS, build)
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Both files in folders on the packages' paths, as a user's own package may put them."""
    for package, text in ((vaesr.models, MODEL), (experiments, EXPERIMENT)):
        folder = tmp_path / package.__name__.rpartition(".")[2]
        folder.mkdir()
        (folder / "toy.py").write_text(textwrap.dedent(text).lstrip())
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield importlib.import_module("experiments.toy")
    for name in ("experiments.toy", "vaesr.models.toy"):
        sys.modules.pop(name, None)


def test_a_new_system_is_found_trained_resumed_and_lowered(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    assert "toy" in {module.__name__.rpartition(".")[2] for module in experiments.discover()}
    monkeypatch.setattr(sys, "argv", ["experiments"])
    importlib.import_module("experiments.__main__").main()
    assert "python -m experiments.toy [smoke|bench|default|paper]" in capsys.readouterr().out

    def train(folder, *words):
        monkeypatch.setattr(sys, "argv", ["toy", "smoke", "--workdir", str(tmp_path / folder), *words])
        with pytest.raises(SystemExit) as ended:
            runs.main(toy.PRESETS, toy.build)
        assert ended.value.code == 0, capsys.readouterr()

    train("whole")
    train("parts", "--steps", "2")
    train("parts", "--resume", "--steps", "4")
    whole, parts = (training.restore_params(tmp_path / name, "latest") for name in ("whole", "parts"))
    assert whole[2] == parts[2] == 4
    jax.tree.map(np.testing.assert_array_equal, whole[0], parts[0])

    larger = inference.upscale(runs.load_run(tmp_path / "whole"), np.zeros((9, 8, 3), np.uint8))
    assert larger.shape == (18, 16, 3)
    experiment = toy.build(toy.PRESETS["smoke"])
    state = jax.eval_shape(
        lambda key: training.create_state(experiment.init, experiment.players, key=key), jax.random.key(0)
    )
    batch = {"x_lr": jnp.zeros((4, 12, 12, 3)), "x_hr": jnp.zeros((4, 24, 24, 3))}
    step = training.make_train_step(experiment.players)
    assert forms.made_for_cpus(step, state, batch, platform="cpu")  # so that the next line can fail
    assert not forms.made_for_cpus(step, state, batch, platform="tpu")


def test_a_new_system_is_benchmarked(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    assert "toy.bench" in trainings.names()
    (case,) = train.cases(Options(smoke=True, models=("toy",)))
    ours = case.sides[0]
    ours.run(1)
    assert case.name.startswith("toy: Toy of") and ours.work_per_step > 0
    assert ours.check is None or all(ours.check().values())


def test_a_new_system_has_flags_of_its_own(toy, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["toy", "--help"])
    with pytest.raises(SystemExit):
        runs.main(toy.PRESETS, toy.build)
    shown = capsys.readouterr().out
    assert (
        "--model.channels" in shown and "of the convolution" in shown.lower() and "--model.dtype" not in shown
    )
