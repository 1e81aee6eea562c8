"""JPEG against libjpeg, and numbers drawn into images."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.imaging import draw_number, jpeg


def photo(height=67, width=85):
    """A smooth scene with edges and colours, 8 bits."""
    y, x = np.mgrid[:height, :width] / 16
    rgb = np.stack([np.sin(x) * np.cos(y), np.sin(x + y), np.cos(2 * x - y)], axis=-1) * 0.4 + 0.5
    rgb[20:40, 30:60] = [0.9, 0.1, 0.2]
    rgb += np.random.default_rng(0).normal(0, 0.02, rgb.shape)
    return np.clip(np.round(rgb * 255), 0, 255).astype(np.uint8)


def libjpeg(pixels, quality, subsampling):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    file = io.BytesIO()
    image_module.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(image_module.open(file))


@pytest.mark.slow
@pytest.mark.parametrize("quality", [5, 10, 30, 49, 50, 75, 95])
@pytest.mark.parametrize("subsample", [True, False])
def test_equals_libjpeg(quality, subsample):
    pixels = photo()
    ours = np.asarray(jpeg(pixels[None] / np.float32(255), quality, subsample=subsample))[0] * 255
    theirs = libjpeg(pixels, quality, 2 if subsample else 0).astype(np.float64)
    error = np.abs(ours - theirs)
    assert error.mean() < 0.9
    assert error.max() <= 24  # a coefficient that falls on the other side of a rounding
    if quality <= 75:
        assert error.mean() < 0.25 * np.abs(pixels - theirs).mean()


def test_each_image_has_its_quality_and_may_be_traced():
    images = jnp.asarray(np.stack([photo()] * 3) / np.float32(255))
    qualities = jnp.array([10.0, 40.0, 90.0])
    together = jax.jit(jpeg)(images, qualities)
    for i in range(3):
        np.testing.assert_allclose(together[i], jpeg(images[i : i + 1], qualities[i])[0], atol=1.1 / 255)
    errors = jnp.square(together - images).mean((1, 2, 3))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.slow
def test_gradient_is_that_of_the_linear_parts():
    """Roundings are the identity and the transforms undo each other: without clipping, without chroma's
    halving, the gradient of a sum is all ones."""
    image = jnp.asarray(photo()[None] / np.float32(255)) * 0.5 + 0.25
    gradient = jax.grad(lambda x: jpeg(x, 50, subsample=False).sum())(image)
    np.testing.assert_allclose(gradient, 1, atol=2e-3)


@pytest.mark.slow
def test_a_flat_image_stays():
    flat = jnp.full((1, 19, 21, 3), 128 / 255)
    np.testing.assert_allclose(jpeg(flat, 10), flat, atol=1e-6)


def test_bad_input_raises():
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\]"):
        jpeg(jnp.zeros((1, 8, 8, 1)), 50)
    with pytest.raises(ValueError, match=r"quality has shape \(2,\)"):
        jpeg(jnp.zeros((3, 8, 8, 3)), jnp.array([1.0, 2.0]))


@pytest.mark.slow
def test_numbers_are_drawn_where_and_as_asked():
    image = jnp.zeros((2, 12, 20, 3))
    out = draw_number(image, jnp.array([17, 40]), jnp.array([2, 0]), jnp.array([3, 7]))
    assert out.shape == image.shape
    one = np.asarray(out[0, 2:9, 3:8, 0])
    np.testing.assert_array_equal(one.sum(1), [1, 2, 1, 1, 1, 1, 3])  # the figure 1, row by row
    seven = np.asarray(out[0, 2:9, 9:14, 0])
    np.testing.assert_array_equal(seven.sum(1), [5, 1, 1, 1, 1, 1, 1])
    assert float(out[0].sum()) == 3 * (one.sum() + seven.sum())  # nothing else
    four = np.asarray(out[1, 0:7, 7:12, 0])
    np.testing.assert_array_equal(four.sum(1), [1, 2, 2, 2, 5, 1, 1])


@pytest.mark.slow
def test_numbers_leave_the_image_at_its_edges():
    image = jnp.full((1, 8, 8, 3), 0.3)
    zero = jnp.zeros(1, jnp.int32)
    low = draw_number(image, jnp.array([88]), zero + 5, zero + 5)
    assert low.shape == image.shape
    np.testing.assert_allclose(low[0, :5], 0.3)
    np.testing.assert_allclose(draw_number(image, jnp.array([88]), zero - 20, zero)[0], 0.3)
    large = draw_number(image, jnp.array([1]), zero, zero, zoom=2, digits=1)
    assert float((large == 1).sum()) == 4 * 3 * float(
        (draw_number(image, jnp.array([1]), zero, zero, digits=1)[0, :4, :4, 0] == 1).sum()
    )
    with pytest.raises(ValueError, match=r"expected \[B, H, W, C\] and \[B\]"):
        draw_number(image, jnp.array([1, 2]), zero, zero)
