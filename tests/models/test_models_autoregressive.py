"""PixelCNN and PixelSNAIL: exactly causal, no blind spot, normalised, conditioned on all they are given."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.models import pixelcnn, pixelsnail
from vaesr.models.pixelcnn import PixelCNN
from vaesr.models.pixelsnail import PixelSNAIL

_SNAIL = {"channels": 8, "layers": 1, "kernel": 3, "heads": 2, "dropout": 0.0, "blocks": 2}
MODELS = {
    "pixelcnn": PixelCNN(shape=(4, 5), codes=6, channels=8, layers=6, kernel=3, head=8),
    "pixelcnn5": PixelCNN(shape=(4, 5), codes=6, channels=8, layers=4, kernel=5, head=8),
    "pixelsnail": PixelSNAIL(shape=(4, 5), codes=6, **_SNAIL),
    "pixelsnail_no_attention": PixelSNAIL(
        shape=(4, 5), codes=6, **{**_SNAIL, "blocks": 3, "layers": 2, "attention": False}, out_layers=1
    ),
}


def start(model, batch=2, seed=0, scale=2.0):
    """Codes, what the model is told, and parameters that are large enough to show in every output."""
    rng = np.random.default_rng(seed)
    codes = jnp.asarray(rng.integers(0, model.codes, (batch, *model.shape)))
    given = {}
    if model.classes:
        given["label"] = jnp.asarray(rng.integers(0, model.classes, batch))
    if model.condition:
        given["condition"] = tuple(
            jnp.asarray(rng.integers(0, k, (batch, h, w))) for h, w, k in model.condition
        )
    params = jax.jit(lambda key: model.init(key, codes, **given))(jax.random.key(seed))["params"]
    return codes, given, jax.tree.map(lambda leaf: scale * leaf, params)


def apply(model, params, codes, **given):
    return jax.jit(lambda p, c, g: model.apply({"params": p}, c, **g))(params, codes, given)


def field(name):
    """Which sites `[out, in]` an output may see: all before it; without attention less to the right above."""
    rows, columns = np.divmod(np.arange(20), 5)
    seen = np.tril(np.ones((20, 20), bool), -1)
    if name == "pixelsnail_no_attention":
        # Each row up, a 3x3 kernel reaches one further to the right; the paper's bottom map, which the top
        # map informs of all sites, is such a network.
        seen &= columns[None] - columns[:, None] <= rows[:, None] - rows[None]
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_logits_depend_on_all_that_comes_before_and_on_nothing_else(name):
    """The Jacobian of the logits by the codes' embeddings: exactly 0 from the own site on, not 0 before."""
    model = MODELS[name]
    codes, _, params = start(model, batch=1)
    sites = model.shape[0] * model.shape[1]
    table = params["embed"]["embedding"]

    def logits(nudge):
        # Each site takes its embedding from a table entry of its own, so that it can be moved alone.
        own = jnp.concatenate([table, table[codes.reshape(-1)] + nudge])
        places = model.codes + jnp.arange(sites).reshape(1, *model.shape)
        moved = model.clone(codes=model.codes + sites)
        changed = {**params, "embed": {"embedding": own}, "out": params["out"]}
        wide = jnp.zeros((params["out"]["kernel"].shape[0], sites))
        changed["out"] = {
            "kernel": jnp.concatenate([params["out"]["kernel"], wide], axis=1),
            "bias": jnp.concatenate([params["out"]["bias"], jnp.zeros(sites)]),
        }
        found = moved.apply({"params": changed}, places)[..., : model.codes]
        return jnp.abs(found.reshape(sites, -1) * weights).sum(-1)

    weights = jnp.asarray(np.random.default_rng(1).normal(size=(1, model.codes)), jnp.float32)
    jacobian = jax.jit(jax.jacrev(logits))(jnp.zeros((sites, table.shape[1])))
    size = np.abs(jacobian).max(-1)
    assert (size[np.triu_indices(sites)] == 0).all()
    np.testing.assert_array_equal(size > 0, field(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_changed_code_changes_no_bit_before_it(name):
    model = MODELS[name]
    codes, given, params = start(model)
    base = np.asarray(apply(model, params, codes, **given)).reshape(2, -1, model.codes)
    for site in range(codes[0].size):
        flat = codes.reshape(2, -1)
        other = flat.at[:, site].set((flat[:, site] + 1) % model.codes).reshape(codes.shape)
        found = np.asarray(apply(model, params, other, **given)).reshape(base.shape)
        np.testing.assert_array_equal(found[:, : site + 1], base[:, : site + 1])
        assert not field(name)[:, site].any() or (found != base).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_probabilities_of_all_small_maps_sum_to_one(name):
    model = MODELS[name].clone(shape=(2, 2), codes=2)
    _, _, params = start(model, scale=3.0)
    every = jnp.asarray(list(itertools.product((0, 1), repeat=4))).reshape(16, 2, 2)
    log_probs = jax.nn.log_softmax(apply(model, params, every))
    chosen = jnp.take_along_axis(log_probs, every[..., None], axis=-1).reshape(16, 4).sum(1)
    assert float(jnp.exp(chosen).sum()) == pytest.approx(1, abs=1e-5)
    assert float(chosen.max() - chosen.min()) > 0.1  # not all alike


GIVEN = {
    "pixelcnn": PixelCNN(
        shape=(4, 6), codes=6, channels=8, layers=2, kernel=3, head=8, classes=3, condition=((2, 3, 5),)
    ),
    "pixelsnail": PixelSNAIL(
        shape=(4, 6), codes=6, **_SNAIL, classes=3, condition=((1, 3, 4), (2, 3, 5)), condition_blocks=3
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", GIVEN)
def test_every_site_sees_the_class_and_the_maps_above(name):
    model = GIVEN[name]
    codes, given, params = start(model)
    base = apply(model, params, codes, **given)
    other = apply(model, params, codes, **{**given, "label": (given["label"] + 1) % 3})
    assert (np.abs(other - base).max(-1) > 0).all()
    seen = np.zeros(base.shape[1:3], bool)
    for number, above in enumerate(given["condition"]):
        for place in np.ndindex(above.shape[1:]):
            changed = list(given["condition"])
            changed[number] = above.at[(slice(None), *place)].set((above[(slice(None), *place)] + 1) % 4)
            found = apply(model, params, codes, **{**given, "condition": tuple(changed)})
            moved = np.asarray(np.abs(found - base).max((0, 3)) > 0)
            assert moved.any()
            seen |= moved
            rows, columns = codes.shape[1] // above.shape[1], codes.shape[2] // above.shape[2]
            under = np.ix_(
                range(place[0] * rows, (place[0] + 1) * rows),
                range(place[1] * columns, (place[1] + 1) * columns),
            )
            assert moved[under].all()  # the codes that it covers, whatever their order
    assert seen.all()


@pytest.mark.slow
def test_the_bottom_map_depends_on_the_whole_top_map():
    model = GIVEN["pixelsnail"].clone(condition=((2, 3, 5),), condition_blocks=6, classes=None)
    codes, given, params = start(model, batch=1, scale=3.0)
    (top,) = given["condition"]
    base = apply(model, params, codes, **given)
    for place in np.ndindex(top.shape[1:]):
        changed = top.at[(0, *place)].set((top[(0, *place)] + 1) % 5)
        found = apply(model, params, codes, condition=(changed,))
        assert (np.abs(found - base).max(-1) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_dropout_is_each_examples_own_and_only_in_training(name):
    model = MODELS[name].clone(dropout=0.5)
    codes, _, params = start(model, batch=3)
    keys = jax.random.split(jax.random.key(1), 3)
    plain = apply(model, params, codes)
    dropped = apply(model, params, codes, keys=keys)
    assert np.abs(dropped - plain).max() > 0
    alone = apply(model, params, codes[1:2], keys=keys[1:2])
    np.testing.assert_allclose(alone, dropped[1:2], rtol=1e-4, atol=1e-3)
    # On average nothing is lost: the first layer's dropped features have the mean of the plain ones.
    np.testing.assert_array_equal(apply(model.clone(dropout=0.0), params, codes, keys=keys), plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_types_checkpoints_and_jit(name):
    model = MODELS[name]
    codes, _, params = start(model, scale=1.0)
    base = apply(model, params, codes)
    assert base.shape == (*codes.shape, 6) and base.dtype == jnp.float32
    np.testing.assert_allclose(model.apply({"params": params}, codes), base, atol=1e-5)
    half = apply(model.clone(dtype=jnp.bfloat16), params, codes)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, base, atol=0.1 * np.abs(base).max())
    small = apply(model, params, codes.astype(jnp.uint8))
    np.testing.assert_allclose(small, base, atol=1e-6)

    def loss(model):
        return jax.grad(lambda p: jnp.square(model.apply({"params": p}, codes)).sum())(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        loss(model.clone(remat=True)), loss(model),
    )  # fmt: skip


def count(model):
    given = {"label": jnp.zeros(1, int)} if model.classes else {}
    given["condition"] = tuple(jnp.zeros((1, h, w), int) for h, w, _ in model.condition)
    codes = jnp.zeros((1, *model.shape), int)
    shapes = jax.eval_shape(lambda key: model.init(key, codes, **given), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.slow
def test_presets_have_their_sizes():
    """Counted by hand for the gated PixelCNN; the others' stand here to notice a change."""
    c, k, n, codes, head = 128, 5, 12, 512, 256
    layer = (k // 2 + 1) * k * c * 2 * c + 2 * c + (k // 2 + 1) * c * 2 * c + 2 * c  # both convolutions
    layer += 2 * c * 2 * c + 2 * c + c * c + c  # across, and out
    assert (
        count(pixelcnn.PRESETS["codes_8"]) == codes * c + n * layer + c * head + head + head * codes + codes
    )
    assert count(pixelsnail.PRESETS["h12_noup_smallkey"]) > 20e6
    assert set(pixelsnail.PRESETS) == {"h12_noup_smallkey", "vqvae2_top", "vqvae2_bottom"}


@pytest.mark.slow
def test_wrong_arguments_are_sentences():
    for name, model in GIVEN.items():
        codes, given, params = start(model)
        bound = lambda c, p=params, m=model, **g: m.apply({"params": p}, c, **g)
        with pytest.raises(ValueError, match=r"codes must be \[B, \(4, 6\)\], got \(2, 4, 5\)"):
            bound(codes[:, :, :5], **given)
        with pytest.raises(ValueError, match=r"label must be \[B\] in \[0, 3\); got None"):
            bound(codes, condition=given["condition"])
        with pytest.raises(ValueError, match="condition must hold maps"):
            bound(codes, label=given["label"])
        bad = model.clone(condition=((3, 3, 5),))
        with pytest.raises(ValueError, match="the sides of every map must divide"):
            bad.init(jax.random.key(0), codes, label=given["label"], condition=(jnp.zeros((2, 3, 3), int),))
        plain = MODELS[name]
        with pytest.raises(ValueError, match="label must be None: there are no classes"):
            plain.init(jax.random.key(0), codes[:, :, :5], label=given["label"])
    with pytest.raises(ValueError, match="kernel odd and at least 3"):
        MODELS["pixelcnn"].clone(kernel=2).init(jax.random.key(0), jnp.zeros((1, 4, 5), int))
    with pytest.raises(ValueError, match="features must be a multiple of heads, got 8 and 3"):
        MODELS["pixelsnail"].clone(heads=3).init(jax.random.key(0), jnp.zeros((1, 4, 5), int))
