"""Classifiers: parameter counts, shapes, types, dropout's rate and its independence of the batch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.models.classifier import PRESETS, Classifier


def filled(model, seed=0):
    """Parameters drawn by numpy: cheaper than compiling `init`."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.input_shape)))
    rng = np.random.default_rng(seed)
    draw = lambda leaf: jnp.asarray(
        rng.normal(size=leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]) or 1), leaf.dtype
    )
    return jax.tree.map(draw, shapes)


SMALL = {
    "mlp": Classifier(hidden=(7, 5), outputs=3, input_shape=(4, 4, 1), activation="tanh"),
    "lenet": Classifier("lenet", hidden=(9,), outputs=3, input_shape=(13, 12, 3)),
    "curve": Classifier(hidden=(6,), outputs=2, input_shape=(1,), activation="silu"),
}
models = pytest.mark.parametrize("model", SMALL.values(), ids=SMALL.keys())


def images_of(model, count=4):
    return jnp.asarray(np.random.default_rng(1).random((count, *model.input_shape)), jnp.float32)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # 784 W + W, W W + W, 10 W + 10
        ("blundell_400", 784 * 400 + 400 + 400 * 400 + 400 + 4010),
        ("blundell_800", 784 * 800 + 800 + 800 * 800 + 800 + 8010),
        ("blundell_1200", 784 * 1200 + 1200 + 1200 * 1200 + 1200 + 12010),
        # 156 + 2,416 + 48,120 + 10,164 + 850
        ("lenet", 61_706),
        ("curve", 200 + 10_100 + 202),
    ],
)
def test_parameter_counts(name, count):
    model = PRESETS[name]
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.input_shape)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.slow
@models
def test_shapes_types_and_independent_examples(model):
    params, images = filled(model), images_of(model)
    logits = jax.jit(model.apply)(params, images)
    assert logits.shape == (4, model.outputs) and logits.dtype == jnp.float32
    one_by_one = [model.apply(params, images[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(logits, one_by_one, rtol=1e-4, atol=1e-5)
    half = model.clone(dtype=jnp.bfloat16).apply(params, images)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, logits, atol=0.1)
    gradient = jax.grad(lambda p: model.apply(p, images).sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_lenet_averages_and_sees_all_but_the_odd_border():
    model, images = SMALL["lenet"], images_of(SMALL["lenet"], 1)
    gradient = jax.grad(lambda x: model.apply(filled(model), x).sum())(images)
    assert (np.abs(gradient).sum((0, 2, 3)) > 0).all()  # 13 rows -> 6 -> 2 -> 1, through SAME 5x5


def test_inputs_are_shifted_then_scaled():
    model = SMALL["mlp"]
    params, images = filled(model), images_of(model)
    scaled = model.clone(input_shift=0.5, input_scale=2.0).apply(params, images)
    np.testing.assert_allclose(scaled, model.apply(params, 2.0 * (images - 0.5)), rtol=1e-5)


@pytest.mark.slow
def test_dropout_drops_its_share_only_in_training():
    model = Classifier(hidden=(4000,), outputs=1, input_shape=(2,), dropout=0.25)
    ones = jax.tree.map(jnp.ones_like, filled(model))
    x = jnp.zeros((1, 2))  # hidden units are all 1: the output is 1 + what is kept / 0.75
    assert float(model.apply(ones, x)[0, 0]) == 4001
    kept = (model.apply(ones, x, train=True, rngs={"dropout": jax.random.key(0)})[0, 0] - 1) * 0.75
    assert abs(float(kept) - 3000) < 5 * math.sqrt(4000 * 0.25 * 0.75)


@pytest.mark.slow
def test_dropout_by_example_does_not_depend_on_the_batch():
    model = SMALL["mlp"].clone(dropout=0.5)
    params, images, keys = filled(model), images_of(model), jax.random.split(jax.random.key(0), 4)
    one = lambda x, key: model.apply(params, x[None], train=True, rngs={"dropout": key})[0]
    whole = jax.jit(jax.vmap(one))(images, keys)
    np.testing.assert_allclose(whole[2:], jax.vmap(one)(images[2:], keys[2:]), rtol=1e-5)
    assert not np.allclose(whole, model.apply(params, images))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"architecture": "resnet"}, "architecture must be one of"),
        ({"activation": "swish"}, "activation must be one of"),
        ({"outputs": 0}, "outputs and hidden must be at least 1"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"input_scale": 0.0}, "input_scale must be positive"),
        ({"architecture": "lenet", "input_shape": (11, 28, 1)}, "12 pixels a side or more"),
        ({"input_shape": (28, 28)}, r"inputs must be \[B, \*\(28, 28\)\], got \(2, 28, 28, 1\)"),
    ],
)
def test_wrong_fields_are_sentences(fields, text):
    with pytest.raises(ValueError, match=text):
        Classifier(**fields).init(jax.random.key(0), jnp.zeros((2, 28, 28, 1)))
