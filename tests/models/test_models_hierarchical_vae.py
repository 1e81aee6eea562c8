"""HierarchicalVAE: parameter counts, draws, the generative path and its contract with objectives and runs."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.models.hierarchical_vae import PRESETS, HierarchicalVAE
from vaesr.runs.description import build_model, describe_model


def _filled(model: HierarchicalVAE, seed: int = 0):
    """Parameters without the cost of compiling `init`."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.image_shape)))
    generator = np.random.default_rng(seed)

    def fill(leaf):
        fan_in = math.prod(leaf.shape[:-1]) or 1
        return jnp.asarray(0.5 * generator.normal(size=leaf.shape) / np.sqrt(fan_in), leaf.dtype)

    return jax.tree.map(fill, shapes)


def _images(model, count=3):
    return jnp.asarray(np.random.default_rng(1).random((count, *model.image_shape)), jnp.float32)


SMALL = {
    "bottom_up": HierarchicalVAE(latents=(4, 3), hidden=((7, 6), (5,)), image_shape=(4, 2, 1)),
    "top_down": HierarchicalVAE(
        latents=(4, 3, 2), hidden=((7,), (6, 5), ()), inference="top_down", image_shape=(2, 2, 2),
        likelihood="gaussian_learned", activation="silu",
    ),
    "one": HierarchicalVAE(latents=(3,), hidden=((5,),), image_shape=(2, 2, 1), likelihood="gaussian"),
}  # fmt: skip
models = pytest.mark.parametrize("model", SMALL.values(), ids=SMALL.keys())


def _draw(model, params, images, keys, indices):
    """The decoded draws, their log-ratios and KLs."""
    from_data = model.apply(params, images, method="encode")
    z, log_ratio, kl = model.apply(params, from_data, keys, indices, method="draw")
    assert z.shape == (indices.shape[0] * len(images), model.latents[0])
    return model.apply(params, z, method="decode"), log_ratio, kl


BURDA = (
    (784 * 200 + 200) + (200 * 200 + 200) + 2 * (200 * 100 + 100)  # q(z_1 | x)
    + 2 * (100 * 100 + 100) + 2 * (100 * 50 + 50)  # q(z_2 | z_1)
    + (50 * 100 + 100) + (100 * 100 + 100) + 2 * (100 * 100 + 100)  # p(z_1 | z_2)
    + (100 * 200 + 200) + (200 * 200 + 200) + (200 * 784 + 784)  # p(x | z_1)
)  # fmt: skip
LADDER = BURDA + (200 * 100 + 100) - (100 * 100 + 100) + 2 * (100 * 100 + 100)


@pytest.mark.parametrize(("name", "count"), [("iwae_2layer", BURDA), ("ladder_2layer", LADDER)])
def test_parameter_counts(name, count):
    model = PRESETS[name]
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count
    assert BURDA == 521_084 and model.latent == 150


@pytest.mark.slow
@models
def test_draws_have_the_shapes_and_types_of_the_contract(model, key):
    params, images, keys = _filled(model), _images(model), jax.random.split(key, 3)
    draw = functools.partial(_draw, model)
    outputs, log_ratio, kl = jax.jit(draw)(params, images, keys, jnp.arange(4))
    first = jax.tree.leaves(outputs)[0]
    assert first.shape == (12, *model.image_shape) and first.dtype == jnp.float32
    assert log_ratio.shape == (4, 3) and kl.shape == (4, 3, model.latent)
    assert log_ratio.dtype == kl.dtype == jnp.float32 and np.isfinite(log_ratio).all()
    assert kl[..., -model.latents[-1] :].min() >= 0  # the last layer's is in closed form
    again = draw(params, images, keys, jnp.arange(4))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, again, (outputs, log_ratio, kl))


@pytest.mark.slow
@models
def test_a_draw_depends_on_its_example_and_number_alone(model, key):
    params, images, keys = _filled(model), _images(model), jax.random.split(key, 3)
    draw = functools.partial(_draw, model, params)
    outputs, log_ratio, kl = draw(images, keys, jnp.arange(4))
    one, ratio, term = draw(images[1:2], keys[1:2], jnp.array([2]))
    np.testing.assert_allclose(ratio[0, 0], log_ratio[2, 1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(term[0, 0], kl[2, 1], rtol=1e-4, atol=1e-5)
    by_sample = jax.tree.leaves(outputs)[0].reshape(4, 3, *model.image_shape)
    np.testing.assert_allclose(jax.tree.leaves(one)[0][0], by_sample[2, 1], rtol=1e-4, atol=1e-5)
    assert len(np.unique(np.asarray(log_ratio))) == log_ratio.size


@models
def test_the_kl_is_the_mean_of_the_log_ratio(model, key):
    params, images, keys = _filled(model), _images(model), jax.random.split(key, 3)
    _, log_ratio, kl = jax.jit(functools.partial(_draw, model))(params, images, keys, jnp.arange(20_000))
    difference = np.asarray(kl.sum(axis=2) + log_ratio, np.float64)
    error = difference.std(axis=0) / np.sqrt(len(difference))
    assert (np.abs(difference.mean(axis=0)) < 4 * error).all() and error.max() < 0.05


@pytest.mark.slow
@models
def test_the_gradient_reaches_every_parameter(model, key):
    images, keys = _images(model), jax.random.split(key, 3)

    def total(params):
        outputs, log_ratio, kl = _draw(model, params, images, keys, jnp.arange(2))
        return sum(jnp.square(leaf).sum() for leaf in (*jax.tree.leaves(outputs), log_ratio)) + kl.sum()

    gradient = jax.jit(jax.grad(total))(_filled(model))
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
@models
def test_bf16_compute_keeps_float32_parameters_and_outputs(model, key):
    half = model.clone(dtype=jnp.bfloat16)
    params, images, keys = _filled(model), _images(model), jax.random.split(key, 3)
    full = _draw(model, params, images, keys, jnp.arange(2))
    low = _draw(half, params, images, keys, jnp.arange(2))
    for a, b in zip(jax.tree.leaves(full), jax.tree.leaves(low), strict=True):
        assert b.dtype == jnp.float32
        np.testing.assert_allclose(b, a, atol=0.3)
    shapes = jax.eval_shape(half.init, key, images)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))


@pytest.mark.slow
def test_noise_of_layers_is_independent(key):
    """A model whose q and p are standard normal decodes z_1, and its KL and log-ratio are zero."""
    model = HierarchicalVAE(latents=(4, 4), hidden=((), ()), image_shape=(2, 2, 1), likelihood="gaussian")
    params = jax.tree.map(jnp.zeros_like, _filled(model))
    params["params"]["decoder"]["Dense_0"]["kernel"] = jnp.eye(4)
    identity = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}
    images, keys = _images(model, 2), jax.random.split(key, 2)
    z_1, log_ratio, kl = _draw(model, params, images, keys, jnp.arange(2000))
    assert np.abs(log_ratio).max() == 0 and np.abs(kl).max() == 0
    # z_2 = z_1 + noise_2: what is left of it must not correlate with z_1.
    params["params"]["to_q_1"]["mean"] = identity
    _, _, kl = _draw(model, params, images, keys, jnp.arange(2000))
    z_1 = np.asarray(z_1).reshape(-1, 4)
    np.testing.assert_allclose(kl[..., 4:].reshape(-1, 4), 0.5 * z_1**2, rtol=1e-4, atol=1e-5)
    _, log_ratio, _ = _draw(model, params, images, keys, jnp.arange(2000))
    cross = -np.asarray(log_ratio).reshape(-1) - 0.5 * (z_1**2).sum(axis=1)  # Σ z_1 · noise_2
    assert abs(cross.mean()) < 4 * cross.std() / np.sqrt(len(cross))
    np.testing.assert_allclose(cross.var(), 4, rtol=0.15)


@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
def test_samples_follow_the_generative_path(inference, key):
    """A linear model's samples have the mean and covariance of W z_1, z_1 ~ N(b, A Aᵀ + s²)."""
    model = HierarchicalVAE(
        latents=(2, 3), hidden=((), ()), inference=inference, image_shape=(1, 2, 2), likelihood="gaussian"
    )
    params = _filled(model)
    to_p, decoder = params["params"]["to_p_0"], params["params"]["decoder"]["Dense_0"]
    to_p["log_var"]["kernel"] = jnp.zeros((3, 2))
    noise = jax.random.normal(key, (40_000, model.latent))
    images = np.asarray(model.apply(params, noise, method="mean_image"), np.float64).reshape(-1, 4)
    a, w = np.asarray(to_p["mean"]["kernel"]), np.asarray(decoder["kernel"])
    covariance = w.T @ (a.T @ a + np.diag(np.exp(to_p["log_var"]["bias"]))) @ w
    np.testing.assert_allclose(images.mean(axis=0), to_p["mean"]["bias"] @ w + decoder["bias"], atol=0.02)
    np.testing.assert_allclose(np.cov(images.T), covariance, atol=0.03 * np.abs(covariance).max())


@models
def test_images_and_reconstructions(model):
    params, images = _filled(model), _images(model)
    for picture in (
        model.apply(params, jnp.ones((3, model.latent), jnp.bfloat16), method="mean_image"),
        model.apply(params, images, method="reconstruct"),
    ):
        assert picture.shape == images.shape and picture.dtype == jnp.float32
        if model.likelihood == "bernoulli":
            assert picture.min() > 0 and picture.max() < 1
    params["params"]["to_q_0"]["mean"]["kernel"] = 0 * params["params"]["to_q_0"]["mean"]["kernel"]
    changed = model.apply(params, images, method="reconstruct")
    assert not np.allclose(changed, picture)


@models
def test_a_description_makes_the_same_model(model):
    again = build_model(json.loads(json.dumps(describe_model(model))))
    assert again == model


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inference": "sideways"}, "inference must be one of bottom_up, top_down, got 'sideways'"),
        ({"likelihood": "poisson"}, "likelihood must be one of"),
        ({"latents": ()}, "latents must hold at least one layer"),
        ({"latents": (3, 0)}, "of at least 1"),
        ({"latents": (3,)}, "widths below each of the 1 stochastic layers"),
        ({"hidden": ((5,), (0,))}, "widths in hidden must be at least 1"),
        ({"image_shape": (28, 28)}, "image_shape must be"),
    ],
)
def test_wrong_fields_are_refused_with_a_sentence(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(HierarchicalVAE(**fields).init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))


@pytest.mark.slow
def test_wrong_inputs_are_refused_with_both_shapes():
    model = SMALL["bottom_up"]
    params = _filled(model)
    with pytest.raises(ValueError, match=r"4, 2, 1.*\(2, 5, 4, 1\)"):
        model.apply(params, jnp.zeros((2, 5, 4, 1)), method="encode")
    with pytest.raises(ValueError, match=r"7.*\(2, 4\)"):
        model.apply(params, jnp.zeros((2, 4)), method="mean_image")
