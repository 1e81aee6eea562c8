"""The VAE experiment with grey levels, with each binarisation, and with two latents."""

import dataclasses

import numpy as np
import PIL.Image
import pytest

from experiments import base, vae
from vaesr import inference, reports, training


@pytest.fixture(autouse=True)
def use_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Sixty small colour images: a smooth ramp between two colours each."""
    path = tmp_path_factory.mktemp("data") / "x.npy"
    ends = np.random.default_rng(0).integers(0, 256, (2, 60, 1, 1, 3))
    ramp = np.linspace(0, 1, 8)[None, :, None, None]
    np.save(path, np.broadcast_to(ends[0] * (1 - ramp) + ends[1] * ramp, (60, 8, 8, 3)).astype(np.uint8))
    return f"npy:{path}"


def smoke(workdir, steps=2, **fields):
    fields = {"optim": training.OptimConfig(name="adam", lr=3e-3), "batch_size": 8, "log_every": 1, **fields}
    config = dataclasses.replace(
        vae.PRESETS["smoke"], workdir=workdir, steps=steps, eval_every=steps, checkpoint_every=steps, **fields
    )
    assert base.run("experiments.vae", "smoke", config, vae.build)
    return {row["split"]: row for row in reports.read_metrics(workdir)}


@pytest.mark.parametrize("likelihood", ["discretised_logistic", "discretised_gaussian", "logistic_mixture"])
def test_grey_levels_train_are_drawn_and_sampled(likelihood, colours, tmp_path):
    model = vae.ModelConfig("conv", 4, (8,), likelihood=likelihood, mixtures=3, activation="silu")
    rows = smoke(tmp_path, steps=60, data=colours, model=model, dtype="float32")
    # Uniform over 256 levels is 8 bits; a bound on a probability cannot be below 0.
    assert 0 < rows["test"]["bits_per_dim"] < 8.0
    assert 0 <= rows["test"]["active_units"] <= 4
    names = {path.name for path in (tmp_path / "figures").glob("*.png")}
    assert {"1_samples.png", "2_reconstructions.png", "6_activity.png", "7_draws.png"} <= names
    run = inference.load_run(tmp_path)
    assert inference.sample(run, 2).shape == (2, 8, 8, 3)


@pytest.mark.parametrize("how", ["fixed", "threshold"])
def test_binarisations_are_trained_measured_and_named(how, tmp_path):
    objective = vae.ObjectiveConfig(binarisation=how)
    first = smoke(tmp_path / "first", objective=objective)
    again = smoke(tmp_path / "again", objective=objective)
    assert first["train"]["loss"] == again["train"]["loss"]
    caption = PIL.Image.open(tmp_path / "first" / "figures" / "2_reconstructions.png").info["Description"]
    assert {"fixed": "binarised once", "threshold": "grey > 0.5"}[how] in caption


def test_auto_binarises_bernoulli_pixels_alone():
    config = vae.PRESETS["smoke"]
    assert vae._binarisation(config) == "dynamic"
    grey = dataclasses.replace(config, model=vae.ModelConfig(likelihood="gaussian"))
    assert vae._binarisation(grey) == "none"
    with pytest.raises(ValueError, match="logistic_mixture needs --objective.binarisation none, got fixed"):
        dataclasses.replace(
            config,
            model=vae.ModelConfig(likelihood="logistic_mixture"),
            objective=vae.ObjectiveConfig(binarisation="fixed"),
        )


def test_two_latents_show_their_plane(tmp_path):
    assert vae.PRESETS["latent2"].model.latent == 2
    smoke(tmp_path, model=vae.ModelConfig(latent=2, hidden=(16,)))
    assert (tmp_path / "figures" / "5_manifold.png").exists()
