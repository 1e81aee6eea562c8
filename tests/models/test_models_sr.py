"""SRCNN, RCAN, SRResNet, MSRResNet, RRDBNet, SRVGG and discriminators: counts, parity with torch, reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.models import discriminators, rcan, rrdb, srcnn, srresnet, srvgg

COUNTS = {
    ("srcnn", "9-1-5"): 8_129,
    ("srcnn", "9-3-5"): 24_513,
    ("srcnn", "9-5-5"): 57_281,
    ("rcan", "paper_x2"): 15_444_643,
    ("rcan", "paper_x3"): 15_629_283,
    ("rcan", "paper_x4"): 15_592_355,
    ("srresnet", "paper_x4"): 1_549_462,
    ("srresnet", "msrresnet_x4"): 1_517_571,
    ("rrdb", "paper_x4"): 16_697_987,
    ("rrdb", "paper_x2"): 16_703_171,
    ("rrdb", "paper_x1"): 16_723_907,
    ("rrdb", "anime_x4"): 4_467_779,
    ("srvgg", "general_x4v3"): 1_213_296,
    ("srvgg", "animevideov3"): 621_424,
    ("discriminators", "srgan"): 23_565_505,
    ("discriminators", "vgg128"): 14_499_401,
    ("discriminators", "unet"): 4_376_897,
}
MODULES = {m.__name__.rpartition(".")[2]: m for m in (discriminators, rcan, rrdb, srcnn, srresnet, srvgg)}
SIDES = {"srgan": 96, "vgg128": 128, "unet": 64}

TINY = {
    "srcnn": srcnn.SRCNN(scale=3, kernels=(5, 3, 3), channels=(6, 4)),
    "rcan": rcan.RCAN(scale=2, channels=8, groups=2, blocks=2, reduction=4),
    "rcan_x3": rcan.RCAN(scale=3, channels=4, groups=1, blocks=1, reduction=2),
    "srresnet": srresnet.SRResNet(channels=6, blocks=2),
    "srresnet_x2": srresnet.SRResNet(scale=2, channels=6, blocks=1),
    "msrresnet": srresnet.MSRResNet(channels=6, blocks=2),
    "rrdb": rrdb.RRDBNet(channels=8, growth=4, blocks=1),
    "rrdb_x2": rrdb.RRDBNet(scale=2, channels=8, growth=4, blocks=1),
    "rrdb_x1": rrdb.RRDBNet(scale=1, channels=8, growth=4, blocks=1),
    "srvgg": srvgg.SRVGGNetCompact(scale=2, channels=6, convs=2),
}
JUDGES = {
    "srgan": discriminators.SRGANDiscriminator(channels=4, hidden=8, stages=3),
    "vgg": discriminators.VGGDiscriminator(channels=4, hidden=8, stages=2),
    "unet": discriminators.UNetDiscriminator(channels=4),
}


def filled(model, *inputs, seed=1):
    """Variables drawn by numpy: compiling `init` takes longer. Variances are positive."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs))

    def fill(path, leaf):
        values = rng.standard_normal(leaf.shape)
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 4
        name = path[-1].key
        if name in ("var", "scale", "slope"):
            return jnp.asarray(0.25 + 0.5 * np.abs(values), jnp.float32)
        if name == "u":
            return jnp.asarray(values / np.linalg.norm(values), jnp.float32)
        return jnp.asarray(values / np.sqrt(fan_in), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def test_every_preset_has_its_count():
    assert {(m, n) for m, module in MODULES.items() for n in module.PRESETS} == set(COUNTS)


@pytest.mark.parametrize(("module", "name"), sorted(COUNTS))
def test_presets_have_the_published_parameter_count(module, name):
    model, side = MODULES[module].PRESETS[name], SIDES.get(name, 16)
    tree = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, side, side, 3))))["params"]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(tree))
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == COUNTS[module, name]


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", [(1, 5, 7), (2, 8, 4), (1, 1, 1)])
def test_any_size_and_a_batch_of_one(name, size):
    model = TINY[name]
    x = jnp.asarray(np.random.default_rng(0).random((*size, 3)), jnp.float32)
    y = jax.jit(model.apply)(filled(model, x), x)
    assert y.shape == (size[0], size[1] * model.scale, size[2] * model.scale, 3)
    assert y.dtype == jnp.float32
    assert bool(jnp.isfinite(y).all())


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_compute_keeps_float32_parameters_and_output(name):
    model = TINY[name].clone(dtype=jnp.bfloat16)
    x = jnp.asarray(np.random.default_rng(0).random((2, 8, 8, 3)), jnp.float32)
    variables = filled(model, x)
    y = jax.jit(model.apply)(variables, x)
    assert y.dtype == jnp.float32
    exact = jax.jit(TINY[name].apply)(variables, x)
    assert float(jnp.abs(y - exact).max()) < 0.05 * max(1.0, float(jnp.abs(exact).max()))
    grads = jax.jit(jax.grad(lambda v: model.apply(v, x).sum()))(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype(jnp.float32)}
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", ["srcnn", "srresnet", "srresnet_x2", "msrresnet", "srvgg"])
def test_receptive_radius_bounds_the_reach(name):
    model = TINY[name]
    touched, centre = _reach(model, 2 * model.receptive_radius + 7)
    assert max(abs(touched - centre)) <= model.receptive_radius
    assert max(abs(touched - centre)) >= model.receptive_radius - 1


@pytest.mark.parametrize("name", ["rrdb", "rrdb_x2", "rrdb_x1"])
def test_receptive_radius_of_rrdb_bounds_the_reach(name):
    model = TINY[name]
    side = 2 * model.receptive_radius + 8 * model.input_multiple
    touched, centre = _reach(model, side - side % 4)
    assert max(abs(touched - centre)) <= model.receptive_radius
    # One square that the pixel lies in, and the pixels that the last convolutions reach of.
    assert max(abs(touched - centre)) >= model.receptive_radius - 2 * model.input_multiple


def _reach(model, side):
    """Rows that the centre's pixels depend on; positive weights let nothing cancel."""
    x = jnp.full((1, side, side, 3), 0.5)
    variables = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.05, filled(model, x))
    centre, s = side // 2, model.scale

    def patch(image):
        y = model.apply(variables, image)
        return y[:, centre * s : (centre + 1) * s, centre * s : (centre + 1) * s].sum()

    gradient = np.asarray(jax.jit(jax.grad(patch))(x))[0]
    return np.flatnonzero(np.abs(gradient).sum((1, 2)) > 0), centre


def test_receptive_radius_of_the_published_networks():
    assert rrdb.PRESETS["paper_x4"].receptive_radius == 349
    assert srvgg.PRESETS["animevideov3"].receptive_radius == 18
    assert not hasattr(rcan.PRESETS["paper_x4"], "receptive_radius")


def test_odd_sizes_of_unshuffled_inputs_are_those_of_the_mirrored_image():
    model = TINY["rrdb_x1"]
    x = jnp.asarray(np.random.default_rng(0).random((1, 10, 9, 3)), jnp.float32)
    variables = filled(model, x)
    padded = jnp.pad(x, ((0, 0), (0, 2), (0, 3), (0, 0)), mode="reflect")
    whole = model.apply(variables, padded)
    np.testing.assert_allclose(model.apply(variables, x), whole[:, :10, :9], atol=1e-5)


def test_rrdb_starts_near_its_skips(key):
    """Kaiming times 0.1: blocks in a row neither explode nor vanish."""
    x = jax.random.uniform(key, (1, 8, 8, 3))
    model = rrdb.RRDBNet(channels=8, growth=4, blocks=8, conv_form="direct")
    y, _ = jax.jit(model.init_with_output)(key, x)
    assert 1e-3 < float(jnp.abs(y).max()) < 10


def test_srcnn_changes_luma_alone(key):
    from vaesr.imaging import imresize, rgb_to_ycbcr

    model = TINY["srcnn"]
    x = jax.random.uniform(key, (1, 6, 5, 3), minval=0.2, maxval=0.8)
    y = rgb_to_ycbcr(model.apply(filled(model, x), x))
    np.testing.assert_allclose(y[..., 1:], imresize(rgb_to_ycbcr(x), 3)[..., 1:], atol=1e-5)


@pytest.mark.parametrize("name", [*TINY, *JUDGES])
def test_bad_inputs_raise(name, key):
    model = {**TINY, **JUDGES}[name]
    for shape in ((8, 8, 3), (1, 16, 16, 1)):
        with pytest.raises(ValueError, match=r"has shape .*expect"):
            model.init(key, jnp.zeros(shape))


def test_bad_settings_raise(key):
    x = jnp.zeros((1, 8, 8, 3))
    with pytest.raises(ValueError, match="scale is 3"):
        rrdb.RRDBNet(scale=3).init(key, x)
    with pytest.raises(ValueError, match="scale is 5"):
        rcan.RCAN(scale=5).init(key, x)
    with pytest.raises(ValueError, match="reduction is 100"):
        rcan.RCAN(reduction=100).init(key, x)
    with pytest.raises(ValueError, match="multiples of 8"):
        JUDGES["srgan"].init(key, jnp.zeros((1, 12, 16, 3)))
    with pytest.raises(ValueError, match=r"\[B, 16, 16, 3\]"):
        JUDGES["vgg"].init(key, jnp.zeros((1, 32, 32, 3)))


def _peer(name, model):
    torch_sr = pytest.importorskip("benchmarks.peers.torch_sr", reason="torch is not installed")
    fields = {f: getattr(model, f) for f in model.__dataclass_fields__}
    wanted = {
        "rcan": ("RCAN", ("scale", "channels", "groups", "blocks", "reduction")),
        "srresnet": ("SRResNet", ("scale", "channels", "blocks")),
        "msrresnet": ("MSRResNet", ("scale", "channels", "blocks")),
        "rrdb": ("RRDBNet", ("scale", "channels", "growth", "blocks")),
        "srvgg": ("SRVGG", ("scale", "channels", "convs")),
        "srgan": ("SRGANDiscriminator", ("channels", "hidden", "stages")),
        "vgg": ("VGGDiscriminator", ("channels", "hidden", "stages")),
        "unet": ("UNetDiscriminator", ("channels",)),
    }
    kind, names = wanted[name.partition("_")[0]]
    extra = {"side": 16} if name == "srgan" else {}
    return torch_sr, getattr(torch_sr, kind)(**{n: fields[n] for n in names}, **extra)


@pytest.mark.parametrize("name", [n for n in TINY if n != "srcnn"] + list(JUDGES))
def test_output_and_gradients_equal_torch(name):
    model = {**TINY, **JUDGES}[name]
    torch_sr, network = _peer(name, model)
    import torch

    x = np.random.default_rng(0).random((2, 16, 16, 3)).astype(np.float32)
    variables = filled(model, jnp.asarray(x))
    torch_sr.load(network, variables["params"])
    if "spectral" in variables:
        for layer, state in variables["spectral"].items():
            network[layer].weight_u.copy_(torch.from_numpy(np.array(state["spectral"]["u"])))
    train = "batch_stats" in variables or "spectral" in variables

    def run(params):
        if not train:
            return model.apply({"params": params}, x), {}
        return model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats", "spectral"]
        )

    weights = np.random.default_rng(2).random(jax.eval_shape(run, variables["params"])[0].shape)
    weights = weights.astype(np.float32)

    def loss(params):
        y, _ = run(params)
        return (y * weights).sum()

    (ours, state), grads = jax.jit(run)(variables["params"]), jax.jit(jax.grad(loss))(variables["params"])
    theirs = network(torch.from_numpy(x.transpose(0, 3, 1, 2)))
    layout = (0, 2, 3, 1) if theirs.ndim == 4 else (0, 1)
    (theirs.permute(layout) * torch.from_numpy(weights)).sum().backward()
    np.testing.assert_allclose(
        ours, theirs.detach().permute(layout).numpy(), atol=2e-5 * float(np.abs(ours).max())
    )
    their_grads = torch_sr.read_gradients(network)
    # A bias before batch norm has no gradient but rounding errors.
    floor = 1e-2 * max(float(np.abs(array).max()) for array in their_grads.values())
    for path, array in torch_sr.flatten(grads).items():
        other = their_grads[path if path in their_grads else f"{path}_orig"]
        scale = max(float(np.abs(other).max()), floor)
        np.testing.assert_allclose(array.reshape(other.shape), other, atol=1e-4 * scale, err_msg=path)
    if name == "unet":  # the power iteration has moved on
        for layer, new in state["spectral"].items():
            np.testing.assert_allclose(new["spectral"]["u"], network[layer].weight_u.numpy(), atol=1e-5)


def test_batch_statistics_follow_the_batches():
    model = TINY["srresnet"]
    x = jnp.asarray(np.random.default_rng(0).random((4, 8, 8, 3)), jnp.float32)
    variables = filled(model, x)
    y, new = model.apply(variables, x, train=True, mutable=["batch_stats"])
    still = model.apply(variables, x)
    assert not np.allclose(y, still, atol=1e-3)
    for old, now in zip(
        jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(new["batch_stats"]), strict=True
    ):
        assert not np.allclose(old, now)
    # After many updates with one batch, the averages are its statistics.
    stats = variables["batch_stats"]
    update = jax.jit(
        lambda s: model.apply({**variables, "batch_stats": s}, x, train=True, mutable=["batch_stats"])[1]
    )
    for _ in range(150):
        stats = update(stats)["batch_stats"]
    np.testing.assert_allclose(model.apply({**variables, "batch_stats": stats}, x), y, atol=1e-3)
