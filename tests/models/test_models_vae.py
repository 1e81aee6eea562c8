"""VAE networks: published parameter counts, shapes, types and independence of examples."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.models.pixel_outputs import output_channels
from vaesr.models.vae import PRESETS, VAE


def _filled(model: VAE, seed: int = 0):
    """Parameters drawn by numpy: cheaper than compiling `init`."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.image_shape)))
    generator = np.random.default_rng(seed)

    def fill(leaf):
        fan_in = math.prod(leaf.shape[:-1]) or 1
        return jnp.asarray(generator.normal(size=leaf.shape) / np.sqrt(fan_in), leaf.dtype)

    return jax.tree.map(fill, shapes)


def _count(model: VAE) -> int:
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.image_shape)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


SMALL = {
    "mlp": VAE(latent=3, hidden=(7, 5), image_shape=(4, 4, 1)),
    "conv": VAE(
        "conv",
        latent=3,
        hidden=(4, 6),
        image_shape=(8, 4, 3),
        likelihood="gaussian_learned",
        activation="silu",
    ),
    "linear": VAE("linear", latent=3, hidden=(), image_shape=(4, 2, 1), likelihood="gaussian"),
    "mixture": VAE(
        "conv", latent=3, hidden=(4,), image_shape=(4, 4, 3), likelihood="logistic_mixture", mixtures=2
    ),
    "logistic": VAE(latent=3, hidden=(7,), image_shape=(4, 2, 3), likelihood="discretised_logistic"),
    "discretised": VAE(latent=3, hidden=(7,), image_shape=(4, 2, 1), likelihood="discretised_gaussian"),
}
models = pytest.mark.parametrize("model", SMALL.values(), ids=SMALL.keys())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # 784·500 + 500, twice 500·20 + 20, 20·500 + 500, 500·784 + 784
        ("kingma_welling", 815_824),
        ("relu", 815_824),
        # 157,000 + 40,200 + 2·10,050 + 10,200 + 40,200 + 157,584
        ("iwae", 425_284),
        # 544 + 32,832, twice 3136·20 + 20, 20·3136 + 3136, 64·9·128 + 128, 32·9·4 + 4
        ("conv", 544 + 32_832 + 125_480 + 65_856 + 73_856 + 1_156),
        # W twice, two biases, the posterior's log-variances and one log-scale
        ("linear", 2 * 784 * 8 + 8 + 784 + 8 + 1),
    ],
)
def test_parameter_counts(name, count):
    assert _count(PRESETS[name]) == count


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_traces(name):
    model = PRESETS[name]
    images = jnp.zeros((2, *model.image_shape))
    (outputs, mean_q, log_var_q), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert mean_q.shape == log_var_q.shape == (2, model.latent)
    colours = model.image_shape[-1]
    width = output_channels(model.likelihood, colours, mixtures=model.mixtures)
    if model.likelihood.startswith("discretised"):
        width = colours  # a mean and a log-scale of this width
    assert jax.tree.leaves(outputs)[0].shape == (*images.shape[:-1], width)


@pytest.mark.slow
@models
def test_shapes_and_types(model):
    params = _filled(model)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    images = jnp.asarray(np.random.default_rng(0).random((3, *model.image_shape)), jnp.float32)
    outputs, mean_q, log_var_q = jax.jit(model.apply)(params, images)
    again = model.apply(params, mean_q, method="decode")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), outputs, again)
    for array in (jax.tree.leaves(outputs)[0], mean_q, log_var_q):
        assert array.dtype == jnp.float32 and np.isfinite(array).all()
    if model.likelihood == "gaussian_learned":
        assert outputs[1].shape == ()
    mean = model.apply(params, mean_q, method="mean_image")
    assert mean.shape == images.shape and mean.dtype == jnp.float32
    if model.likelihood.startswith("discretised"):
        assert outputs[0].shape == outputs[1].shape == images.shape
    if model.likelihood == "logistic_mixture":
        assert outputs.shape == (3, 4, 4, 20)
    if model.likelihood not in ("gaussian", "gaussian_learned"):
        assert mean.min() >= 0 and mean.max() <= 1
    if model.likelihood == "bernoulli":
        np.testing.assert_allclose(mean, jax.nn.sigmoid(outputs), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@models
def test_examples_do_not_touch_each_other(model):
    params = _filled(model)
    images = jnp.asarray(np.random.default_rng(0).random((2, *model.image_shape)), jnp.float32)
    whole = model.apply(params, images)
    one = model.apply(params, images[1:])
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a[1:] if a.ndim else a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@models
def test_bf16_compute_keeps_float32_parameters_and_outputs(model):
    half = model.clone(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), jnp.zeros((1, *model.image_shape)))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    params = _filled(model)
    images = jnp.asarray(np.random.default_rng(0).random((2, *model.image_shape)), jnp.float32)
    for full, low in zip(
        jax.tree.leaves(model.apply(params, images)), jax.tree.leaves(half.apply(params, images)), strict=True
    ):
        assert low.dtype == jnp.float32
        np.testing.assert_allclose(low, full, atol=0.15)
    jaxpr = str(jax.make_jaxpr(half.apply)(params, images))
    assert "bf16" in jaxpr


@pytest.mark.slow
def test_the_gradient_reaches_every_parameter():
    model = SMALL["conv"]
    images = jnp.asarray(np.random.default_rng(0).random((2, *model.image_shape)), jnp.float32)

    def total(params):
        (mean, log_scale), mean_q, log_var_q = model.apply(params, images)
        return (mean**2).sum() + log_scale + (mean_q**2).sum() + (log_var_q**2).sum()

    gradient = jax.jit(jax.grad(total))(_filled(model))
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


def test_the_linear_decoder_is_affine_and_its_posterior_variance_constant():
    model = SMALL["linear"]
    params = _filled(model)
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)), jnp.float32)
    a, b, middle = (model.apply(params, value, method="decode") for value in (z[:1], z[1:], z.mean(0)[None]))
    np.testing.assert_allclose(middle, (a + b) / 2, rtol=1e-4, atol=1e-5)
    images = jnp.asarray(np.random.default_rng(1).random((2, 4, 2, 1)), jnp.float32)
    log_var_q = model.apply(params, images, method="encode")[1]
    np.testing.assert_array_equal(log_var_q[0], log_var_q[1])


def test_a_model_made_from_json_values_is_the_same():
    model = VAE(hidden=[7, 5], latent=3, image_shape=[4, 4, 1], dtype="float32")  # type: ignore[arg-type]
    params = _filled(SMALL["mlp"])
    images = jnp.ones((1, 4, 4, 1))
    np.testing.assert_array_equal(model.apply(params, images)[1], SMALL["mlp"].apply(params, images)[1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "resnet"}, "architecture must be one of mlp, conv, linear, got 'resnet'"),
        ({"likelihood": "poisson"}, "likelihood must be one of"),
        ({"likelihood": "logistic_mixture", "mixtures": 0}, "at least 1 component"),
        ({"activation": "sine"}, "activation must be one of"),
        ({"precision": "low"}, "precision must be one of"),
        ({"latent": 0}, "at least 1"),
        ({"image_shape": (28, 28)}, "image_shape must be"),
        ({"architecture": "linear"}, "no hidden layers"),
        ({"architecture": "conv", "hidden": (4, 4, 4)}, "divisible by 8"),
        ({"architecture": "conv", "hidden": ()}, "divisible by"),
    ],
)
def test_wrong_fields_are_refused_with_a_sentence(fields, message):
    model = VAE(**fields)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))


@pytest.mark.slow
def test_wrong_inputs_are_refused_with_both_shapes():
    model = SMALL["mlp"]
    params = _filled(model)
    with pytest.raises(ValueError, match=r"4, 4, 1.*\(2, 5, 4, 1\)"):
        model.apply(params, jnp.zeros((2, 5, 4, 1)), method="encode")
    with pytest.raises(ValueError, match=r"3.*\(2, 4\)"):
        model.apply(params, jnp.zeros((2, 4)), method="decode")
