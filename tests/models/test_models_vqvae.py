"""VQ-VAE of one to three levels: shapes, codes and images in both directions, training, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaesr import objectives, training
from vaesr.models.vqvae import PRESETS, VQVAE


def small(**fields):
    sizes = {"image_shape": (16, 24, 2), "channels": 16, "res_channels": 8, "codes": 32, "code_dim": 4}
    return VQVAE(**{**sizes, **fields})


def images(batch=3, shape=(16, 24, 2), seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=(batch, *shape)), jnp.float32)


CASES = {
    "one": {}, "two": {"levels": 2}, "three": {"levels": 3, "factor": 2}, "loss": {"update": "loss"},
    "fsq": {"quantiser": "fsq", "grid": (4, 3)}, "residual": {"quantiser": "residual", "depth": 2},
    "bfloat16": {"dtype": jnp.bfloat16},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_codes_and_images_go_both_ways(case):
    model, x = small(**CASES[case]), images()
    variables = model.init(jax.random.key(0), x)
    output = jax.jit(model.apply)(variables, x)
    assert output.reconstruction.shape == x.shape and output.reconstruction.dtype == jnp.float32
    codes = model.apply(variables, x, method="encode")
    assert [level.shape[1:] for level in codes] == list(model.code_shapes)
    assert all(level.dtype == jnp.int32 and level.max() < model.code_count for level in codes)
    again = model.apply(variables, codes, method="decode")
    np.testing.assert_allclose(again, output.reconstruction, atol=1e-6 if case != "bfloat16" else 1e-2)
    one = model.apply(variables, x[:1], method="encode")
    for alone, together in zip(one, codes, strict=True):
        np.testing.assert_array_equal(alone, together[:1])
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.slow
def test_levels_halve_and_every_level_matters():
    model, x = small(levels=2), images()
    assert model.code_shapes == ((2, 3), (4, 6)) and small(levels=3, factor=2).code_shapes[0] == (2, 3)
    variables = model.init(jax.random.key(0), x)
    top, bottom = model.apply(variables, x, method="encode")
    decode = lambda *codes, **more: model.apply(variables, codes, method="decode", **more)
    both, alone = decode(top, bottom), decode(top, bottom, keep=1)
    assert np.abs(both - alone).max() > 0
    # From the top alone nothing of the bottom is left.
    np.testing.assert_array_equal(alone, decode(top, (bottom + 1) % 32, keep=1))
    assert np.abs(decode((top + 1) % 32, bottom) - both).max() > 0
    # The bottom is quantised in the light of the top: other decoded tops, other bottoms.
    changed = jax.tree.map(lambda leaf: leaf, variables)
    changed["params"]["between_0"] = jax.tree.map(lambda w: -3 * w, variables["params"]["between_0"])
    new_top, new_bottom = model.apply(changed, x, method="encode")
    np.testing.assert_array_equal(new_top, top)
    assert (new_bottom != bottom).any()


@pytest.mark.slow
def test_some_examples_are_decoded_from_the_coarsest_map_alone():
    model, x = small(levels=2, drop_finer=0.5), images(32)
    variables = model.init(jax.random.key(0), x)
    train = lambda x, **more: model.apply(variables, x, train=True, **more).reconstruction
    found = train(x, key=jax.random.key(1))
    codes = model.apply(variables, x, method="encode")
    alone = model.apply(variables, codes, keep=1, method="decode")
    whole = model.apply(variables, codes, method="decode")
    dropped = np.abs(found - alone).max((1, 2, 3)) < 1e-6
    kept = np.abs(found - whole).max((1, 2, 3)) < 1e-6
    assert (dropped ^ kept).all() and 5 < dropped.sum() < 27
    part = train(x[8:12], key=jax.random.key(1), position=jnp.arange(8, 12))
    np.testing.assert_allclose(part, found[8:12], atol=1e-6)
    with pytest.raises(ValueError, match="key is needed in training with drop_finer"):
        train(x)


def objective_of(model, **knobs):
    def apply(params, variables, batch, key, position):
        return model.apply(
            {"params": params, **variables},
            batch,
            train=True,
            key=key,
            position=position,
            mutable=list(variables),
        )

    return objectives.vq_autoencoder(apply, **knobs)


def start(model, x, optimizer):
    def init(key):
        found = dict(model.init(key, x[:1]))
        return {"vqvae": found.pop("params")}, {"vqvae": found}

    players = {"vqvae": training.Player(objective_of(model, data_variance=0.05), optimizer)}
    return training.create_state(init, players, key=jax.random.key(0)), players


@pytest.mark.slow
@pytest.mark.parametrize("case", ["one", "two", "loss", "fsq"])
def test_training_lowers_the_error_below_that_of_the_mean(case):
    rng = np.random.default_rng(2)
    # Halves of random brightness: an image is worth some bits, and its mean describes it badly.
    x = np.repeat(rng.uniform(size=(64, 1, 2, 2)), 12, axis=2).repeat(16, axis=1).astype(np.float32)
    x = jnp.asarray(x)
    extra = {"initial": "kmeans"} if case != "loss" else {}
    model = small(**{**CASES[case], **(extra if case != "fsq" else {})})
    state, players = start(model, x, optax.adam(3e-3))
    step = jax.jit(training.make_train_step(players), donate_argnums=0)
    for _ in range(100 if case != "loss" else 300):  # a codebook's own loss moves it slowly
        state, metrics = step(state, {"image": x})
    assert metrics["mse"] < 0.5 * float(jnp.square(x - x.mean(0, keepdims=True)).mean())
    assert metrics["psnr_db"] == pytest.approx(-10 * np.log10(metrics["mse"]), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_one_and_many_devices_learn_the_same(parallel):
    x = images(16)
    ends = []
    for count in (1, jax.device_count()):
        axis = "data" if parallel == "pmap" and count > 1 else None
        model = small(levels=2, initial="kmeans", revive_below=0.5, drop_finer=0.3, axis_name=axis)
        # Plain gradient descent: Adam would enlarge rounding where a gradient is nearly 0.
        state, players = start(model.clone(axis_name=None), x, optax.sgd(1e-2))
        _, players = start(model, x, optax.sgd(1e-2)) if axis is None else (None, {
            "vqvae": training.Player(objective_of(model, data_variance=0.05), optax.sgd(1e-2))
        })  # fmt: skip
        mesh = training.make_mesh(devices=jax.devices()[:count])
        step = training.compile_step(
            training.make_train_step(players), mesh, state=state, batch_size=16,
            parallel=parallel if count > 1 else "jit",
        )  # fmt: skip
        losses = []
        for _ in range(4):
            state, metrics = step(state, {"image": x})
            losses.append(float(metrics["loss"][0]))
        ends.append((losses, jax.device_get(state.variables)))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ends[0][1], ends[1][1])


@pytest.mark.slow
def test_the_objective_weighs_its_terms():
    model, x = small(update="loss"), images()
    variables = model.init(jax.random.key(0), x)
    output = model.apply(variables, x)
    params, place = {"vqvae": variables["params"]}, {"key": jax.random.key(0), "step": jnp.int32(0)}
    loss, aux = objective_of(model, beta=0.5, data_variance=2.0, codebook_weight=3.0)(
        params, {}, {"image": x}, **place
    )
    mse = float(jnp.square(output.reconstruction - x).mean())
    commitment, own = (float(getattr(output.quantised[0], n).mean()) for n in ("commitment", "codebook"))
    assert loss == pytest.approx(mse / 2 + 0.5 * commitment + 3 * own, rel=1e-5)
    assert aux.metrics["mse"] == pytest.approx(mse, rel=1e-5)
    counts = np.asarray(output.quantised[0].counts)
    assert aux.metrics["usage_percent"] == pytest.approx(100 * (counts > 0).mean())
    for knobs in ({"beta": -1}, {"data_variance": 0}, {"codebook_weight": -1}):
        with pytest.raises(ValueError, match="beta and codebook_weight must be at least 0"):
            objective_of(model, **knobs)


# Counted by hand: convolutions are k k C F + F.
def expected_parameters(channels, hidden, dim, image_channels=3):
    conv = lambda k, c, f: k * k * c * f + f
    stack = 2 * (conv(3, channels, hidden) + conv(1, hidden, channels))
    encoder = conv(4, image_channels, channels // 2) + conv(4, channels // 2, channels)
    encoder += conv(3, channels, channels) + stack
    decoder = conv(3, dim, channels) + stack + conv(4, channels, channels // 2)
    return encoder + conv(1, channels, dim) + decoder + conv(4, channels // 2, image_channels)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vqvae_32", expected_parameters(256, 256, 64)),
        ("vqvae_32_small", expected_parameters(128, 32, 64)),
        ("vqvae2_256", None),
        ("vqvae2_1024", None),
    ],
)
def test_presets_have_the_papers_sizes(name, count):
    model = PRESETS[name]
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.image_shape)))
    found = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert count is None or found == count
    expected = {"vqvae_32": ((8, 8),), "vqvae2_256": ((32, 32), (64, 64))}
    expected["vqvae2_1024"] = ((32, 32), (64, 64), (128, 128))
    assert model.code_shapes == expected.get(name, ((8, 8),))


@pytest.mark.slow
def test_wrong_fields_are_sentences():
    for fields, words in (
        ({"quantiser": "pq"}, "quantiser must be vector, fsq or residual, got 'pq'"),
        ({"drop_finer": 0.1}, r"drop_finer must lie in \[0, 1\) and needs several levels, got 0.1 with 1"),
        ({"factor": 3}, "factor a power of 2 of at least 2"),
        ({"levels": 0}, "levels must be at least 1"),
        ({"levels": 3}, r"images of 16 x 24 pixels can't be divided into codes of 16 x 16"),
    ):
        with pytest.raises(ValueError, match=words):
            small(**fields).init(jax.random.key(0), images())
    model = small()
    variables = model.init(jax.random.key(0), images())
    with pytest.raises(ValueError, match=r"images must be \[B, \(16, 24, 2\)\], got \(3, 16, 24, 3\)"):
        model.apply(variables, images(shape=(16, 24, 3)))
    with pytest.raises(ValueError, match="codes must hold 1 maps"):
        model.apply(variables, (), method="decode")
    with pytest.raises(ValueError, match=r"keep must lie in \[1, 1\], got 2"):
        model.apply(variables, (jnp.zeros((1, 4, 6), int),), method="decode", keep=2)
