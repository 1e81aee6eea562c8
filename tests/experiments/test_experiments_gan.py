"""SRGAN, ESRGAN, decrappify and DeOldify: every stage, resumable at every point; what they leave behind."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import decrappify, deoldify, esrgan, srgan
from experiments.recipes import adversarial, nogan, restoration
from vaesr import data, inference, reports, runs, training
from vaesr.models import critic, rrdb, srresnet, unet
from vaesr.runs.flags import cli
from vaesr.runs.folder import with_stored

MODULES = {"srgan": srgan, "esrgan": esrgan, "decrappify": decrappify, "deoldify": deoldify}


def run(name, folder, **fields):
    smoke = MODULES[name].PRESETS["smoke"]
    config = dataclasses.replace(
        smoke, workdir=folder, eval_every=2, checkpoint_every=2, log_every=1, batch_size=4, **fields
    )
    return runs.run(f"experiments.{name}", "smoke", config, MODULES[name].build)


@pytest.mark.slow
def test_srgan_trains_its_variants_and_makes_the_table(tmp_path, capsys):
    variants = ("srresnet-vgg22", "srgan-mse", "srgan-vgg54")
    assert run("srgan", tmp_path / "run", variants=variants)
    table = json.loads((tmp_path / "run" / "table.json").read_text())
    assert list(table) == ["SRResNet-MSE", "SRResNet-VGG22", "SRGAN-MSE", "SRGAN-VGG54"]
    out = capsys.readouterr().out
    assert all(title in out for title in table)
    # Each began from the first stage, batch statistics and all; only GANs have a discriminator.
    first = training.restore_params(tmp_path / "run", "best")
    for variant in variants:
        params, variables, _ = training.restore_params(tmp_path / "run" / variant, "latest")
        assert ("discriminator" in params) == variant.startswith("srgan")
        assert ("features" in variables) == (variant != "srgan-mse")
        moved = np.abs(params["generator"]["head"]["kernel"] - first[0]["generator"]["head"]["kernel"]).max()
        assert 0 < moved < 0.01
        assert set(variables["generator"]) == {"batch_stats"}
    assert runs.load_run(tmp_path / "run" / "srgan-vgg54").player == "generator"
    assert list((tmp_path / "run" / "figures").glob("1_test_*.png"))


@pytest.mark.slow
def test_decrappify_goes_on_after_the_generator_alone(tmp_path):
    joint = dataclasses.replace(decrappify.PRESETS["smoke"].joint, eval_every=2, threshold=10.0)
    folder = tmp_path / "run"
    assert run("decrappify", folder, joint=joint, only_generator=True)
    assert not (folder / "critic").exists()
    # As the command line goes on: what was asked for stays, but for what it says anew.
    words = ["--resume", "--workdir", str(folder), "--no-only-generator"]
    presets, _ = with_stored("experiments.decrappify", decrappify.PRESETS, words)
    assert presets["default"].only_generator and presets["default"].joint == joint
    _, config = cli(presets, words)
    assert runs.run("experiments.decrappify", "smoke", config, decrappify.build)
    # A threshold that is always met: they alternate, and each one's metrics are those of its own steps.
    rows = [r for r in reports.read_metrics(folder / "joint") if r["split"] == "train"]
    assert [(r["step"], r["critic/moved"], r["generator/moved"]) for r in rows] == [
        (2, 0.5, 0.5),
        (4, 0.5, 0.5),
    ]
    assert all(np.isfinite(r["generator/loss"]) and np.isfinite(r["critic/loss"]) for r in rows)
    # Pictures of every evaluation, to choose by eye.
    names = {path.name[-16:] for path in (folder / "joint" / "figures").iterdir()}
    assert names == {"_step_000002.png", "_step_000004.png"}
    small = np.random.default_rng(0).integers(0, 255, (11, 9, 3)).astype(np.uint8)
    assert inference.upscale(runs.load_run(folder / "joint"), small).shape == (44, 36, 3)


def test_features_are_never_silently_random(tmp_path):
    with pytest.raises(runs.UserError, match=r"give torchvision's vgg19-dcbb9e9d\.pth as the trunk"):
        run("decrappify", tmp_path / "a", features="vgg19")
    with pytest.raises(runs.UserError, match="there are no features 'vgg91'"):
        run("decrappify", tmp_path / "b", features="vgg91")
    # Of two stages, before the first.
    for name in ("srgan", "esrgan"):
        with pytest.raises(runs.UserError, match="there are no features 'vgg91'"):
            run(name, tmp_path / name, features="vgg91")
        assert not (tmp_path / name).exists()


def test_wrong_settings_are_sentences(tmp_path):
    with pytest.raises(runs.UserError, match="high-resolution patches of 36 pixels"):
        run("esrgan", tmp_path / "a", patch=9)
    with pytest.raises(ValueError, match=r"--model\.scale must be 2 or 4, got 3"):
        dataclasses.replace(
            esrgan.PRESETS["smoke"], model=dataclasses.replace(esrgan.PRESETS["smoke"].model, scale=3)
        )
    with pytest.raises(ValueError, match=r"--patch 4 makes images of 16 pixels; the critic takes 32"):
        dataclasses.replace(decrappify.PRESETS["smoke"], patch=4)
    with pytest.raises(ValueError, match=r"--gan\.pixel-weight must be at least 0, got -1"):
        dataclasses.replace(esrgan.PRESETS["smoke"].gan, pixel_weight=-1)
    with pytest.raises(ValueError, match=r"--critic\.steps must be at least 1, got 0"):
        dataclasses.replace(decrappify.PRESETS["smoke"].critic, steps=0)
    with pytest.raises(ValueError, match=r"--joint\.threshold must be above 0, got 0"):
        dataclasses.replace(decrappify.PRESETS["smoke"].joint, threshold=0)
    with pytest.raises(runs.UserError, match=r"--encoder .*: there is no such file"):
        run("decrappify", tmp_path / "b", encoder=tmp_path / "resnet34.pth")
    assert adversarial.halvings(128, "--patch") == 5


@pytest.mark.slow
def test_the_paper_presets_are_the_published_networks():
    assert restoration.in_compute_dtype(esrgan.PRESETS["paper"]) == rrdb.PRESETS["paper_x4"]
    assert srgan.generator(srgan.PRESETS["paper"]) == srresnet.PRESETS["paper_x4"]
    for module, preset, keep_luma, network, judge in (
        (decrappify, "paper", False, "decrappify_gan", "fastai"),
        (deoldify, "stable", True, "stable", "deoldify"),
        (deoldify, "artistic", True, "artistic", "deoldify"),
    ):
        config = module.PRESETS[preset]
        task = nogan.Task(data.fading, keep_luma, {}, config.workdir)
        published = unet.PRESETS[network].clone(scale=config.scale, conv_form="loop")
        assert nogan.make_generator(task, config) == published
        assert nogan.make_critic(config) == critic.PRESETS[judge].clone(conv_form="loop")
