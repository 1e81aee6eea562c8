"""NVAE by itself: published sizes, what depends on what, sampling, recomputation, precision, devices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import as_for_users
from filled_variables import filled

from vaesr import models
from vaesr.data import Square
from vaesr.models import nvae_cells
from vaesr.models.nvae import NVAE, PRESETS

SMALL = NVAE(
    (12, 12, 1),
    4,
    (2, 1),
    2,
    pre_blocks=1,
    pre_cells=1,
    encoder_cells=1,
    decoder_cells=1,
    flows=1,
    remat="none",
)
STORED = {
    "nvae": NVAE((28, 28, 1), 4, (2, 1), 2, 1, 2, 1, 1),
    "nvae_flows": NVAE(
        (16, 16, 3), 8, (1, 2), 3, 2, 1, 2, 3, flows=2, padding=0, likelihood="logistic_mixture", mixtures=3
    ),
    "nvae_normal": NVAE((8, 8, 3), 4, (2,), 2, 1, 1, 1, 1, padding=0, likelihood="discretised_gaussian"),
}
COUNTS = {
    "mnist": 33_363_134, "cifar10": 130_852_480, "celeba64": 153_281_364, "imagenet32": 268_509_444,
    "celebahq256": 330_798_664, "ffhq256": 330_798_664,
}  # fmt: skip


def images(count=3, model=SMALL, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.random((count, *model.image_shape)) < 0.3, jnp.float32)


@pytest.fixture(scope="module")
def variables():
    """Random ones, but posteriors and priors are near each other, as in training."""
    found = filled(SMALL, images())
    params = {
        name: {**tree, "log_length": tree["log_length"] - 3}
        if name.startswith(("posteriors", "priors"))
        else tree
        for name, tree in found["params"].items()
    }
    return {**found, "params": params}


def keys(count=3, seed=0):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(count))


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name):
    assert set(COUNTS) == set(PRESETS)
    model = PRESETS[name]
    tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.image_shape)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == COUNTS[name]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(tree))
    assert isinstance(model, models.LatentVariableModel)
    assert model.latent == sum(model.latents)


def test_what_is_drawn_depends_on_keys_and_numbers_alone(variables):
    x = images()
    draw = jax.jit(lambda x, k, i: SMALL.apply(variables, x, k, i, method="forward"))
    logits, log_ratio, kl = draw(x, keys(), jnp.array([0, 4]))
    assert logits.shape == (6, 12, 12, 1) and log_ratio.shape == (2, 3) and kl.shape == (2, 3, 3)
    one = draw(x[1:2], keys()[1:2], jnp.array([4]))
    np.testing.assert_allclose(one[0][0], logits[4], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(one[1][0, 0], log_ratio[1, 1], rtol=1e-3, atol=1e-3)
    # With flows the KL is the draw's.
    np.testing.assert_allclose(kl.sum(axis=2), -log_ratio, rtol=1e-4, atol=1e-3)


def test_kl_without_flows_is_the_mean_of_its_draws():
    model = SMALL.clone(flows=0, groups=(1, 1))
    x = images(1)
    variables = filled(model, x)
    _, log_ratio, kl = jax.jit(lambda i: model.apply(variables, x, keys(1), i, method="forward"))(
        jnp.arange(400)
    )
    error = (log_ratio + kl.sum(axis=2)).std() / 20
    assert abs(float((log_ratio + kl.sum(axis=2)).mean())) < 4 * float(error) + 1e-3


def test_samples_know_no_image_and_share_the_decoder(variables):
    """From the prior nothing of the encoder is used; its noise is all that a sample is made of."""
    noise = jax.random.normal(jax.random.key(1), (2, SMALL.latent))
    sample = lambda v: SMALL.apply(v, noise, method="mean_image")
    before = sample(variables)
    changed = {
        name: jax.tree.map(lambda a: a + 1.0, tree)
        if name.startswith(
            ("stem", "pre_process", "encoder", "downs", "top", "taps", "posteriors", "transforms")
        )
        else tree
        for name, tree in variables["params"].items()
    }
    np.testing.assert_array_equal(before, sample({**variables, "params": changed}))
    assert before.shape == (2, 12, 12, 1) and before.min() >= 0 and before.max() <= 1
    # Each group's noise counts.
    ends = np.cumsum((0, *SMALL.latents))
    for first, last in itertools.pairwise(ends):
        moved = SMALL.apply(variables, noise.at[:, first:last].add(1.0), method="mean_image")
        assert np.abs(moved - before).max() > 1e-6


def test_codes_of_prior_noise_are_the_reconstruction(variables):
    """What `to_noise` finds is drawn to the posteriors' means again."""
    x = images()
    noise = SMALL.apply(variables, x, method="to_noise")
    assert noise.shape == (3, SMALL.latent)
    through = SMALL.apply(variables, noise, method="mean_image")
    np.testing.assert_allclose(through, SMALL.apply(variables, x, method="reconstruct"), rtol=1e-3, atol=1e-4)


def test_balance_and_shapes():
    model = NVAE((64, 64, 3), 8, (4, 2), 3, pre_blocks=2, padding=0, likelihood="logistic_mixture")
    assert model.latent_shapes == ((16, 16, 3),) * 4 + ((8, 8, 3),) * 2
    assert model.balance == (2.0,) * 4 + (1.0,) * 2
    assert model.latents == (768,) * 4 + (192,) * 2


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["logistic_mixture", "discretised_gaussian", "gaussian"])
def test_likelihoods_of_colour(likelihood):
    model = SMALL.clone(image_shape=(16, 16, 3), padding=0, likelihood=likelihood, mixtures=2)
    x = images(2, model)
    variables = filled(model, x)
    outputs = model.apply(variables, x, keys(2), jnp.arange(1), method="forward")[0]
    shape = {"logistic_mixture": (2, 16, 16, 20)}.get(likelihood, (2, 16, 16, 3))
    assert all(leaf.shape == shape for leaf in jax.tree.leaves(outputs))
    assert model.apply(variables, x, method="reconstruct").shape == x.shape


def loss_of(model, variables, x, dtype=None):
    def loss(params):
        own = {**variables, "params": params}
        (logits, _, kl), new = model.apply(
            own, x, keys(len(x)), jnp.arange(1), True, method="forward", mutable=["batch_stats"]
        )
        nll = jax.nn.softplus(logits) - x * logits
        return nll.sum(axis=(1, 2, 3)).mean() + kl.sum(axis=2).mean(), new

    return jax.value_and_grad(loss, has_aux=True)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["norm", "cell"])
def test_recomputing_changes_no_gradient(remat, variables):
    x = images(8)
    (loss, new), slopes = jax.jit(loss_of(SMALL, variables, x))(variables["params"])
    again = jax.jit(loss_of(SMALL.clone(remat=remat), variables, x))(variables["params"])
    np.testing.assert_allclose(again[0][0], loss, rtol=1e-5)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slopes))
    for ours, theirs in zip(jax.tree.leaves(again[1]), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * largest)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), again[0][1], new)


@pytest.mark.slow
def test_what_is_kept_for_the_backward_pass_halves():
    """Of a cell, "norm" keeps convolutions' results and statistics alone."""
    cell, x = nvae_cells.DecoderCell(8, 6), jnp.zeros((2, 8, 8, 8))
    variables = cell.init(jax.random.key(0), x)
    kept = {}
    for remat in ("none", "norm", "cell"):
        module = nvae_cells.recomputed(nvae_cells.DecoderCell, remat)(8, 6)

        def loss(params, x, module=module):
            y, _ = module.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
            return y

        _, pull = jax.vjp(loss, variables["params"], x)
        own = sum(leaf.size for leaf in jax.tree.leaves((variables, x)))
        kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(pull) if hasattr(leaf, "size")) - own
    assert kept["norm"] < 0.6 * kept["none"] and kept["cell"] < 0.1 * kept["none"]


@pytest.mark.slow
def test_bfloat16_is_near_float32(variables):
    x = images(8)
    (loss, _), slopes = jax.jit(loss_of(SMALL, variables, x))(variables["params"])
    half = SMALL.clone(dtype=jnp.bfloat16)
    (other, new), others = as_for_users(loss_of(half, variables, x))(variables["params"])
    np.testing.assert_allclose(other, loss, rtol=0.02)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((others, new)))
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    ours, theirs = flat(others), flat(slopes)
    assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.98


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"groups": ()}, "groups must hold at least one scale"),
        ({"groups": (2, 0)}, "groups must hold at least one scale of at least 1"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"flows": -1}, "flows must be at least 0, got -1"),
        ({"padding": 1}, "must be divisible by 4"),
        ({"remat": "all"}, "remat must be one of none, norm, cell, got 'all'"),
        ({"likelihood": "gaussian_learned"}, "likelihood must be one with outputs for every pixel"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(SMALL.clone(**fields).init, jax.random.key(0), jnp.zeros((1, 12, 12, 1)))


def test_the_highest_precision_reaches_every_product(variables):
    model = SMALL.clone(precision="highest")
    forward = jax.jit(lambda v, x: model.apply(v, x))
    text = forward.trace(variables, images()).lower(lowering_platforms=("cuda",)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line or "convolution(" in line]
    assert products
    assert not [line for line in products if "HIGHEST" not in line]


def test_bad_input(variables):
    with pytest.raises(ValueError, match=r"images must be \[B, \*\(12, 12, 1\)\], got \(1, 16, 16, 1\)"):
        SMALL.apply(variables, jnp.zeros((1, 16, 16, 1)), method="encode")
    with pytest.raises(ValueError, match=rf"noise must be \[B, {SMALL.latent}\], got \(2, 3\)"):
        SMALL.apply(variables, jnp.zeros((2, 3)), method="mean_image")
    with pytest.raises(ValueError, match="features must be"):
        SMALL.apply(variables, jnp.zeros((2, 4, 4, 8)), method="decode")


def test_five_bits_are_those_of_the_bank():
    """An 8-bit image is seen as one whose lower bits were taken away before."""
    model = SMALL.clone(image_shape=(16, 16, 3), padding=0, likelihood="logistic_mixture", mixtures=2, bits=5)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    variables = filled(model, jnp.zeros((1, 16, 16, 3)))
    encode = lambda image: model.apply(variables, jnp.float32(image) / 255, method="encode")[-1]
    few = Square(0, bits=5).apply(pixels)
    assert len(np.unique(few)) == 32
    np.testing.assert_array_equal(encode(pixels), encode(few))
    plain = model.clone(bits=8).apply(variables, jnp.float32(pixels) / 255, method="encode")[-1]
    assert np.abs(plain - encode(pixels)).max() > 1e-4
