"""SRGAN, ESRGAN, decrappify and DeOldify: every stage, resumable at every point; what they leave behind."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import base, decrappify, deoldify, esrgan, flags, gan, nogan, srgan, stages
from experiments.rcan import PRESETS as RCAN_PRESETS
from vaesr import data, inference, reports, training
from vaesr.models import critic, rcan, rrdb, srresnet, unet

MODULES = {"srgan": srgan, "esrgan": esrgan, "decrappify": decrappify, "deoldify": deoldify}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One data cache for this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def use_cache(cache, monkeypatch):
    monkeypatch.setenv("VAESR_CACHE", str(cache))


def run(name, folder, **fields):
    smoke = MODULES[name].PRESETS["smoke"]
    config = dataclasses.replace(
        smoke, workdir=folder, eval_every=2, checkpoint_every=2, log_every=1, batch_size=4, **fields
    )
    return stages.run(f"experiments.{name}", "smoke", config, MODULES[name].plan)


def interrupt_at(monkeypatch, count):
    """A run that is interrupted at its `count`-th evaluation on photos, as by Ctrl-C twice."""
    original, calls = inference.PhotoStudy.evaluate, []

    def interrupted(self, params, variables):
        calls.append(None)
        if len(calls) == count:
            raise KeyboardInterrupt
        return original(self, params, variables)

    monkeypatch.setattr(inference.PhotoStudy, "evaluate", interrupted)


def same_bits(first, second, folders):
    for stage in folders:
        whole = training.restore_params(first / stage, "latest")
        parts = training.restore_params(second / stage, "latest")
        assert whole[2] == parts[2]
        jax.tree.map(np.testing.assert_array_equal, whole[:2], parts[:2])


def test_esrgan_interrupted_in_its_second_stage_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    short = dataclasses.replace(esrgan.PRESETS["smoke"].gan, eval_every=2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run("esrgan", whole, gan=short)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)  # two of the first stage, the first of the second
        with pytest.raises(KeyboardInterrupt):
            run("esrgan", parts, gan=short)
    assert (parts / "gan" / "config.json").exists()
    assert run("esrgan", parts, gan=short, resume=True)
    same_bits(whole, parts, (".", "gan"))
    rows = json.loads((whole / "interpolation.json").read_text())
    assert [row["share"] for row in rows] == pytest.approx(list(np.linspace(0, 1, 11)))
    assert rows == json.loads((parts / "interpolation.json").read_text())
    # The ends are the two networks as their own reports have them.
    for row, folder in ((rows[0], whole), (rows[-1], whole / "gan")):
        test = [r for r in reports.read_metrics(folder) if r["split"] == "test"][-1]
        assert row["psnr_y_db"] == pytest.approx(test["psnr_y_db"], abs=1e-4)
    names = {path.name for path in (whole / "figures").iterdir()}
    assert "1_interpolation.png" in names and any(name.startswith("2_test_") for name in names)
    described = json.loads((whole / "gan" / "config.json").read_text())["model"]
    assert described["class"] == "RRDBNet" and described["trained_with"] == "random features"
    upscaled = inference.upscale(inference.load_run(whole / "gan"), np.zeros((9, 8, 3), np.uint8))
    assert upscaled.shape == (36, 32, 3)


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
    assert inference.load_run(tmp_path / "run" / "srgan-vgg54").player == "generator"
    assert list((tmp_path / "run" / "figures").glob("1_test_*.png"))


def test_decrappify_interrupted_in_any_stage_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    joint = dataclasses.replace(decrappify.PRESETS["smoke"].joint, eval_every=2, threshold=10.0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run("decrappify", whole, joint=joint)
    assert run("decrappify", parts, joint=joint, only_generator=True)
    assert not (parts / "critic").exists()
    # As the command line goes on: what was asked for stays, but for what it says anew.
    words = ["--resume", "--workdir", str(parts), "--no-only-generator"]
    presets, _ = flags.with_stored("experiments.decrappify", decrappify.PRESETS, words)
    assert presets["default"].only_generator and presets["default"].joint == joint
    _, config = flags.cli(presets, words)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)  # the joint phase's second
        with pytest.raises(KeyboardInterrupt):
            stages.run("experiments.decrappify", "smoke", config, decrappify.plan)
    assert run("decrappify", parts, joint=joint, resume=True)
    same_bits(whole, parts, (".", "critic", "joint"))
    # A threshold that is always met: they alternate, and each one's metrics are those of its own steps.
    rows = [r for r in reports.read_metrics(whole / "joint") if r["split"] == "train"]
    assert [(r["step"], r["critic/moved"], r["generator/moved"]) for r in rows] == [
        (2, 0.5, 0.5),
        (4, 0.5, 0.5),
    ]
    assert all(np.isfinite(r["generator/loss"]) and np.isfinite(r["critic/loss"]) for r in rows)
    # Pictures of every evaluation, to choose by eye.
    names = {path.name[-16:] for path in (whole / "joint" / "figures").iterdir()}
    assert names == {"_step_000002.png", "_step_000004.png"}
    small = np.random.default_rng(0).integers(0, 255, (11, 9, 3)).astype(np.uint8)
    assert inference.upscale(inference.load_run(whole / "joint"), small).shape == (44, 36, 3)


def test_deoldify_keeps_the_luma(tmp_path):
    assert run("deoldify", tmp_path / "run")
    assert {"critic", "joint"} <= {path.name for path in (tmp_path / "run").iterdir()}
    image = np.random.default_rng(0).random((40, 37, 3)).astype(np.float32)
    image[...] = image.mean(-1, keepdims=True)
    coloured = inference.upscale(inference.load_run(tmp_path / "run" / "joint"), image)
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(coloured @ luma, image @ luma, atol=1e-3)
    test = [r for r in reports.read_metrics(tmp_path / "run") if r["split"] == "test"][-1]
    assert test["psnr_y_db"] > 45 and "psnr_rgb_db" in test


def test_features_are_never_silently_random(tmp_path):
    with pytest.raises(base.UserError, match=r"give torchvision's vgg19-dcbb9e9d\.pth as the trunk"):
        run("decrappify", tmp_path / "a", features="vgg19")
    with pytest.raises(base.UserError, match="there are no features 'vgg91'"):
        run("decrappify", tmp_path / "b", features="vgg91")
    # Of two stages, before the first.
    for name in ("srgan", "esrgan"):
        with pytest.raises(base.UserError, match="there are no features 'vgg91'"):
            run(name, tmp_path / name, features="vgg91")
        assert not (tmp_path / name).exists()


def test_wrong_settings_are_sentences(tmp_path):
    with pytest.raises(base.UserError, match="high-resolution patches of 36 pixels"):
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
    with pytest.raises(base.UserError, match=r"--encoder .*: there is no such file"):
        run("decrappify", tmp_path / "b", encoder=tmp_path / "resnet34.pth")
    assert gan.halvings(128, "--patch") == 5


def test_the_paper_presets_are_the_published_networks():
    assert esrgan.generator(esrgan.PRESETS["paper"]) == rrdb.PRESETS["paper_x4"]
    assert srgan.generator(srgan.PRESETS["paper"]) == srresnet.PRESETS["paper_x4"]
    assert rcan.RCAN(**dataclasses.asdict(RCAN_PRESETS["paper"].model)) == rcan.PRESETS["paper_x2"]
    for module, preset, keep_luma, network, judge in (
        (decrappify, "paper", False, "decrappify_gan", "fastai"),
        (deoldify, "stable", True, "stable", "deoldify"),
        (deoldify, "artistic", True, "artistic", "deoldify"),
    ):
        config = module.PRESETS[preset]
        task = nogan.Task(data.fading, keep_luma, {}, config.workdir)
        published = unet.PRESETS[network].clone(scale=config.scale, form="loop")
        assert nogan.make_generator(task, config) == published
        assert nogan.make_critic(config) == critic.PRESETS[judge].clone(form="loop")
