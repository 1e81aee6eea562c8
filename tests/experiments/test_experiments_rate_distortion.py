"""VAEs trained together are the VAEs trained alone; rate and distortion are theirs; mistakes are refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import rate_distortion
from vaesr import evaluators, objectives, training
from vaesr.models.vae import VAE

BETAS = (0.25, 1.0, 4.0)
MODEL = VAE(latent=3, hidden=(8,), image_shape=(4, 4, 1), activation="silu")


def _params(seed: int):
    return MODEL.init(jax.random.key(seed), jnp.zeros((1, 4, 4, 1)))["params"]


def _batch():
    images = np.random.default_rng(0).random((6, 4, 4, 1)).astype(np.float32)
    return {"image": jnp.asarray(images), "position": jnp.arange(6)}


@pytest.mark.slow
def test_each_vae_of_the_stack_gets_the_gradient_of_its_own_objective(key):
    trees = [_params(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    together = rate_distortion.stacked_objective(MODEL, BETAS)
    arguments = ({}, _batch())

    def total(params):
        return together({"vaes": params}, *arguments, key=key, step=jnp.int32(3))

    (loss, aux), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(stacked)
    encode = lambda p, x: MODEL.apply({"params": p}, x, method="encode")
    decode = lambda p, z: MODEL.apply({"params": p}, z, method="decode")
    losses, elbos = [], []
    for number, (params, beta) in enumerate(zip(trees, BETAS, strict=True)):
        alone = objectives.elbo(
            encode, decode, objectives.BernoulliLikelihood(), beta=beta, binarisation="dynamic"
        )
        one = lambda p, alone=alone: alone({"vae": p}, *arguments, key=key, step=jnp.int32(3))
        (value, own), expected = jax.value_and_grad(one, has_aux=True)(params)
        losses.append(value)
        elbos.append(own.metrics["elbo_nats"])
        jax.tree.map(
            lambda got, want, n=number: np.testing.assert_allclose(got[n], want, rtol=1e-4, atol=1e-5),
            gradient,
            expected,
        )
    np.testing.assert_allclose(loss, sum(losses), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["elbo_nats"], np.mean(elbos), rtol=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The evaluator's system with untrained parameters."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path_factory.mktemp("cache")))
    config = dataclasses.replace(rate_distortion.PRESETS["smoke"], optim=training.OptimConfig())
    system = rate_distortion.build(config)
    params, variables = system.init(jax.random.key(0))
    yield config, system, params, variables
    monkeypatch.undo()


@pytest.mark.slow
def test_all_start_from_the_same_weights_and_one_draws_what_it_measured(trained, tmp_path):
    config, system, params, variables = trained
    for leaf in jax.tree.leaves(params["vaes"]):
        assert leaf.shape[0] == len(config.betas)
        np.testing.assert_array_equal(leaf[0], leaf[1])
    results = system.evaluate_test(params, variables)
    rates, distortions = (
        [results[f"beta_{beta:g}/{name}_nats"] for beta in config.betas] for name in ("rate", "distortion")
    )
    np.testing.assert_allclose(rates[0], rates[1], rtol=1e-5)  # one network, whatever beta says
    np.testing.assert_allclose(distortions[0], distortions[1], rtol=1e-5)
    np.testing.assert_allclose(results["elbo_nats"], -rates[0] - distortions[0], rtol=1e-5)
    system.figures(params, variables, tmp_path, 0)
    assert {path.name for path in tmp_path.iterdir()} == {
        "1_rate_distortion.png",
        "2_samples.png",
        "3_reconstructions.png",
    }


@pytest.mark.slow
def test_rate_and_distortion_are_those_of_the_vae_alone(trained):
    config, system, params, variables = trained
    params = {"vaes": jax.tree.map(lambda leaf: leaf.at[1].multiply(1.1), params["vaes"])}
    results = system.evaluate_test(params, variables)
    model = VAE(
        latent=config.model.latent, hidden=config.model.hidden, image_shape=(28, 28, 1), activation="silu",
        dtype=jnp.dtype(config.compute_dtype),
    )  # fmt: skip
    methods = (
        lambda p, x, name=name: model.apply({"params": p}, x, method=name) for name in ("encode", "decode")
    )
    bound = functools.partial(objectives.evaluate_bound, *methods, objectives.BernoulliLikelihood())
    measure = evaluators.compile_bound(bound, binarisation="dynamic")
    one = jax.tree.map(lambda leaf: leaf[1], params["vaes"])
    alone = evaluators.mean_bounds(
        system.sampler.bank, measure, one, "test", samples=config.eval_samples, drawings=8
    )
    beta = f"beta_{config.betas[1]:g}"
    np.testing.assert_allclose(results[f"{beta}/rate_nats"], alone["kl_nats"], rtol=1e-3)
    np.testing.assert_allclose(results[f"{beta}/distortion_nats"], alone["reconstruction_nats"], rtol=1e-3)
    assert results[f"{beta}/rate_nats"] != results[f"beta_{config.betas[0]:g}/rate_nats"]


def test_bad_settings_are_refused_with_a_sentence():
    smoke = rate_distortion.PRESETS["smoke"]
    for betas in ((), (-1.0,), (1.0, 1.0)):
        with pytest.raises(ValueError, match="--betas must be different numbers of at least 0"):
            dataclasses.replace(smoke, betas=betas)
    with pytest.raises(ValueError, match=r"--optim\.clip-norm must be 0"):
        dataclasses.replace(smoke, optim=training.OptimConfig(clip_norm=1.0))
    with pytest.raises(ValueError, match="--eval-samples must be at least 1, got 0"):
        dataclasses.replace(smoke, eval_samples=0)
