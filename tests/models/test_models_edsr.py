"""EDSR: published sizes, parity with torch, receptive field, compute options, self-ensemble."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.imaging import dihedral, dihedral_inverse
from vaesr.layers import stack_blocks
from vaesr.models.edsr import EDSR, PRESETS
from vaesr.models.self_ensemble import self_ensemble

COUNTS = {
    "baseline_x2": 1_369_859,
    "baseline_x3": 1_554_499,
    "baseline_x4": 1_517_571,
    "paper_x2": 40_729_603,
    "paper_x3": 43_680_003,
    "paper_x4": 43_089_923,
}
TINY = EDSR(scale=2, channels=4, blocks=2)
SMALL_UPSCALERS = {
    "edsr": EDSR(scale=2, channels=8, blocks=2),
    "edsr_x3": EDSR(scale=3, channels=8, blocks=1),
}
STORED = {
    **{f"edsr x{scale}": EDSR(scale, 8, 2) for scale in (2, 3, 4, 8)},
    "edsr wide": EDSR(2, 256, 1, residual_scale=0.1),
}
WRITTEN = {"edsr": (PRESETS["baseline_x4"], 78, ("sub_mean.bias", "body.16.weight", "tail.0.2.bias"))}


def count(module, *args, **kwargs):
    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **kwargs))["params"]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(tree))
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_presets_have_the_published_parameter_count(name):
    assert set(PRESETS) == set(COUNTS)
    assert count(PRESETS[name], jnp.zeros((1, 8, 8, 3))) == COUNTS[name]


def test_paper_presets_scale_the_residuals():
    assert {n: m.residual_scale for n, m in PRESETS.items()} == {
        n: 0.1 if n.startswith("paper") else 1.0 for n in COUNTS
    }


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 5, 7), (2, 1, 1)])
def test_any_size_and_a_batch_of_one(key, scale, size):
    x = jax.random.uniform(key, (*size, 3))
    y, _ = EDSR(scale=scale, channels=4, blocks=1).init_with_output(key, x)
    assert y.shape == (size[0], size[1] * scale, size[2] * scale, 3)
    assert y.dtype == jnp.float32
    assert bool(jnp.isfinite(y).all())


def test_bad_inputs_raise(key):
    with pytest.raises(ValueError, match=r"expected \[B, h, w, 3\]"):
        TINY.init(key, jnp.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match=r"expected \[B, h, w, 3\]"):
        TINY.init(key, jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(ValueError, match="scale is 5"):
        EDSR(scale=5).init(key, jnp.zeros((1, 8, 8, 3)))


def test_zero_network_returns_the_mean_colour(key):
    params = jax.tree.map(jnp.zeros_like, TINY.init(key, jnp.zeros((1, 4, 4, 3))))
    y = TINY.apply(params, jax.random.uniform(key, (1, 4, 4, 3)))
    np.testing.assert_allclose(y[0, 3, 2], [0.4488, 0.4371, 0.4040], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_receptive_radius_is_exact(key, scale):
    model = EDSR(scale=scale, channels=3, blocks=1)
    radius = model.receptive_radius
    side = 2 * radius + 5
    centre = side // 2
    x = jnp.full((1, side, side, 3), 0.5)
    # Positive weights and inputs keep every ReLU open and let nothing cancel.
    params = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.01, model.init(key, x))

    def patch(image):
        y = model.apply(params, image + 1.0)
        return y[:, centre * scale : (centre + 1) * scale, centre * scale : (centre + 1) * scale].sum()

    touched = np.abs(np.asarray(jax.jit(jax.grad(patch))(x))[0]).sum(-1) > 0
    rows = np.flatnonzero(touched.any(1))
    columns = np.flatnonzero(touched.any(0))
    assert (rows[0], rows[-1]) == (centre - radius, centre + radius)
    assert (columns[0], columns[-1]) == (centre - radius, centre + radius)


def test_receptive_radius_of_the_presets():
    assert PRESETS["baseline_x2"].receptive_radius == 36
    assert PRESETS["paper_x4"].receptive_radius == 68


@pytest.mark.parametrize(("remat", "scan"), [(True, False), (False, True), (True, True)])
def test_remat_and_scan_give_the_same_output(key, remat, scan):
    x = jax.random.uniform(key, (1, 5, 4, 3))
    params = TINY.init(key, x)["params"]
    other = TINY.clone(remat=remat, scan=scan)
    y = other.apply({"params": stack_blocks(params) if scan else params}, x)
    np.testing.assert_allclose(y, TINY.apply({"params": params}, x), atol=1e-5)


@pytest.mark.slow
def test_bfloat16_compute_keeps_float32_parameters_and_output(key):
    model = TINY.clone(dtype=jnp.bfloat16)
    x = jax.random.uniform(key, (2, 6, 6, 3))
    y, variables = model.init_with_output(key, x)
    assert y.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(y, TINY.apply(variables, x), atol=0.02)
    grads = jax.grad(lambda v: model.apply(v, x).sum())(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype(jnp.float32)}


def test_jit_equals_eager(key):
    x = jax.random.uniform(key, (1, 4, 5, 3))
    variables = TINY.init(key, x)
    np.testing.assert_allclose(jax.jit(TINY.apply)(variables, x), TINY.apply(variables, x), atol=1e-5)


def torch_edsr(torch, channels, blocks, scale, residual_scale):
    """Our own EDSR in torch, in 0..255, with the reference's layer names."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            conv = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
            self.body = nn.Sequential(conv[0], nn.ReLU(), conv[1])

        def forward(self, x):
            return x + residual_scale * self.body(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", 255 * torch.tensor([0.4488, 0.4371, 0.4040]).reshape(1, 3, 1, 1))
            self.head = nn.Conv2d(3, channels, 3, padding=1)
            self.body = nn.Sequential(
                *[Block() for _ in range(blocks)], nn.Conv2d(channels, channels, 3, padding=1)
            )
            up = []
            for r in {2: [2], 3: [3], 4: [2, 2]}[scale]:
                up += [nn.Conv2d(channels, channels * r * r, 3, padding=1), nn.PixelShuffle(r)]
            self.up = nn.Sequential(*up)
            self.tail = nn.Conv2d(channels, 3, 3, padding=1)

        def forward(self, x):
            x = self.head(x - self.mean)
            return self.tail(self.up(x + self.body(x))) + self.mean

    return Net()


def layer_pairs(net, tree, blocks):
    """Each torch convolution beside our parameters of the same layer."""
    yield net.head, tree["head"]
    for i in range(blocks):
        yield net.body[i].body[0], tree["trunk"][f"body_{i}"]["conv_0"]
        yield net.body[i].body[2], tree["trunk"][f"body_{i}"]["conv_1"]
    yield net.body[blocks], tree["trunk"]["body_out"]
    for i, layer in enumerate(net.up[::2]):
        yield layer, tree["upsampler"][f"conv_{i}"]
    yield net.tail, tree["tail"]


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "conv_form"), [(2, "winograd"), (3, "direct"), (4, "auto")])
def test_torch_parity_of_output_and_gradient(key, scale, conv_form):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    channels, blocks = 16, 2
    model = EDSR(scale=scale, channels=channels, blocks=blocks, residual_scale=0.5, conv_form=conv_form)
    x = jax.random.uniform(key, (2, 7, 9, 3))
    target = jax.random.uniform(jax.random.key(1), (2, 7 * scale, 9 * scale, 3))
    params = model.init(key, x)["params"]
    net = torch_edsr(torch, channels, blocks, scale, 0.5)
    with torch.no_grad():
        for layer, ours in layer_pairs(net, params, blocks):
            layer.weight.copy_(torch.tensor(np.asarray(ours["kernel"]).transpose(3, 2, 0, 1)))
            layer.bias.copy_(torch.tensor(np.asarray(ours["bias"])))

    def loss(tree):
        y = model.apply({"params": tree}, x)
        return 255 * jnp.abs(y - target).mean(), y

    (value, y), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    def to_torch(image):
        return torch.tensor(255 * np.asarray(image).transpose(0, 3, 1, 2))

    y_torch = net(to_torch(x))
    value_torch = torch.nn.functional.l1_loss(y_torch, to_torch(target))
    value_torch.backward()
    np.testing.assert_allclose(255 * np.asarray(y), y_torch.detach().numpy().transpose(0, 2, 3, 1), atol=1e-4)
    np.testing.assert_allclose(value, value_torch.item(), rtol=1e-5)
    for layer, ours in layer_pairs(net, grads, blocks):
        expected = layer.weight.grad.numpy().transpose(2, 3, 1, 0)
        np.testing.assert_allclose(ours["kernel"], expected, atol=2e-5 * np.abs(expected).max())
        np.testing.assert_allclose(
            ours["bias"], layer.bias.grad.numpy(), atol=2e-5 * np.abs(layer.bias.grad.numpy()).max()
        )


def test_self_ensemble_of_an_equivariant_net_changes_nothing(key):
    x = jax.random.uniform(key, (2, 3, 5, 3))

    def enlarge(image):
        return jnp.repeat(jnp.repeat(image, 2, axis=1), 2, axis=2)

    np.testing.assert_allclose(self_ensemble(enlarge)(x), enlarge(x), atol=1e-6)


@pytest.mark.slow
def test_self_ensemble_is_equivariant_and_the_mean_of_eight(key):
    x = jax.random.uniform(key, (1, 3, 4, 3))
    variables = TINY.init(key, x)

    def upscale(image):
        return TINY.apply(variables, image)

    ensemble = self_ensemble(upscale)
    y = ensemble(x)
    eight = [dihedral_inverse(upscale(dihedral(x, i)), i) for i in range(8)]
    np.testing.assert_allclose(y, np.mean(eight, axis=0), atol=1e-5)
    for index in (1, 4, 6):
        np.testing.assert_allclose(ensemble(dihedral(x, index)), dihedral(y, index), atol=1e-5)
    with pytest.raises(ValueError, match="x_lr has shape"):
        ensemble(x[0])


@pytest.mark.parametrize("scan", [False, True])
def test_precision_reaches_every_convolution(scan):
    model = TINY.clone(precision="highest", conv_form="direct", scan=scan)
    x = jnp.zeros((1, 4, 4, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), x))
    text = str(jax.make_jaxpr(model.apply)(params, x))
    assert text.count("conv_general_dilated[") == text.count("precision=(Precision.HIGHEST") > 4


@pytest.mark.slow
def test_self_ensemble_of_host_arrays_stays_on_the_host():
    x = np.random.default_rng(0).random((1, 3, 5, 3), np.float32)
    total = self_ensemble(lambda image: np.repeat(np.repeat(np.asarray(image), 2, axis=1), 2, axis=2))(x)
    assert isinstance(total, np.ndarray) and total.dtype == np.float32
    np.testing.assert_allclose(total, x.repeat(2, axis=1).repeat(2, axis=2), atol=1e-6)
