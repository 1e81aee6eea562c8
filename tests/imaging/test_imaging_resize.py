"""imresize against closed forms and against a slow independent float64 implementation."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaesr.imaging import imresize, resize


def keys_cubic(t: float) -> float:
    """Keys' kernel written from its interpolation conditions: 1 at 0, 0 at other integers, C1, a = -1/2."""
    t, a = abs(t), -0.5
    if t < 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def slow_axis(signal: np.ndarray, length: int, scale: float, antialias: bool) -> np.ndarray:
    """Resamples the last axis output by output: every input position of the mirrored line, one at a time."""
    n = signal.shape[-1]
    shrink = scale if antialias and scale < 1 else 1.0
    out = np.zeros((*signal.shape[:-1], length))
    for k in range(length):
        centre = (k + 0.5) / scale - 0.5
        reach = 2 / shrink
        total = 0.0
        for j in range(math.floor(centre - reach) - 1, math.ceil(centre + reach) + 2):
            weight = keys_cubic((centre - j) * shrink)
            mirrored = j
            while not 0 <= mirrored < n:
                mirrored = -1 - mirrored if mirrored < 0 else 2 * n - 1 - mirrored
            out[..., k] += weight * signal[..., mirrored]
            total += weight
        out[..., k] /= total
    return out


def slow_imresize(image: np.ndarray, scales, sizes, antialias: bool) -> np.ndarray:
    x = np.asarray(image, np.float64)
    for axis in (0, 1):
        x = np.moveaxis(slow_axis(np.moveaxis(x, axis, -1), sizes[axis], scales[axis], antialias), -1, axis)
    return x


def row(values) -> np.ndarray:
    """A one-pixel-high image [1, W, 1]."""
    return np.asarray(values, np.float32)[None, :, None]


def test_half_scale_row_is_the_published_one():
    expected = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    responses = [imresize(row(np.eye(16)[i]), (1.0, 0.5))[0, 3, 0] for i in range(3, 11)]
    np.testing.assert_allclose(responses, expected, atol=1e-7)
    # Two axes give KernelGAN's hard-coded 8x8 table, whose centre is printed there.
    impulse = np.zeros((16, 16, 1), np.float32)
    impulse[6, 6] = 1
    assert float(imresize(impulse, 0.5)[3, 3, 0]) == pytest.approx(0.1880035400390625, abs=1e-7)


def test_double_scale_impulse():
    half = [-0.0234375, -0.0703125, 0.2265625, 0.8671875]
    result = imresize(row(np.eye(8)[4]), (1.0, 2.0))[0, :, 0]
    np.testing.assert_allclose(result[5:13], half + half[::-1], atol=1e-7)


def test_ramp_shows_the_symmetric_edge():
    result = imresize(row(np.arange(16)), (1.0, 0.5))[0, :, 0]
    expected = [0.44921875, 2.48828125, 4.5, 6.5, 8.5, 10.5, 12.51171875, 14.55078125]
    np.testing.assert_allclose(result, expected, atol=2e-6)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    sy=st.floats(0.15, 4.0),
    sx=st.sampled_from([0.25, 1 / 3, 0.5, 1.0, 2.0, 3.0]),
    antialias=st.booleans(),
)
def test_equals_slow_implementation_for_any_scale(height, width, sy, sx, antialias):
    image = np.random.default_rng(height * 100 + width).random((height, width, 2), np.float32)
    result = imresize(image, (sy, sx), antialias=antialias)
    sizes = (math.ceil(height * sy), math.ceil(width * sx))
    assert result.shape == (*sizes, 2)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, slow_imresize(image, (sy, sx), sizes, antialias), atol=1e-6)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 12)] * 2), size=st.tuples(*[st.integers(1, 25)] * 2))
def test_equals_slow_implementation_for_any_size(shape, size):
    image = np.random.default_rng(1).random((*shape, 1), np.float32)
    scales = (size[0] / shape[0], size[1] / shape[1])
    expected = slow_imresize(image, scales, size, True)
    np.testing.assert_allclose(imresize(image, size=size), expected, atol=1e-6)


def test_scale_with_size_keeps_the_grid_of_the_scale():
    image = np.random.default_rng(2).random((9, 9, 1), np.float32)
    whole = imresize(image, 2.0)
    np.testing.assert_allclose(imresize(image, 2.0, size=(12, 15)), whole[:12, :15], atol=1e-6)


@pytest.mark.parametrize("length", [300, 505])
@pytest.mark.parametrize("scale", [0.5, 1 / 3, 0.37, 2.0])
def test_long_axes_take_taps_and_give_the_same(length, scale):
    assert length > resize._DENSE_MAX_LENGTH
    image = np.random.default_rng(3).random((2, length, 1), np.float32)
    sizes = (2, math.ceil(length * scale))
    expected = slow_imresize(image, (1.0, scale), sizes, True)
    np.testing.assert_allclose(imresize(image, (1.0, scale)), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dense_up_to", [0, 256])
def test_gradient_transforms_and_leading_axes(dense_up_to, monkeypatch):
    monkeypatch.setattr(resize, "_DENSE_MAX_LENGTH", dense_up_to)
    resize._resize_axis.clear_cache()
    image = jax.random.uniform(jax.random.key(0), (2, 3, 6, 5, 2))
    result = imresize(image, 0.5)
    assert result.shape == (2, 3, 3, 3, 2)
    np.testing.assert_allclose(jax.jit(lambda x: imresize(x, 0.5))(image), result, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda x: imresize(x, 0.5))(image), result, atol=1e-6)
    np.testing.assert_allclose(imresize(image[0, :1], 0.5), result[0, :1], atol=1e-6)
    chex.assert_numerical_grads(lambda x: jnp.sum(imresize(x, 1.5) ** 2), (image[0, 0],), order=1)
    resize._resize_axis.clear_cache()


def test_constant_stays_constant_and_identity_is_exact():
    np.testing.assert_allclose(imresize(jnp.full((7, 9, 1), 0.7), 0.3), 0.7, rtol=1e-6)
    image = jax.random.uniform(jax.random.key(0), (5, 4, 3))
    np.testing.assert_array_equal(imresize(image, 1.0), image)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_images_are_computed_in_float32(dtype):
    image = jax.random.uniform(jax.random.key(0), (8, 8, 3)).astype(dtype)
    result = imresize(image, 0.5)
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, imresize(image.astype(jnp.float32), 0.5))


def test_output_length_is_matlabs_ceiling():
    image = jnp.zeros((505, 500, 1))
    assert imresize(image, 1 / 3).shape == (169, 167, 1)
    assert imresize(jnp.zeros((50, 10, 1)), 1.1).shape == (56, 11, 1)  # 1.1 * 50 = 55.00000000000001


@pytest.mark.parametrize(
    ("image", "arguments", "error", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), {"scale": 2}, TypeError, "to_float"),
        (np.zeros((4, 4), np.float32), {"scale": 2}, ValueError, r"\(4, 4\)"),
        (np.zeros((0, 4, 3), np.float32), {"scale": 2}, ValueError, "at least one pixel"),
        (np.zeros((4, 4, 3), np.float32), {}, ValueError, "neither"),
        (np.zeros((4, 4, 3), np.float32), {"scale": 0}, ValueError, "positive"),
        (np.zeros((4, 4, 3), np.float32), {"scale": float("nan")}, ValueError, "positive"),
        (np.zeros((4, 4, 3), np.float32), {"scale": (1, 2, 3)}, ValueError, "sy, sx"),
        (np.zeros((4, 4, 3), np.float32), {"size": (2,)}, ValueError, "height, width"),
        (np.zeros((4, 4, 3), np.float32), {"size": (2, 2.5)}, ValueError, "2.5"),
        (np.zeros((4, 4, 3), np.float32), {"size": (2, 0)}, ValueError, "at least 1"),
    ],
)
def test_wrong_arguments_are_named(image, arguments, error, message):
    with pytest.raises(error, match=message):
        imresize(image, **arguments)


def test_bilinear_is_a_triangle():
    """MATLAB's bilinear: weights by distance, the triangle stretched by the factor when it shrinks."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(9, 7, 2)).astype(np.float32)
    for size in ((5, 4), (18, 21), (9, 10)):
        expected = x.astype(np.float64)
        for axis in (0, 1):
            n, length = x.shape[axis], size[axis]
            scale = length / n
            reach = max(1.0, 1 / scale)
            rows = np.zeros((length, n))
            for k in range(length):
                centre = (k + 0.5) / scale - 0.5
                for j in range(math.floor(centre - reach), math.ceil(centre + reach) + 1):
                    weight = max(0.0, 1 - abs(centre - j) / reach)
                    rows[k, min(max(j, -1 - j), 2 * n - 1 - j)] += weight
            rows /= rows.sum(axis=1, keepdims=True)
            expected = np.moveaxis(np.tensordot(rows, expected, (1, axis)), 0, axis)
        np.testing.assert_allclose(imresize(x, size=size, method="bilinear"), expected, atol=1e-6)
    with pytest.raises(ValueError, match="bilinear"):
        imresize(x, 2.0, method="nearest")
