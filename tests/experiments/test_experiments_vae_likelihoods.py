"""The VAE experiment with grey levels, with each binarisation, and with two latents."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from experiments import vae
from vaesr import inference, reports, runs, training


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Sixty small colour images: a smooth ramp between two colours each."""
    path = tmp_path_factory.mktemp("data") / "x.npy"
    ends = np.random.default_rng(0).integers(0, 256, (2, 60, 1, 1, 3))
    ramp = np.linspace(0, 1, 8)[None, :, None, None]
    np.save(path, np.broadcast_to(ends[0] * (1 - ramp) + ends[1] * ramp, (60, 8, 8, 3)).astype(np.uint8))
    return f"npy:{path}"


def untrained(**fields):
    """The experiment with the parameters it starts from."""
    config = dataclasses.replace(vae.PRESETS["smoke"], dtype="float32", bound_samples=2, **fields)
    system = vae.build(config)
    return system, *system.init(jax.random.key(0))


def _model(likelihood):
    return vae.VAE("conv", 4, (8,), likelihood=likelihood, mixtures=3, activation="silu")


@pytest.mark.slow
def test_a_mixture_learns_grey_levels_and_the_run_is_sampled(colours, tmp_path):
    config = dataclasses.replace(
        vae.PRESETS["smoke"], data=colours, workdir=tmp_path, steps=40, eval_every=40, checkpoint_every=40,
        model=_model("logistic_mixture"), optim=training.OptimConfig(lr=1e-2), dtype="float32",
    )  # fmt: skip
    assert runs.run("experiments.vae", "smoke", config, vae.build)
    rows = {row["split"]: row for row in reports.read_metrics(tmp_path)}
    # At first every scale is 1 and a level's mass about a quarter of its width, 2^-9; at 0 it would be 1.
    assert 0 < rows["test"]["bits_per_dim"] < 8.7
    assert 0 <= rows["test"]["active_units"] <= 4
    names = {path.name for path in (tmp_path / "figures").glob("*.png")}
    assert {"1_samples.png", "2_reconstructions.png", "6_activity.png", "7_draws.png"} <= names
    assert inference.sample(runs.load_run(tmp_path), 2).shape == (2, 8, 8, 3)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["discretised_logistic", "discretised_gaussian"])
def test_the_other_grey_levels_are_measured(likelihood, colours):
    system, params, variables = untrained(data=colours, model=_model(likelihood))
    assert 0 < system.evaluate_test(params, variables)["bits_per_dim"] < 12


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fixed", "threshold"])
def test_binarisations_are_trained_measured_and_named(how, tmp_path):
    system, params, variables = untrained(objective=vae.ObjectiveConfig(binarisation=how))
    results = system.evaluate(params, variables)
    dynamic, *_ = untrained()
    assert results["elbo_nats"] != dynamic.evaluate(params, variables)["elbo_nats"]
    batch = jax.jit(functools.partial(system.sampler, position=jnp.arange(16)))(
        system.sampler.source(), key=jax.random.key(0), step=0
    )
    # The reconstruction of untrained networks hangs on the bits alone, up to the noise of z.
    terms = [
        system.players["vae"].objective(params, variables, batch, key=jax.random.key(k), step=0)[1].metrics
        for k in range(2)
    ]
    assert terms[0]["kl_nats"] == terms[1]["kl_nats"]
    with PIL.Image.open(drawn(system, params, variables, tmp_path) / "2_reconstructions.png") as picture:
        assert {"fixed": "binarised once", "threshold": "grey > 0.5"}[how] in picture.info["Description"]


def drawn(system, params, variables, directory):
    system.figures(params, variables, directory, 0)
    return directory


def test_auto_binarises_bernoulli_pixels_alone():
    config = vae.PRESETS["smoke"]
    assert vae._binarisation(config) == "dynamic"
    grey = dataclasses.replace(config, model=vae.VAE(likelihood="gaussian"))
    assert vae._binarisation(grey) == "none"
    with pytest.raises(ValueError, match=r"logistic_mixture needs --objective\.binarisation none, got fixed"):
        dataclasses.replace(
            config,
            model=vae.VAE(likelihood="logistic_mixture"),
            objective=vae.ObjectiveConfig(binarisation="fixed"),
        )


@pytest.mark.slow
def test_two_latents_show_their_plane(tmp_path):
    assert vae.PRESETS["latent2"].model.latent == 2
    system = untrained(model=vae.VAE(latent=2, hidden=(16,)))
    assert (drawn(*system, tmp_path) / "5_manifold.png").exists()
