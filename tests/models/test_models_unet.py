"""U-Nets and critics: sizes, parity with torch, initial behaviour, the luma that stays, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled_variables import filled

from vaesr.imaging import imresize
from vaesr.layers import SelfAttention
from vaesr.models import critic, resnet, unet

COUNTS = {
    # DeOldify's weight files have 255 and 874 MB: 4 bytes a parameter, and the batch statistics.
    ("unet", "decrappify"): 41_229_213,
    ("unet", "decrappify_gan"): 41_413_534,
    ("unet", "artistic"): 63_647_490,
    ("unet", "stable"): 218_222_718,
    ("critic", "fastai"): 82_456_449,
    ("critic", "deoldify"): 82_167_553,
}
TINY = unet.UNet(blocks=(1, 1, 1, 1), channels=4)
STYLES = {
    "plain": TINY,
    "deep": TINY.clone(style="deep", factor=1.5, norm="spectral", self_attention=True),
    "wide": TINY.clone(style="wide", factor=2.0, bottleneck=True, norm="spectral", self_attention=True),
    "batch": TINY.clone(norm="batch", bottleneck_head=True, output_range=(-3.0, 3.0)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), sorted(COUNTS))
def test_presets_have_the_counted_parameters(module, name):
    model = {"unet": unet, "critic": critic}[module].PRESETS[name]
    tree = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == COUNTS[module, name]


@pytest.mark.slow
def test_resnet_bodies_have_torchvisions_counts():
    """torchvision's ResNet34, 50 and 101 without the classifier (1,000 outputs and their biases)."""
    published = {34: 21_797_672 - 513_000, 50: 25_557_032 - 2_049_000, 101: 44_549_160 - 2_049_000}
    for depth in published:
        body = resnet.PRESETS[f"resnet{depth}"]
        tree = jax.eval_shape(lambda body=body: body.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
        assert sum(leaf.size for leaf in jax.tree.leaves(tree["params"])) == published[depth]


@pytest.mark.slow
@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("size", [(1, 33, 47), (2, 64, 32), (1, 5, 3)])
def test_any_size(name, size):
    model = STYLES[name]
    x = jnp.asarray(np.random.default_rng(0).random((*size, 3)), jnp.float32)
    y = jax.jit(model.apply)(filled(model, x), x)
    assert y.shape == x.shape
    assert y.dtype == jnp.float32
    assert bool(jnp.isfinite(y).all())


@pytest.mark.slow
def test_scale_enlarges_first():
    x = jnp.asarray(np.random.default_rng(0).random((1, 16, 16, 3)), jnp.float32)
    variables = filled(TINY, x)
    np.testing.assert_allclose(
        TINY.clone(scale=2).apply(variables, x), TINY.apply(variables, imresize(x, 2, method="bilinear")),
        atol=1e-4,
    )  # fmt: skip


@pytest.mark.slow
def test_shuffles_begin_as_nearest_neighbour(key):
    """ICNR: right after initialisation every 2x2 pixels are equal."""
    layer = unet._Shuffle(5, blur=False)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 4, 6)), jnp.float32)
    y, _ = layer.init_with_output(key, x)
    assert y.shape == (1, 8, 8, 5)
    for i, j in ((0, 1), (1, 0), (1, 1)):
        np.testing.assert_allclose(y[:, i::2, j::2], y[:, ::2, ::2], atol=1e-6)
    blurred, _ = unet._Shuffle(5).init_with_output(key, x)
    assert float(jnp.abs(jnp.diff(blurred, axis=1)).max()) <= float(jnp.abs(jnp.diff(y, axis=1)).max())


@pytest.mark.slow
def test_luma_stays_and_chroma_comes():
    model = TINY.clone(keep_luma=True)
    x = jnp.asarray(np.random.default_rng(0).random((1, 32, 32, 3)), jnp.float32)
    variables = filled(model, x)
    y = model.apply(variables, x)
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(y @ luma, x @ luma, atol=1e-4)
    assert float(y.min()) >= -1e-6 and float(y.max()) <= 1 + 1e-6
    raw = np.asarray(TINY.apply(variables, x))
    # The same hue: the differences from the luma are the network's, times one number a pixel up to 1.
    ours, theirs = (np.asarray(image) - (np.asarray(image) @ luma)[..., None] for image in (y, raw))
    share = (ours * theirs).sum(-1) / (theirs**2).sum(-1)
    np.testing.assert_allclose(ours, theirs * share[..., None], atol=1e-3)
    assert share.min() >= 0 and share.max() <= 1 + 1e-3
    near = unet.transplant_chroma(x, jnp.clip(x + 0.001, 0, 1))
    np.testing.assert_allclose(near, x, atol=2e-3)  # colours that RGB has are taken as they are
    trained, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
    assert not np.allclose(trained @ luma, x @ luma, atol=1e-2)  # in training the loss sees all of it


@pytest.mark.slow
def test_output_range_bounds_the_output():
    model = STYLES["batch"]
    x = jnp.asarray(np.random.default_rng(0).random((1, 32, 32, 3)), jnp.float32)
    y = np.asarray(model.apply(jax.tree.map(lambda leaf: 3 * leaf, filled(model, x)), x))
    low, high = (sign * 3 * np.array([0.229, 0.224, 0.225]) + [0.485, 0.456, 0.406] for sign in (-1, 1))
    assert (y >= low - 1e-5).all() and (y <= high + 1e-5).all()


@pytest.mark.slow
def test_attention_begins_as_nothing_and_attends_to_all(key):
    layer = SelfAttention()
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 4, 16)), jnp.float32)
    variables = layer.init(key, x)
    np.testing.assert_array_equal(layer.apply(variables, x), x)
    params = {**variables["params"], "gamma": jnp.ones(1)}
    y = layer.apply({**variables, "params": params}, x)
    # The slow way, in float64.
    weights = {}
    for name, state in variables["spectral"].items():
        kernel, u = np.asarray(params[name]["kernel"], np.float64)[0, 0], np.asarray(state["spectral"]["u"])
        v = kernel @ u
        weights[name] = kernel / (v / np.linalg.norm(v) @ kernel @ u)
    pixels = np.asarray(x, np.float64).reshape(12, 16)
    f, g, h = (pixels @ weights[name] for name in ("query", "key", "value"))
    scores = np.exp(f @ g.T)
    expected = pixels + (scores / scores.sum(0, keepdims=True)).T @ h
    np.testing.assert_allclose(y.reshape(12, 16), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dense", [False, True])
def test_critic_judges_patches_and_drops_channels(key, dense):
    model = critic.Critic(channels=4, blocks=2, dense=dense)
    x = jnp.asarray(np.random.default_rng(0).random((2, 64, 48, 3)), jnp.float32)
    variables = filled(model, x)
    y = model.apply(variables, x)
    assert y.shape == (2, 64 // 8 - 3, 48 // 8 - 3, 1)
    keys = jax.random.split(key, 2)
    one, _ = model.apply(variables, x, True, keys, mutable=["spectral"])
    again, _ = model.apply(variables, x, True, keys, mutable=["spectral"])
    other, _ = model.apply(variables, x, True, keys[::-1], mutable=["spectral"])
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    # An image's channels depend on its key alone.
    alone, _ = model.apply(variables, x[1:], True, keys[1:], mutable=["spectral"])
    np.testing.assert_allclose(alone[0], one[1], rtol=1e-3, atol=1e-5)
    still, _ = model.clone(dropout=0.0).apply(variables, x, True, mutable=["spectral"])
    assert not np.allclose(one, still)
    with pytest.raises(ValueError, match="keys is None"):
        model.apply(variables, x, True, mutable=["spectral"])
    with pytest.raises(ValueError, match="at least 32 pixels"):
        model.apply(variables, x[:, :31])


def test_dropout_keeps_the_mean(key):
    x = jnp.ones((512, 2, 2, 8))
    dropped = critic._drop_channels(x, 0.25, jax.random.split(key, 512), 0)
    assert set(np.unique(dropped)) == {0.0, np.float32(1) / np.float32(0.75)}
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)
    flat = np.asarray(dropped).reshape(512, 4, 8)
    assert (flat == flat[:, :1]).all()  # whole channels


def test_bad_settings_raise(key):
    x = jnp.zeros((1, 32, 32, 3))
    with pytest.raises(ValueError, match="style must be one of"):
        TINY.clone(style="flat").init(key, x)
    with pytest.raises(ValueError, match="norm must be one of weight, spectral, batch, got 'layer'"):
        TINY.clone(norm="layer").init(key, x)
    with pytest.raises(ValueError, match=r"expected \[B, h, w, 3\]"):
        TINY.init(key, x[0])


@pytest.mark.slow
@pytest.mark.parametrize("bottleneck", [False, True])
def test_resnet_equals_torch(bottleneck):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    F = torch.nn.functional
    model = resnet.ResNetBody((1, 2), bottleneck=bottleneck, channels=4)
    x = np.random.default_rng(0).standard_normal((2, 17, 22, 3)).astype(np.float32)
    variables = filled(model, jnp.asarray(x))
    ours = model.apply(variables, x)
    params, stats = variables["params"], variables["batch_stats"]

    def conv(x, name, path, stride=1):
        kernel = torch.from_numpy(np.array(path[name]["kernel"]).transpose(3, 2, 0, 1))
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[2] // 2)

    def norm(x, name, path, state):
        scale, bias = (torch.from_numpy(np.array(path[name]["norm"][k])) for k in ("scale", "bias"))
        mean, var = (torch.from_numpy(np.array(state[name]["norm"][k])) for k in ("mean", "var"))
        return F.batch_norm(x, mean, var, scale, bias)

    y = torch.from_numpy(x).permute(0, 3, 1, 2)
    y = torch.relu(norm(conv(y, "conv1", params, 2), "bn1", params, stats))
    found = [y]
    y = F.max_pool2d(y, 3, 2, 1)
    for stage, count in enumerate((1, 2)):
        for i in range(count):
            path, state = (tree[f"layer{stage + 1}_{i}"] for tree in (params, stats))
            stride = 2 if stage and not i else 1
            numbers = ("1", "2", "3") if bottleneck else ("1", "2")
            strides = dict.fromkeys(numbers, 1) | {"2" if bottleneck else "1": stride}
            z = y
            for number in numbers:
                z = norm(conv(z, f"conv{number}", path, strides[number]), f"bn{number}", path, state)
                z = torch.relu(z) if number != numbers[-1] else z
            if "conv_skip" in path:
                y = norm(conv(y, "conv_skip", path, stride), "bn_skip", path, state)
            y = torch.relu(y + z)
        found.append(y)
    for mine, theirs in zip(ours, found, strict=True):
        np.testing.assert_allclose(mine, theirs.permute(0, 2, 3, 1).numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_residual_network_begins_at_the_enlarged_input():
    model = unet.UNet(scale=2, blocks=(1, 1, 1), channels=4, residual=True, conv_form="loop")
    image = jnp.asarray(np.random.default_rng(0).random((2, 16, 16, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), image)
    enlarged = imresize(image, 2, method="bilinear")
    first = model.apply(variables, image, train=True, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(first, enlarged, atol=0.05)
    assert np.abs(first - enlarged).max() > 1e-4
    for wrong in ({"norm": "spectral"}, {"output_range": (-3.0, 3.0)}):
        with pytest.raises(ValueError, match="residual goes with"):
            model.clone(**wrong).init(jax.random.key(0), image)
