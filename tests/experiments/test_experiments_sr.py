"""Training of one upscaler: wrong knobs and photos too small to measure stop a run before it trains."""

import dataclasses
import inspect
import pathlib

import jax
import numpy as np
import PIL.Image
import pytest

import experiments
from experiments import edsr, mdsr
from experiments.recipes import restoration
from vaesr.models.edsr import EDSR
from vaesr.models.mdsr import MDSR

MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in experiments.discover()
    if isinstance(module.PRESETS["smoke"], restoration.PhotoConfig)
    and not inspect.isgeneratorfunction(module.build)
}


def pictures(root: pathlib.Path, sizes: dict[str, tuple[int, int]]) -> str:
    rng = np.random.default_rng(0)
    for name, (height, width) in sizes.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(
            root / f"{name}.png"
        )
    return f"folder:{root}"


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    "fields, words",
    [
        ({"eval_crop": 23}, r"--eval-crop must be at least (24|36) \(12 x the (largest )?scale\), got 23"),
        ({"test_crop": 11}, r"--test-crop must be at least (24|36) \(12 x the (largest )?scale\), got 11"),
        ({"patch": 0}, "--patch must be at least 1, got 0"),
        ({"ema_decay": 1.0}, "--ema-decay must be from 0 to less than 1, got 1.0"),
        ({"ema_decay": float("nan")}, "--ema-decay must be"),
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"seed": 1 << 64}, r"--seed must be from 0 to 2\^63 - 1, got 18446744073709551616"),
    ],
)
def test_wrong_knobs_name_their_flag(name, fields, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(MODULES[name].PRESETS["smoke"], **fields)


def test_wrong_scales_name_their_flag():
    with pytest.raises(ValueError, match=r"--model\.scale must be 2, 3, 4 or 8, got 5"):
        dataclasses.replace(edsr.PRESETS["smoke"], model=EDSR(scale=5))
    for scales in ((), (2, 5), (2, 2)):
        with pytest.raises(ValueError, match=r"--model\.scales must be some of"):
            dataclasses.replace(mdsr.PRESETS["smoke"], model=MDSR(scales=scales))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_photos_all_too_small_stop_the_build(name, split, tmp_path, monkeypatch):
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    sizes = {"train/a": (96, 96), "validation/b": (40, 40), "test/c": (40, 40)}
    sizes[{"validation": "validation/b", "test": "test/c"}[split]] = (60, 17)
    smoke = MODULES[name].PRESETS["smoke"]
    model = smoke.model if name == "mdsr" else dataclasses.replace(smoke.model, scale=3)
    config = dataclasses.replace(smoke, data=pictures(tmp_path / "photos", sizes), model=model)
    with pytest.raises(ValueError, match=f"no photo in {split} .* is large enough to be measured at scale 3"):
        MODULES[name].build(config)


@pytest.mark.slow
def test_mdsr_measures_and_draws_what_each_scale_can(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    # 17 pixels are 16 at scale 2, of which it needs 15, and 15 at scale 3, of which it needs 17.
    sizes = {"train/a": (60, 60), "validation/b": (17, 40), "validation/d": (40, 40), "test/c": (40, 40)}
    config = dataclasses.replace(mdsr.PRESETS["smoke"], data=pictures(tmp_path / "photos", sizes))
    experiment = mdsr.build(config)
    error = capsys.readouterr().err
    assert error.count("left out") == 1 and "validation, too small to be measured at scale 3: " in error
    params, variables = experiment.init(jax.random.key(0))
    assert np.isfinite(list(experiment.evaluate(params, variables).values())).all()
    experiment.figures(params, variables, tmp_path / "figures", 0)
    assert len(list((tmp_path / "figures").glob("*.png"))) == 2  # none in a folder within


@pytest.mark.slow
def test_at_most_six_strips(tmp_path, monkeypatch):
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    sizes = {"train/a": (60, 60), "test/c": (40, 40)} | {f"validation/{n}": (24, 24) for n in range(8)}
    config = dataclasses.replace(edsr.PRESETS["smoke"], data=pictures(tmp_path / "photos", sizes))
    experiment = edsr.build(config)
    params, variables = experiment.init(jax.random.key(0))
    experiment.figures(params, variables, tmp_path / "figures", 0)
    assert len(list((tmp_path / "figures").glob("*.png"))) == 6


@pytest.mark.slow
def test_precision_goes_into_the_description(tmp_path, monkeypatch):
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    smoke = edsr.PRESETS["smoke"]
    config = dataclasses.replace(smoke, model=dataclasses.replace(smoke.model, precision="highest"))
    assert edsr.build(config).model["fields"]["precision"] == "highest"
