"""Sampling code by code: the cached way gives the naive way's maps, and draws from the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.inference import sample_codes
from vaesr.inference.autoregressive import _cached, _naive
from vaesr.models.pixelcnn import PixelCNN
from vaesr.models.pixelsnail import PixelSNAIL

MODELS = {
    "pixelcnn": PixelCNN(shape=(5, 4), codes=6, channels=8, layers=3, kernel=5, head=8, classes=3),
    "pixelsnail": PixelSNAIL(
        shape=(4, 6), codes=6, channels=8, blocks=2, layers=2, kernel=3, heads=2, out_layers=1,
        condition=((2, 3, 5),),
    ),
    "no_attention": PixelSNAIL(
        shape=(4, 6), codes=6, channels=8, blocks=1, layers=2, kernel=5, heads=2, attention=False, classes=2,
        condition=((1, 3, 4), (2, 3, 5)),
    ),
}  # fmt: skip


def start(model, batch=3, scale=2.0):
    rng = np.random.default_rng(0)
    given = {}
    if model.classes:
        given["label"] = jnp.asarray(rng.integers(0, model.classes, batch))
    maps = [rng.integers(0, k, (batch, h, w)) for h, w, k in model.condition]
    given["condition"] = tuple(map(jnp.asarray, maps))
    codes = jnp.zeros((batch, *model.shape), jnp.int32)
    params = jax.jit(lambda key: model.init(key, codes, **given))(jax.random.key(0))["params"]
    return jax.tree.map(lambda leaf: scale * leaf, params), given


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "pixelsnail" else ()) for n in MODELS]
)
def test_cached_and_naive_draw_the_same_maps(name):
    model = MODELS[name]
    params, given = start(model)
    keys = jax.random.split(jax.random.key(1), 3)
    for knobs in ({}, {"temperature": 0.7, "top_k": 3}):
        cached = sample_codes(model, params, keys, **given, **knobs)
        naive = sample_codes(model, params, keys, **given, **knobs, cached=False)
        np.testing.assert_array_equal(cached, naive)
        assert cached.shape == (3, *model.shape) and cached.dtype == jnp.int32
        assert cached.min() >= 0 and cached.max() < model.codes
    assert len(np.unique(np.asarray(cached).reshape(3, -1), axis=0)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_map_depends_on_its_own_key_alone(name):
    model = MODELS[name]
    params, given = start(model)
    keys = jax.random.split(jax.random.key(1), 3)
    together = sample_codes(model, params, keys, **given)
    one = jax.tree.map(lambda x: x[1:2], given)
    np.testing.assert_array_equal(sample_codes(model, params, keys[1:2], **one), together[1:2])


@pytest.mark.slow
def test_samples_follow_the_models_probabilities():
    """The frequencies of the 16 binary 2x2 maps against their probabilities: chi-square at 15 degrees."""
    model = PixelCNN(shape=(2, 2), codes=2, channels=8, layers=2, kernel=3, head=8)
    params, _ = start(model, scale=3.0)
    every = jnp.asarray(np.array(list(np.ndindex(2, 2, 2, 2))).reshape(16, 2, 2))
    log_probs = jax.nn.log_softmax(model.apply({"params": params}, every))
    log_p = jnp.take_along_axis(log_probs, every[..., None], axis=-1).reshape(16, 4).sum(1)
    probs = np.exp(np.asarray(log_p, np.float64))
    count = 8000
    drawn = np.asarray(sample_codes(model, params, jax.random.split(jax.random.key(2), count)))
    numbers = drawn.reshape(count, 4) @ [8, 4, 2, 1]
    found = np.bincount(numbers, minlength=16)
    assert ((found - count * probs) ** 2 / (count * probs)).sum() < 45  # p = 1e-4


@pytest.mark.slow
def test_temperature_and_top_k():
    model = MODELS["pixelcnn"]
    params, given = start(model)
    keys = jax.random.split(jax.random.key(1), 3)
    greedy = sample_codes(model, params, keys, **given, top_k=1)
    cold = sample_codes(model, params, keys, **given, temperature=1e-4)
    np.testing.assert_array_equal(greedy, cold)
    logits = model.apply({"params": params}, greedy, **given)
    np.testing.assert_array_equal(logits.argmax(-1), greedy)
    # All codes are the k likeliest when there are no more.
    np.testing.assert_array_equal(
        sample_codes(model, params, keys, **given, top_k=99), sample_codes(model, params, keys, **given)
    )
    for knobs in ({"temperature": 0.0}, {"top_k": -1}):
        with pytest.raises(ValueError, match="temperature must be above 0 and top_k at least 0"):
            sample_codes(model, params, keys, **given, **knobs)
    with pytest.raises(ValueError, match="label must be"):
        sample_codes(model, params, keys)


def multiplications(jaxpr):
    """Multiply-adds of all matrix products and convolutions, those in loops as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        name, out = equation.primitive.name, equation.outvars[0].aval
        if name == "conv_general_dilated":
            total += out.size * int(np.prod(equation.invars[1].aval.shape[:3]))
        elif name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            total += out.size * int(np.prod([equation.invars[0].aval.shape[axis] for axis in contracted]))
        times = equation.params.get("length", 1) if name == "scan" else 1
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * multiplications(inner)
    return total


@pytest.mark.parametrize("kind", ["pixelcnn", "pixelsnail"])
def test_caching_saves_the_arithmetic_of_a_map_per_code(kind):
    if kind == "pixelcnn":
        model = PixelCNN(shape=(32, 32), codes=64, channels=32, layers=4, kernel=5, head=32)
    else:
        model = PixelSNAIL(
            shape=(32, 32), codes=64, channels=32, blocks=1, layers=3, kernel=3, attention=False
        )  # fmt: skip
    shapes = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 32, 32), jnp.int32))["params"], jax.random.key(0)
    )
    keys = jax.random.split(jax.random.key(0), 1)
    costs = [
        multiplications(
            jax.make_jaxpr(lambda p, draw=draw: draw(model, 0, p, keys, None, (), jnp.float32(1)))(
                shapes
            ).jaxpr
        )
        for draw in (_cached, _naive)
    ]
    assert costs[1] / costs[0] > 500  # about one pass over the map in place of 1024


@pytest.mark.slow
def test_sampling_is_one_program():
    model = MODELS["pixelcnn"]
    params, given = start(model)
    keys = jax.random.split(jax.random.key(1), 3)
    before = _cached._cache_size()
    for temperature in (1.0, 0.9, 0.8):
        sample_codes(model, params, keys, **given, temperature=temperature)
    assert _cached._cache_size() <= before + 1
