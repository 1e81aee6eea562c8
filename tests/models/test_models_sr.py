"""All small upscalers and the discriminators: any size, compute types, reach, errors, parity with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled_variables import filled
from small_networks import count_parameters, found

from vaesr.models import Upscaler, discriminators

SINGLE_SCALE = {
    name: model for name, model in found("SMALL_UPSCALERS").items() if isinstance(model, Upscaler)
}
COUNTS = {"srgan": (96, 23_565_505), "vgg128": (128, 14_499_401), "unet": (64, 4_376_897)}
JUDGES = {
    "srgan": discriminators.SRGANDiscriminator(channels=4, hidden=8, stages=3),
    "vgg": discriminators.VGGDiscriminator(channels=4, hidden=8, stages=2),
    "unet": discriminators.UNetDiscriminator(channels=4),
}
KNOWN_PEERS = {
    **found("PEERS"),
    discriminators.SRGANDiscriminator: ("SRGANDiscriminator", ("channels", "hidden", "stages")),
    discriminators.VGGDiscriminator: ("VGGDiscriminator", ("channels", "hidden", "stages")),
    discriminators.UNetDiscriminator: ("UNetDiscriminator", ("channels",)),
}
NETWORKS = {**SINGLE_SCALE, **JUDGES}


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_discriminators_have_the_published_parameter_count(name):
    assert set(discriminators.PRESETS) == set(COUNTS)
    side, published = COUNTS[name]
    assert count_parameters(discriminators.PRESETS[name], side=side) == published


@pytest.mark.parametrize("name", SINGLE_SCALE)
@pytest.mark.parametrize("size", [(1, 5, 7), (2, 8, 4), (1, 1, 1)])
def test_any_size_and_a_batch_of_one(name, size):
    model = SINGLE_SCALE[name]
    x = jnp.asarray(np.random.default_rng(0).random((*size, 3)), jnp.float32)
    y = jax.jit(model.apply)(filled(model, x), x)
    assert y.shape == (size[0], size[1] * model.scale, size[2] * model.scale, 3)
    assert y.dtype == jnp.float32
    assert bool(jnp.isfinite(y).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", SINGLE_SCALE)
def test_bfloat16_compute_keeps_float32_parameters_and_output(name):
    model = SINGLE_SCALE[name].clone(dtype=jnp.bfloat16)
    x = jnp.asarray(np.random.default_rng(0).random((2, 8, 8, 3)), jnp.float32)
    variables = filled(model, x)

    def total(variables):
        y = model.apply(variables, x)
        return y.sum(), y

    (_, y), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(variables)
    assert y.dtype == jnp.float32
    exact = jax.jit(SINGLE_SCALE[name].apply)(variables, x)
    assert float(jnp.abs(y - exact).max()) < 0.05 * max(1.0, float(jnp.abs(exact).max()))
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype(jnp.float32)}
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", [name for name, model in SINGLE_SCALE.items() if model.receptive_radius])
def test_receptive_radius_bounds_the_reach(name):
    model = SINGLE_SCALE[name]
    radius, multiple = model.receptive_radius, model.input_multiple
    # Where squares become channels: the one that the pixel lies in, and what the last convolutions reach of.
    side, slack = (2 * radius + 7, 1) if multiple == 1 else (2 * radius + 8 * multiple, 2 * multiple)
    touched, centre = _reach(model, side - side % multiple)
    assert radius - slack <= max(abs(touched - centre)) <= radius


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


@pytest.mark.parametrize("name", NETWORKS)
def test_bad_inputs_raise(name, key):
    model = NETWORKS[name]
    for shape in ((8, 8, 3), (1, 16, 16, 1)):
        with pytest.raises(ValueError, match=r"has shape .*expect"):
            model.init(key, jnp.zeros(shape))


def test_bad_sides_raise(key):
    with pytest.raises(ValueError, match="multiples of 8"):
        JUDGES["srgan"].init(key, jnp.zeros((1, 12, 16, 3)))
    with pytest.raises(ValueError, match=r"\[B, 16, 16, 3\]"):
        JUDGES["vgg"].init(key, jnp.zeros((1, 32, 32, 3)))


def _peer(name, model):
    torch_sr = pytest.importorskip("benchmarks.peers.torch_sr", reason="torch is not installed")
    kind, names = KNOWN_PEERS[type(model)]
    extra = {"side": 16} if name == "srgan" else {}
    return torch_sr, getattr(torch_sr, kind)(**{n: getattr(model, n) for n in names}, **extra)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, model in NETWORKS.items() if type(model) in KNOWN_PEERS])
def test_output_and_gradients_equal_torch(name):
    model = NETWORKS[name]
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
        y, state = run(params)
        return (y * weights).sum(), (y, state)

    (_, (ours, state)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
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
