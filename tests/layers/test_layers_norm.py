"""Spectral norms against an SVD, global means, PReLU, strided and spectral convolutions, batch norm."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.layers import BatchNorm, Conv, PReLU, global_mean, spectral_normalise, strided_conv2d
from vaesr.layers.linear import is_linear


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_spectral_norm_converges_to_the_largest_singular_value():
    kernel, u = normal(0, 3, 3, 4, 5), normal(1, 5)
    normalised, _ = spectral_normalise(kernel, u, steps=200)
    singular = np.linalg.svd(np.asarray(kernel, np.float64).reshape(-1, 5), compute_uv=False)
    np.testing.assert_allclose(normalised, kernel / singular[0], rtol=1e-4, atol=1e-6)


def test_spectral_norm_finds_it_a_step_at_a_time():
    kernel, u = normal(0, 6, 5), normal(1, 5)
    many, expected = spectral_normalise(kernel, u, steps=7)
    for _ in range(7):
        one, u = spectral_normalise(kernel, u)
    np.testing.assert_allclose(u, expected, atol=1e-5)
    np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-6)
    again, same = spectral_normalise(kernel, u, steps=0)
    np.testing.assert_array_equal(same, u)
    assert np.linalg.norm(again.reshape(-1, 5), 2) == pytest.approx(1, rel=0.05)


def test_spectral_gradient_takes_the_directions_as_constants():
    """d(W / s) with s = vᵀ W u is (G - <G, W / s> v uᵀ) / s."""
    kernel, u = normal(0, 6, 5), normal(1, 5)
    _, u = spectral_normalise(kernel, u, steps=3)
    g = normal(2, 6, 5)
    found = jax.grad(lambda k: (spectral_normalise(k, u, steps=0)[0] * g).sum())(kernel)
    v = np.asarray(kernel @ u)
    v = v / np.linalg.norm(v)
    s = v @ np.asarray(kernel) @ np.asarray(u)
    expected = (np.asarray(g) - (np.asarray(g) * np.asarray(kernel) / s).sum() * np.outer(v, u)) / s
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_spectral_conv_moves_its_direction_only_when_training(key):
    layer, x = Conv(4, spectral=True), normal(0, 1, 5, 5, 3)
    variables = layer.init(key, x)
    y, new = layer.apply(variables, x, True, mutable=["spectral"])
    still, same = layer.apply(variables, x, False, mutable=["spectral"])
    assert not np.allclose(new["spectral"]["spectral"]["u"], variables["spectral"]["spectral"]["u"])
    np.testing.assert_array_equal(same["spectral"]["spectral"]["u"], variables["spectral"]["spectral"]["u"])
    assert not np.allclose(y, still)
    # Without a place to keep the direction, nothing moves.
    np.testing.assert_array_equal(layer.apply(variables, x, True), still)
    assert not is_linear(layer, x)
    assert is_linear(Conv(4), x)


def test_spectral_norm_refuses_another_shape():
    with pytest.raises(ValueError, match=r"u has shape \(4,\); expected \[5\]"):
        spectral_normalise(jnp.zeros((3, 5)), jnp.zeros(4))


@pytest.mark.parametrize(
    ("side", "stride", "padding"), [(3, 2, 1), (4, 2, 1), (4, 1, 0), (7, 2, 3), (1, 2, 0)]
)
def test_strided_convolution_equals_the_slow_sum(side, stride, padding):
    x, kernel = np.asarray(normal(0, 2, 9, 8, 3)), np.asarray(normal(1, side, side, 3, 4))
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((n + 2 * padding - side) // stride + 1 for n in x.shape[1:3])
    slow = np.zeros((2, rows, columns, 4))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, i * stride : i * stride + side, j * stride : j * stride + side]
            slow[:, i, j] = np.einsum("bhwc,hwcf->bf", window, kernel)
    found = strided_conv2d(jnp.asarray(x), jnp.asarray(kernel), stride=stride, padding=padding)
    np.testing.assert_allclose(found, slow, rtol=1e-4, atol=1e-4)


def test_strided_convolution_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="expected"):
        strided_conv2d(jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 3, 4)), stride=2, padding=1)
    with pytest.raises(ValueError, match="too small for a kernel of 7"):
        strided_conv2d(jnp.zeros((1, 4, 4, 3)), jnp.zeros((7, 7, 3, 4)), stride=1, padding=1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_global_mean(dtype):
    x = normal(0, 2, 7, 5, 3).astype(dtype)
    y = global_mean(x)
    assert y.shape == (2, 1, 1, 3)
    assert y.dtype == dtype
    expected = np.asarray(x, np.float64).mean((1, 2), keepdims=True)
    np.testing.assert_allclose(
        np.asarray(y, np.float64), expected, atol=1e-6 if dtype == jnp.float32 else 1e-2
    )
    grad = jax.grad(lambda x: global_mean(x).astype(jnp.float32).sum())(x)
    np.testing.assert_allclose(np.asarray(grad, np.float64), 1 / 35, rtol=1e-2)


@pytest.mark.parametrize("per_channel", [False, True])
def test_prelu(key, per_channel):
    layer, x = PReLU(per_channel), normal(0, 2, 3, 4)
    variables = layer.init(key, x)
    (slope,) = jax.tree.leaves(variables)
    assert slope.shape == ((4,) if per_channel else (1,))
    np.testing.assert_allclose(layer.apply(variables, x), nn.leaky_relu(x, 0.25), rtol=1e-6)


def test_batch_norm_over_devices_equals_one_device(key):
    x = 3 + 2 * normal(0, 8, 4, 4, 3)
    layer = BatchNorm(axis_name="data")
    variables = BatchNorm().init(key, x)
    whole, expected = BatchNorm().apply(variables, x, True, mutable=["batch_stats"])

    def one(x):
        return layer.apply(variables, x, True, mutable=["batch_stats"])

    parts, new = jax.pmap(one, axis_name="data")(x.reshape(4, 2, 4, 4, 3))
    np.testing.assert_allclose(parts.reshape(x.shape), whole, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(new), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-5)
    np.testing.assert_allclose(whole.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(whole.std((0, 1, 2)), 1, atol=1e-3)


@pytest.mark.parametrize(
    ("side", "stride", "padding"),
    [(3, 2, 1), (4, 2, 1), (4, 1, 0), (7, 2, 3), (1, 2, 0), (3, 1, 2), (5, 3, 1)],
)
@pytest.mark.parametrize("size", [(9, 8), (7, 11)])
def test_strided_convolution_in_loops_has_xlas_gradients(side, stride, padding, size):
    x, kernel = normal(0, 2, *size, 3), normal(1, side, side, 3, 4)

    def both(form):
        def loss(x, kernel):
            y = strided_conv2d(x, kernel, stride=stride, padding=padding, form=form)
            return (jnp.sin(y) * jnp.arange(y.size).reshape(y.shape)).sum() / y.size

        return jax.grad(loss, (0, 1))(x, kernel)

    for ours, theirs in zip(both("loop"), both("direct"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(jnp.abs(theirs).max()) + 1e-6)


def test_weight_norm_is_the_plain_layer_at_first_and_a_length_then(key):
    layer, plain, x = Conv(4, weight_norm=True), Conv(4), normal(0, 1, 5, 5, 3)
    variables = layer.init(key, x)
    kernel, scale = variables["params"]["kernel"], variables["params"]["scale"]
    np.testing.assert_allclose(scale, np.linalg.norm(kernel.reshape(-1, 4), axis=0), rtol=1e-6)
    without = {"params": {k: v for k, v in variables["params"].items() if k != "scale"}}
    np.testing.assert_allclose(layer.apply(variables, x), plain.apply(without, x), atol=1e-5)
    longer = {"params": {**variables["params"], "kernel": 7 * kernel, "scale": 2 * scale}}
    doubled = {"params": {**without["params"], "kernel": 2 * kernel}}
    np.testing.assert_allclose(layer.apply(longer, x), plain.apply(doubled, x), atol=1e-4)
    assert not is_linear(layer, x)
